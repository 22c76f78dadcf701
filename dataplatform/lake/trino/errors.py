"""What a refusal of Trino means: why it came, what to do, and whether trying again helps.

Trino names each error (`errorName`); its message alone says what and where. What never reached Trino
(network, TLS, sign-in) comes as exceptions of the client and of requests.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from requests import exceptions as http
from trino import exceptions as client

from dataplatform.lake.dialect import (
    EngineFailedError,
    FileMissingError,
    QueryError,
    missing_file,
)


class TrinoFailedError(EngineFailedError):
    """Trino could not do its work; the same statement may succeed later."""


class TrinoUnreachableError(TrinoFailedError):
    """No answer: nothing listens, the network is cut, or the connection broke."""


class TrinoBusyError(TrinoFailedError):
    """It answers, and does not take statements now: starting up, or too many are running."""


class TrinoAuthError(QueryError):
    """It does not know who asks: a wrong password or token, an untrusted certificate."""


class QueryMemoryError(TrinoFailedError):
    """A statement needed more memory than it may take."""


class QueryTimeError(TrinoFailedError):
    """A statement took longer than it may."""


class QueryCancelledError(QueryError):
    """Somebody ended the statement."""


class AccessDeniedError(QueryError):
    """The user may not do that."""


class TrinoSyntaxError(QueryError):
    """It is no SQL of Trino."""


class UnknownRelationError(QueryError):
    """A table, view or schema does not exist."""


class UnknownColumnError(QueryError):
    """A column does not exist."""


class UnknownCatalogError(QueryError):
    """Trino has no such catalog."""


class StaleViewError(QueryError):
    """A view's tables changed since it was deployed."""


_Meaning = tuple[type[QueryError], str]
_ASK_ADMIN: Final = "ask whoever administers Trino for the right"
_LESS: Final = "read fewer days or columns, or raise query.max-memory-per-node"
_LATER: Final = "try again later; the statements that run are on Trino's page"
_MEANINGS: Final[dict[str, _Meaning]] = {
    "SYNTAX_ERROR": (TrinoSyntaxError, "mend the SQL there"),
    "COLUMN_NOT_FOUND": (UnknownColumnError, "DESCRIBE lists a table's columns"),
    "TABLE_NOT_FOUND": (UnknownRelationError, "`dp tables` lists what there is"),
    "SCHEMA_NOT_FOUND": (UnknownRelationError, "SHOW SCHEMAS lists what there is"),
    "CATALOG_NOT_FOUND": (UnknownCatalogError, "SHOW CATALOGS lists what Trino has"),
    "MISSING_CATALOG_NAME": (UnknownCatalogError, "name the catalog"),
    "DIVISION_BY_ZERO": (QueryError, "divide by nullif(…, 0), which gives null instead"),
    "VIEW_IS_STALE": (StaleViewError, "materialize the view to deploy it again"),
    "INVALID_VIEW": (StaleViewError, "materialize the view to deploy it again"),
    "PERMISSION_DENIED": (AccessDeniedError, _ASK_ADMIN),
    "EXCEEDED_LOCAL_MEMORY_LIMIT": (QueryMemoryError, _LESS),
    "EXCEEDED_GLOBAL_MEMORY_LIMIT": (QueryMemoryError, _LESS),
    "CLUSTER_OUT_OF_MEMORY": (QueryMemoryError, _LATER),
    "EXCEEDED_TIME_LIMIT": (QueryTimeError, "read less, or raise `query_seconds`"),
    "EXCEEDED_CPU_LIMIT": (QueryTimeError, "read less, or raise the limit on CPU time"),
    "USER_CANCELED": (QueryCancelledError, "ask again, if it was not meant"),
    "ADMINISTRATIVELY_KILLED": (QueryCancelledError, "ask whoever administers Trino"),
    "ADMINISTRATIVELY_PREEMPTED": (QueryCancelledError, _LATER),
    "SERVER_STARTING_UP": (TrinoBusyError, "wait a minute and try again"),
    "SERVER_SHUTTING_DOWN": (TrinoBusyError, "wait until it is up again"),
    "QUERY_QUEUE_FULL": (TrinoBusyError, _LATER),
    "NO_NODES_AVAILABLE": (TrinoBusyError, "wait until its workers are up"),
}
RETRYABLE: Final = (TrinoUnreachableError, TrinoBusyError)
"""What a statement that changes nothing may meet once and not again."""

_STATUSES: Final[dict[int, tuple[type[QueryError], str, str]]] = {
    401: (TrinoAuthError, "it refuses the user or password", "check the secret `trino/…`"),
    403: (TrinoAuthError, "it lets the user in nowhere", _ASK_ADMIN),
    404: (TrinoUnreachableError, "what answers there is no Trino", "check DATAPLATFORM_TRINO_URL"),
    429: (TrinoBusyError, "too many requests", _LATER),
}


def understood(error: Exception, where: str) -> QueryError:
    """Return what an error of Trino's client means.

    Args:
        error: what the client raised.
        where: the server's address, without user and password.
    """
    if isinstance(error, client.TrinoQueryError):
        return _of_query(error)
    if isinstance(error, client.HttpError):
        return _of_status(str(error), where)
    if isinstance(error, client.DatabaseError) and not isinstance(error, client.OperationalError):
        # The client refuses by itself: a parameter of a type that it can't write, for one.
        return QueryError(str(error))
    return _of_connection(error, where)


def _of_query(error: client.TrinoQueryError) -> QueryError:
    if file := _missing_file(error.failure_info):
        return FileMissingError(file)
    message = " ".join(error.message.split())
    kind, remedy = _MEANINGS.get(error.error_name or "", (None, ""))
    if kind is None:
        internal = error.error_type != "USER_ERROR"
        kind = TrinoFailedError if internal else QueryError
        remedy = f"Trino's log has more: query {error.query_id}" if internal else ""
    if re.match(r"Catalog '.*' (not found|does not exist)", _without_place(message)):
        kind, remedy = _MEANINGS["CATALOG_NOT_FOUND"]
    return kind(f"{_placed(message)}. Remedy: {remedy}." if remedy else _placed(message))


def _missing_file(failure: Mapping[str, Any] | None) -> str | None:
    """Return the file that a failure, or what caused it, did not find."""
    while failure:
        message = failure.get("message") or ""
        if str(failure.get("type", "")).endswith(".FileNotFoundException"):
            return message
        if file := missing_file(message):
            return file
        failure = failure.get("cause")
    return None


_PLACE: Final = re.compile(r"^line (\d+):(\d+): ")


def _without_place(message: str) -> str:
    return _PLACE.sub("", message)


def _placed(message: str) -> str:
    """Return Trino's message with its place at the end: `… (line 1, column 8)`."""
    place = _PLACE.match(message)
    text = _without_place(message).rstrip(".")
    return f"{text} (line {place[1]}, column {place[2]})" if place else text


def _of_status(text: str, where: str) -> QueryError:
    found = re.match(r"error (\d{3})", text)
    status = int(found[1]) if found else 0
    kind, cause, remedy = _STATUSES.get(
        status, (TrinoBusyError, f"HTTP {status or text[:40]}", "wait a minute and try again")
    )
    return kind(f"Trino at {where}: {cause}. Remedy: {remedy}.")


def _of_connection(error: Exception, where: str) -> QueryError:
    """Read the chain of causes: the client wraps what requests and urllib3 say."""
    texts = " ".join(str(link) for link in _chain(error))
    if "CERTIFICATE_VERIFY_FAILED" in texts or "SSLError" in texts:
        return TrinoAuthError(
            f"Trino at {where}: its certificate is not trusted. Remedy: name the file of the"
            " authority that signed it, and the host as the certificate has it."
        )
    if isinstance(error, client.TrinoAuthError):
        return TrinoAuthError(
            f"Trino at {where}: a password or token goes over TLS only. Remedy: https://."
        )
    cause = "the connection was refused" if "refused" in texts else "no answer"
    if any(isinstance(link, http.Timeout) for link in _chain(error)) or "timed out" in texts:
        cause = "no answer in time"
    return TrinoUnreachableError(
        f"Trino at {where}: {cause}. Remedy: `dp stack up` starts it; else check"
        " DATAPLATFORM_TRINO_URL."
    )


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or current.__context__
    return links
