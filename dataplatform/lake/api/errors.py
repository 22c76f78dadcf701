"""What an API's refusal means: whether trying again helps, why it came, and what to do.

CoinGecko answers errors in four shapes,

    {"error": "coin not found"}
    {"status": 500, "error": "Internal Server Error"}
    {"error": {"status": {"error_code": 10012, "error_message": "…"}}}
    {"status": {"error_code": 429, "error_message": "…"}}

and its HTTP status alone misleads: a request for days that the plan does not include is a 401.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import orjson

TRANSIENT_STATUSES: Final = frozenset({408, 429})
_EXCERPT: Final = 300


class ApiError(Exception):
    """A request that was not answered.

    Args:
        request: what was asked, without secrets.
        cause: why it failed, in a sentence.
        remedy: what to do, in a sentence.
        status: the HTTP status, where there was an answer.
        code: the API's own error code, where it gave one.
    """

    def __init__(
        self,
        request: str,
        cause: str,
        remedy: str,
        *,
        status: int | None = None,
        code: int | None = None,
    ) -> None:
        """Keep the parts and put them together into one message."""
        super().__init__(f"{request}: {cause} → {remedy}")
        self.request = request
        self.cause = cause
        self.remedy = remedy
        self.status = status
        self.code = code


class PermanentApiError(ApiError):
    """The same request fails again: a person must change something first."""


class NotFoundError(PermanentApiError):
    """The API does not know what was asked for, such as a retired coin."""


class TransientApiError(ApiError):
    """The same request may succeed later.

    Args:
        retry_after: seconds that the API asked to wait, if it did.
    """

    def __init__(self, *args: Any, retry_after: float | None = None, **parts: Any) -> None:
        """Keep the parts and how long to wait."""
        super().__init__(*args, **parts)
        self.retry_after = retry_after


_KEY = "DATAPLATFORM_COINGECKO_API_KEY"
_TIER = "DATAPLATFORM_COINGECKO_TIER"

_REFUSED: Final = 10002
_CODES: Final[dict[int, tuple[str, str]]] = {
    _REFUSED: (
        "the key was refused (error 10002): it is wrong, or for another tier's host",
        f"check {_KEY}, and that {_TIER} (demo or pro) fits it",
    ),
    10005: (
        "this endpoint or parameter is not in the key's plan (error 10005)",
        "drop it from the selection, or use a key of a larger plan",
    ),
    10010: (
        "a pro key was sent to the demo host (error 10010)",
        f"set {_TIER}=pro",
    ),
    10011: (
        "a demo key was sent to the pro host (error 10011)",
        f"set {_TIER}=demo",
    ),
    10012: (
        "days older than 365 are not in the keyless and demo plans (error 10012)",
        "ask for partitions of the last 365 days, or use a pro key",
    ),
    1020: (
        "the API's firewall refused this address (error 1020)",
        "try from another network, or ask CoinGecko to allow this address",
    ),
}

_NO_KEY: Final = (
    "no API key was sent (error 10002)",
    f"set {_KEY}, and {_TIER} to demo or pro, whichever the key is for",
)

_STATUSES: Final[dict[int, tuple[str, str]]] = {
    400: ("the API does not understand the request", "compare its parameters with the API's page"),
    401: ("the API key is not valid", f"check {_KEY} and that {_TIER} fits it"),
    403: ("access is refused", f"check {_KEY}, its plan and {_TIER}"),
    404: ("the API does not know it", "check the coin ids in DATAPLATFORM_COINS"),
    408: ("the API timed out", "run again later"),
    422: ("a parameter is missing or wrong", "compare its parameters with the API's page"),
    429: (
        "too many calls for this address or key",
        "run again later, lower DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE, or set a demo key",
    ),
}


def error_of(
    status: int,
    body: bytes,
    request: str,
    retry_after: float | None = None,
    *,
    key_sent: bool = False,
) -> ApiError | None:
    """Return what an answer means as an error; None where it is none.

    Args:
        status: the HTTP status. An error body under status 200 is an error too.
        body: the answer's body.
        request: what was asked, without secrets.
        retry_after: seconds, from the answer's Retry-After header.
        key_sent: the request carried a key: the API's code is the same for none and a wrong one.
    """
    code, message = _parse(body)
    if status < 400 and code is None and message is None:  # noqa: PLR2004
        return None
    effective = code if status < 400 and code is not None else status  # noqa: PLR2004
    cause, remedy = _NO_KEY if code == _REFUSED and not key_sent else _explain(effective, code)
    said = f" (the API says: {message})" if message else ""
    if code not in _CODES and (effective in TRANSIENT_STATUSES or effective >= 500):  # noqa: PLR2004
        return TransientApiError(
            request, cause + said, remedy, status=status, code=code, retry_after=retry_after
        )
    kind = NotFoundError if effective == 404 else PermanentApiError  # noqa: PLR2004
    return kind(request, cause + said, remedy, status=status, code=code)


def retry_after_seconds(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for; it is a number or an HTTP date."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def _explain(effective: int, code: int | None) -> tuple[str, str]:
    if code in _CODES:
        return _CODES[code]
    if effective in _STATUSES:
        cause, remedy = _STATUSES[effective]
        return f"{cause} (HTTP {effective})", remedy
    if effective >= 500:  # noqa: PLR2004
        return f"the API failed (HTTP {effective})", "run again later"
    return f"the API refused (HTTP {effective})", "compare the request with the API's page"


def _parse(body: bytes) -> tuple[int | None, str | None]:
    """Return the error code and message of an error body of any shape; None twice for no error."""
    # An error is short; a page of coins is not parsed a second time here.
    if len(body) > 4096:  # noqa: PLR2004
        return None, None
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _parse_text(body.decode(errors="replace"))
    return _parse_object(parsed) if isinstance(parsed, dict) else (None, None)


def _parse_object(parsed: dict[str, Any]) -> tuple[int | None, str | None]:
    error = parsed.get("error")
    if isinstance(error, str):
        return None, error[:_EXCERPT]
    holder = error if isinstance(error, dict) else parsed
    status = holder.get("status")
    if isinstance(status, dict) and str(status.get("error_code", "")).isdigit():
        return int(status["error_code"]), str(status.get("error_message", ""))[:_EXCERPT] or None
    if isinstance(error, dict):
        return None, orjson.dumps(error).decode()[:_EXCERPT]
    return None, None


def _parse_text(text: str) -> tuple[int | None, str | None]:
    """Read the firewall's page, which is HTML or plain text."""
    found = re.search(r"error code:?\s*(?:</?\w+>\s*)*(\d{4,5})", text, re.IGNORECASE)
    return (int(found.group(1)), None) if found else (None, None)


def without_userinfo(url: str) -> str:
    """Return the address as it may be shown: without the user and password of a proxy."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
