"""What an object store's refusal means: the cause, and what to do.

S3 stores answer errors with a code in XML, HEAD requests with a bare status; MinIO has codes of its
own for a full disk and a full quota.
"""

import re
from collections.abc import Mapping
from typing import Final

from obstore.exceptions import InvalidPathError, PermissionDeniedError, UnauthenticatedError


class ObjectStoreError(Exception):
    """A request that an object store did not fulfil.

    Args:
        what: the object or bucket, as a URI without secrets.
        cause: why, in a sentence.
        remedy: what to do, in a sentence.
        code: the store's own error code, where it gave one.
    """

    def __init__(self, what: str, cause: str, remedy: str, code: str | None = None) -> None:
        """Keep the parts and put them together into one message."""
        said = f" ({code})" if code else ""
        super().__init__(f"{what}: {cause}{said}. Remedy: {remedy}")
        self.what = what
        self.cause = cause
        self.remedy = remedy
        self.code = code


class StoreAccessError(ObjectStoreError):
    """The key is unknown, wrong, expired, or not allowed to do this."""


class BucketMissingError(ObjectStoreError):
    """There is no such bucket."""


class StoreFullError(ObjectStoreError):
    """The disk or the bucket's quota is full."""


class StoreUnreachableError(ObjectStoreError):
    """Nothing answers at the address, or not in time. The same request may succeed later."""


class InvalidKeyError(ObjectStoreError):
    """A folder holds an object whose key can't be addressed, so nothing below it is listed."""


class StoreRefusedError(ObjectStoreError):
    """The store does not take the request as it is: the same one fails again."""


class StoreFailedError(ObjectStoreError):
    """The store answered with an error of its own. The same request may succeed later."""


_Explained = tuple[type[ObjectStoreError], str, str]

_KEY: Final = "compare the key with the one the store issued, or issue a new one"
_ROOM: Final = "free or add space, or raise the quota; then run again: nothing was written"
_ACCESS_DENIED: Final[_Explained] = (
    StoreAccessError,
    "the key is not allowed to do this",
    "grant it in the policy of the key's user, or use another key",
)
_UNKNOWN_KEY: Final[_Explained] = (
    StoreAccessError,
    "the store does not know this access key",
    _KEY,
)
_WRONG_SECRET: Final[_Explained] = (StoreAccessError, "the secret of the access key is wrong", _KEY)
_STALE: Final[_Explained] = (
    StoreAccessError,
    "the temporary key has expired",
    "run again: a new one is asked for",
)
_FULL: Final[_Explained] = (StoreFullError, "the store's disk is full", _ROOM)
_QUOTA: Final[_Explained] = (StoreFullError, "the bucket's quota is full", _ROOM)

_NO_OBJECT: Final = (None, "NoSuchKey")
_CODES: Final[Mapping[str, _Explained]] = {
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    # versitygw, under the status 404.
    "XAdminUserNotFound": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    "AccessDenied": _ACCESS_DENIED,
    "AccountProblem": _ACCESS_DENIED,
    "ExpiredToken": _STALE,
    "InvalidTokenId": _STALE,
    "RequestTimeTooSkewed": (
        StoreAccessError,
        "the clocks of this machine and of the store differ by more than 15 minutes",
        "set both clocks, best by NTP",
    ),
    "NoSuchBucket": (
        BucketMissingError,
        "there is no such bucket",
        "create it, or check its name and the store's address",
    ),
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _QUOTA,
    "QuotaExceeded": _QUOTA,
}
_STATUSES: Final[Mapping[int, _Explained]] = {401: _ACCESS_DENIED, 403: _ACCESS_DENIED, 507: _FULL}
_UNREACHABLE: Final[_Explained] = (
    StoreUnreachableError,
    "the store does not answer",
    "check that it runs, its address, and a proxy's exceptions; then run again",
)
_INVALID_KEY: Final[_Explained] = (
    InvalidKeyError,
    "the key of an object there has an empty part or a control character",
    "rename or remove that object by another client, such as mc",
)
_REFUSED: Final[_Explained] = (
    StoreRefusedError,
    "the store refuses the request",
    "look up the code in the store's documentation",
)
_FAILED: Final[_Explained] = (
    StoreFailedError,
    "the store failed",
    "look into the store's log, then run again",
)


_SIGNS: Final[Mapping[str, _Explained]] = {
    "No space left on device": _FULL,
    "StorageFull": _FULL,
    "HTTP error": _UNREACHABLE,
}
"""Words of the client's, where there was no answer."""
_KINDS: Final[Mapping[type[BaseException], _Explained]] = {
    InvalidPathError: _INVALID_KEY,
    PermissionDeniedError: _ACCESS_DENIED,
    UnauthenticatedError: _ACCESS_DENIED,
}


def error_of(what: str, text: str, kind: type[BaseException]) -> ObjectStoreError | None:
    """Return what a failed request means; None where it is that there is no such object.

    Args:
        what: the object or bucket, as a URI without secrets.
        text: what the client said, which holds the answer's status and body.
        kind: what the client raised.
    """
    code, status = _first(r"<Code>(\w+)</Code>", text), _first(r"status code: (\d{3})", text)
    if issubclass(kind, FileNotFoundError) and code in _NO_OBJECT:
        return None
    error, cause, remedy = _explain(text, code, status, kind)
    return error(what, cause, remedy, code or (status and f"HTTP {status}"))


def _explain(
    text: str, code: str | None, status: str | None, kind: type[BaseException]
) -> _Explained:
    if code is not None and code in _CODES:
        return _CODES[code]
    if status:
        return _STATUSES.get(int(status), _REFUSED if status.startswith("4") else _FAILED)
    for sign, explained in _SIGNS.items():
        if sign in text:
            return explained
    return _KINDS.get(kind, _FAILED)


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
