"""What it means that a build failed by a server: which one it was, why, and what to do.

Spark, pyiceberg and psycopg2 each say it in their own way, Spark in a hundred lines. What our own
clients raise is clear by itself and left as it is.
"""

import re
from collections.abc import Iterator
from typing import Final

_STORE: Final = "The object store"
_CATALOG: Final = "The Iceberg catalog"
_POSTGRES: Final = "PostgreSQL"
_AGAIN: Final = "then run again: what was published is not built twice"
_LOOK: Final = f"see that it runs (`dp stack status`, `dp doctor`), {_AGAIN}"
_REASON: Final = 200
"""The most characters of a server's own words."""

_SIGNS: Final[tuple[tuple[str, str, str, str], ...]] = (
    (
        r"XMinioStorageFull|QuotaExceeded|[Qq]uota exceeded|No space left|minimum free drive",
        _STORE,
        "its disk or the bucket's quota is full",
        f"free or add space, or raise the quota, {_AGAIN}",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|ACCESS_DENIED|AccessDenied|Status Code: 403",
        _STORE,
        "it refuses the key",
        f"compare the secret minio/platform in Vault with the key that the store issued, {_AGAIN}",
    ),
    (
        r"password authentication failed",
        _POSTGRES,
        "it refuses the user or password",
        f"compare the secret postgres/… in Vault with the login that the server knows, {_AGAIN}",
    ),
    (r"psycopg2|PSQLException|UncheckedSQLException", _POSTGRES, "it failed", _LOOK),
    (
        r"awssdk|fs\.s3a|AWS Error|SdkClientException|S3Exception",
        _STORE,
        "it did not answer, or failed",
        f"see that it runs and has room (`dp stack status`, `dp doctor`), {_AGAIN}",
    ),
    (
        r"CommitStateUnknown",
        _CATALOG,
        "whether it took a commit is unknown, as its answer was lost",
        _LOOK,
    ),
    (
        r"RESTException|ServiceFailure|ServiceUnavailable|exceptions\.ServerError|requests\.exceptions",
        _CATALOG,
        "it did not answer, or failed",
        _LOOK,
    ),
)


class ServerFailedError(RuntimeError):
    """A server did not do its part; the same build may succeed later."""


def server_failure(error: BaseException) -> ServerFailedError | None:
    """Return what a failed build means, where a server is to blame and the error does not say so.

    Args:
        error: what the build raised; of a group, one member is enough.
    """
    if "Remedy: " in str(error):
        return None
    said = "\n".join(_said(error))
    for sign, server, cause, remedy in _SIGNS:
        if re.search(sign, said):
            return ServerFailedError(f"{server}: {cause} ({_reason(said)}). Remedy: {remedy}.")
    return None


def _said(error: BaseException) -> Iterator[str]:
    """Yield kind and words of an error, or of a group's members, and of what caused it."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _said(member)
    else:
        yield f"{type(error).__module__}.{type(error).__qualname__}: {error}"
    if error.__cause__ is not None:
        yield from _said(error.__cause__)


def _reason(said: str) -> str:
    """Return the innermost cause in a line: Java's last, or else Python's first."""
    causes = re.findall(r"^Caused by: (.+)", said, re.MULTILINE) or said.splitlines()[:1]
    return causes[-1][:_REASON].rstrip(".: ")
