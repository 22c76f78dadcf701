"""What a refusal of Vault means: whether trying again helps, why it came, and what to do.

Vault's HTTP status alone misleads: a token that is gone and a path that the token may not touch are
both a 403, and a wrong password, a lost race and a vanished lease are all a 400.
"""

from typing import ClassVar, Final

import requests
from hvac import exceptions as hvac_errors
from urllib3.exceptions import NewConnectionError

from dataplatform.lake.secrets import SecretError, SecretNotFoundError


class VaultError(SecretError):
    """A request that Vault did not carry out.

    Attributes:
        transient: the same request may succeed in a moment.
        perhaps_done: it may have been carried out, and only the answer was lost.
        said: Vault's own words.
    """

    transient: ClassVar[bool] = False
    perhaps_done: bool = False
    said: str = ""


class VaultSettingsError(VaultError):
    """An address, a role or a credential is missing or can't be read."""


class VaultUnreachableError(VaultError):
    """Nobody answers at the address, or not in time."""

    transient = True


class VaultStandbyError(VaultError):
    """The server stands by, and no active one can be found: an election is under way."""

    transient = True


class VaultBusyError(VaultError):
    """The server, or what stands before it, failed or limits the rate."""

    transient = True


class VaultSealedError(VaultError):
    """Vault is sealed or was never initialised: a person has to unseal it."""


class VaultTlsError(VaultError):
    """The server can't be trusted, or speaks no TLS where it should."""


class VaultLoginError(VaultError):
    """Vault refused the login."""


class VaultTokenExpiredError(VaultLoginError):
    """The token is expired or revoked, and there is no way to get another."""


class VaultForbiddenError(VaultError):
    """The token is valid, and its policies don't allow the request."""


class VaultNotFoundError(VaultError, SecretNotFoundError):
    """There is nothing at the path, or its version is deleted."""


class VaultConflictError(VaultError):
    """Somebody else wrote first: the version is not the one that was read."""


class VaultLeaseExpiredError(VaultError):
    """The lease is over or revoked, and with it the credentials."""


class VaultRefusedError(VaultError):
    """Vault does not accept the request as it is."""


_SAYINGS: Final[tuple[tuple[str, type[VaultError], str, str], ...]] = (
    (
        "vault is sealed",
        VaultSealedError,
        "Vault is sealed",
        "unseal it (`bao operator unseal`; the stack's, `dp stack restart vault`), or initialise it",
    ),
    (
        "standby mode",
        VaultStandbyError,
        "this server stands by",
        "wait for the election to end, and see that most servers are up",
    ),
    (
        "active cluster node not found",
        VaultStandbyError,
        "this server stands by and knows no active one",
        "wait for the election to end, and see that most servers are up",
    ),
    (
        "upgrading from non-versioned",
        VaultBusyError,
        "the KV engine was mounted a moment ago",
        "try again in a moment",
    ),
    (
        "check-and-set parameter did not match",
        VaultConflictError,
        "somebody else wrote first",
        "read it again, and decide anew",
    ),
    (
        "lease not found",
        VaultLeaseExpiredError,
        "the lease is over or revoked",
        "ask for new credentials",
    ),
    (
        "http request to an https server",
        VaultTlsError,
        "the server speaks TLS, and the address does not",
        "write https:// in DATAPLATFORM_VAULT_ADDR",
    ),
)

_CLASSES: Final[tuple[tuple[type[hvac_errors.VaultError], type[VaultError], str, str], ...]] = (
    (
        hvac_errors.Forbidden,
        VaultForbiddenError,
        "the token's policies don't allow it",
        "use the role whose policy names this path (docs/vault.md), or extend that policy",
    ),
    (
        hvac_errors.InvalidPath,
        VaultNotFoundError,
        "there is nothing at this path",
        "check the path and the mount, or run the bootstrap",
    ),
    (
        hvac_errors.VaultNotInitialized,
        VaultSealedError,
        "Vault was never initialised",
        "initialise it (`bao operator init`) and unseal it",
    ),
    (
        hvac_errors.VaultDown,
        VaultSealedError,
        "Vault is sealed or in maintenance",
        "see `bao status`, and unseal it",
    ),
    (
        hvac_errors.InvalidRequest,
        VaultRefusedError,
        "Vault does not accept the request",
        "compare it with Vault's answer",
    ),
)

_BUSY: Final = (VaultBusyError, "Vault failed", "see Vault's log and try again later")


def error_of(error: Exception, subject: str, address: str) -> VaultError:
    """Return what an exception of hvac or requests means.

    Args:
        error: the exception.
        subject: what was asked for, without secrets.
        address: Vault's address.
    """
    if isinstance(error, hvac_errors.VaultError):
        return _refusal(error, subject)
    if isinstance(error, requests.exceptions.SSLError):
        return VaultTlsError(
            subject,
            f"the certificate of {address} is not to be trusted ({_reason(error)})",
            "give the certificate authority's file in DATAPLATFORM_VAULT_CA_FILE, and a name that"
            " the certificate carries in DATAPLATFORM_VAULT_ADDR",
        )
    missed = VaultUnreachableError(
        subject,
        f"no answer from {address}",
        "see that Vault runs there, and check DATAPLATFORM_VAULT_ADDR",
    )
    missed.perhaps_done = not _never_sent(error)
    return missed


def standby_error(subject: str) -> VaultStandbyError:
    """Return what it means that a server stands by and nobody is active."""
    return VaultStandbyError(
        subject,
        "this server stands by and knows no active one",
        "wait for the election to end, and see that most servers are up",
    )


def login_error(error: VaultError, method: str) -> VaultError:
    """Return what a failed login means: a refused login is no forbidden path."""
    if not isinstance(error, VaultForbiddenError | VaultRefusedError | VaultNotFoundError):
        return error
    if method == "token":
        return VaultTokenExpiredError(
            error.subject,
            "the token is expired, revoked or wrong",
            "put a valid token into the file DATAPLATFORM_VAULT_CREDENTIAL_FILE names",
        )
    return VaultLoginError(
        error.subject,
        f"Vault refused the login by {method} ({error.said or error.cause})",
        "check DATAPLATFORM_VAULT_ROLE_ID and the file DATAPLATFORM_VAULT_CREDENTIAL_FILE names",
    )


def _refusal(error: hvac_errors.VaultError, subject: str) -> VaultError:
    # Vault lists its errors on lines of their own.
    said = " ".join(str(error.args[0] or "").split())[:300] if error.args else ""
    refusal = _explained(error, subject, said)
    refusal.said = said
    return refusal


def _explained(error: hvac_errors.VaultError, subject: str, said: str) -> VaultError:
    for fragment, kind, cause, remedy in _SAYINGS:
        if fragment in said.lower():
            return kind(subject, cause, remedy)
    for raised, kind, cause, remedy in _CLASSES:
        if isinstance(error, raised):
            return kind(subject, f"{cause} ({said})" if said else cause, remedy)
    kind, cause, remedy = _BUSY
    busy = kind(subject, f"{cause} ({said})" if said else cause, remedy)
    busy.perhaps_done = True
    return busy


def _never_sent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    wrapped = error.args[0] if error.args else None
    return isinstance(getattr(wrapped, "reason", None), NewConnectionError)


def _reason(error: Exception) -> str:
    # The innermost text says what is wrong; the outer ones repeat the address.
    return str(error).rpartition("SSLError(")[2].strip(") ")[:200]
