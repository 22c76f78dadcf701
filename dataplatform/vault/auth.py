"""How a token is got: one function a method, and where the credential for it is read."""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final

import hvac

from dataplatform.vault.errors import VaultSettingsError

CREDENTIAL_VARIABLE: Final = "DATAPLATFORM_VAULT_CREDENTIAL"
"""Holds the credential where no file is named."""
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True)
class Session:
    """A token and how long it lives.

    Attributes:
        token: what every request carries.
        seconds: its time to live when it was got; 0 where it never ends.
        renewable: whether Vault prolongs it.
        since: when it was got, by the monotonic clock.
    """

    token: str = field(repr=False)
    seconds: float
    renewable: bool
    since: float = field(default_factory=monotonic)

    @classmethod
    def of(cls, auth: Mapping[str, Any]) -> "Session":
        """Return the session that a login's or a renewal's `auth` describes."""
        return cls(auth["client_token"], float(auth["lease_duration"]), bool(auth["renewable"]))

    @property
    def due(self) -> bool:
        """Whether less than a third of its life is left."""
        return self.seconds > 0 and monotonic() - self.since > self.seconds * 2 / 3


@dataclass(frozen=True)
class Login:
    """Who logs in, and how.

    Attributes:
        method: token, approle, kubernetes or userpass.
        role: AppRole's role id, the Kubernetes role or the user's name.
        credential_file: holds the secret id, the password, the token or the JWT.
    """

    method: str
    role: str | None = None
    credential_file: Path | None = None

    def log_in(self, client: hvac.Client) -> Session:
        """Return a new session; the credential is read now, so a replaced file is noticed.

        Raises:
            VaultSettingsError: the role or the credential is missing.
        """
        if self.method not in _METHODS:
            raise VaultSettingsError(
                "Vault login",
                f"there is no method {self.method!r}",
                f"set DATAPLATFORM_VAULT_AUTH to one of {', '.join(_METHODS)}",
            )
        if self.method != "token" and not self.role:
            raise VaultSettingsError(
                f"Vault login by {self.method}",
                "no role is set",
                "set DATAPLATFORM_VAULT_ROLE_ID",
            )
        return _METHODS[self.method](client, self.role or "", self._credential())

    def _credential(self) -> str:
        file = self.credential_file
        if file is None and self.method == "kubernetes":
            file = SERVICE_ACCOUNT_TOKEN
        credential = _read(file) if file else os.environ.get(CREDENTIAL_VARIABLE, "").strip()
        if not credential:
            raise VaultSettingsError(
                f"Vault login by {self.method}",
                f"{file} is empty" if file else "no credential is set",
                "name the file that holds it in DATAPLATFORM_VAULT_CREDENTIAL_FILE",
            )
        return credential


def _read(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        text = file.read_text().strip()
    except OSError as error:
        raise VaultSettingsError(
            f"Vault's credential file {file}",
            f"it can't be read ({error.strerror})",
            "check DATAPLATFORM_VAULT_CREDENTIAL_FILE and who owns the file",
        ) from error
    # Kubernetes mounts its service account's token readable for all of the pod.
    if mode & stat.S_IROTH and file != SERVICE_ACCOUNT_TOKEN:
        raise VaultSettingsError(
            f"Vault's credential file {file}", "everybody may read it", f"chmod 600 {file}"
        )
    return text


def _token(client: hvac.Client, _role: str, credential: str) -> Session:
    client.token = credential
    found = client.auth.token.lookup_self()["data"]
    return Session(credential, float(found["ttl"]), bool(found.get("renewable")))


def _approle(client: hvac.Client, role: str, credential: str) -> Session:
    return Session.of(client.auth.approle.login(role, credential, use_token=False)["auth"])


def _kubernetes(client: hvac.Client, role: str, credential: str) -> Session:
    return Session.of(client.auth.kubernetes.login(role, credential, use_token=False)["auth"])


def _userpass(client: hvac.Client, role: str, credential: str) -> Session:
    return Session.of(client.auth.userpass.login(role, credential, use_token=False)["auth"])


_METHODS: Final[Mapping[str, Callable[[hvac.Client, str, str], Session]]] = {
    "token": _token,
    "approle": _approle,
    "kubernetes": _kubernetes,
    "userpass": _userpass,
}
