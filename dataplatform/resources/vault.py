"""Vault as a resource, and the store of secrets that a profile has."""

import atexit
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dagster import ConfigurableResource, InitResourceContext
from pydantic import ConfigDict, PrivateAttr

from dataplatform.addresses import ServerAddress
from dataplatform.lake.secrets import EnvironmentSecrets, MountedSecrets, SecretStore
from dataplatform.profiles import Settings

if TYPE_CHECKING:
    from dataplatform.vault.client import Secret, VaultClient
    from dataplatform.vault.leases import DatabaseCredentials

ROTATION_ROLE: Final = "rotation"


class VaultResource(ConfigurableResource):
    """HashiCorp Vault, or OpenBao: secrets, database logins and encryption.

    No field holds a secret: Dagster keeps a resource's fields in its database. The secret id,
    password, token or JWT is read from `credential_file`, or from `DATAPLATFORM_VAULT_CREDENTIAL`
    where no file is named, when the first request is made and at each login after it. The token is
    renewed before it expires and replaced when it is gone.

    Every method raises a `VaultError` of `dataplatform.vault.errors`, which names cause and remedy:
    sealed, standby, unreachable, untrusted, login refused, token expired, forbidden, not found,
    conflict and lease expired are types of their own. Only what may pass is tried again.

    Attributes:
        address: such as `https://vault.example.org:8200`.
        auth: token, approle, kubernetes or userpass.
        role_id: AppRole's role id, the Kubernetes role or the user's name.
        credential_file: holds the secret id, the password, the token or the JWT; mode 0600. For
            kubernetes, the service account's token where none is named.
        ca_file: the certificate authority of Vault's TLS; None, the system's.
        timeout: seconds to wait for an answer.
        patience: seconds for all attempts at one request together.
    """

    # What is refused may hold a password: it is not repeated.
    model_config = ConfigDict(hide_input_in_errors=True)

    address: ServerAddress | None = None
    # Dagster's config knows no Literal.
    auth: str = "approle"
    role_id: str | None = None
    credential_file: str | None = None
    ca_file: str | None = None
    timeout: float = 10.0
    patience: float = 20.0
    _client: "VaultClient | None" = PrivateAttr(default=None)

    @classmethod
    def from_settings(cls, settings: Settings) -> "VaultResource":
        """Describe Vault as the settings say; nothing is read or asked yet."""
        return cls(
            address=settings.vault_addr,
            auth=settings.vault_auth,
            role_id=settings.vault_role_id,
            credential_file=_text(settings.vault_credential_file),
            ca_file=_text(settings.vault_ca_file),
        )

    @classmethod
    def for_rotation(cls, settings: Settings) -> "VaultResource":
        """Describe the same Vault for the role that may write what the others read."""
        own = settings.vault_rotation_credential_file or settings.vault_credential_file
        return cls(
            address=settings.vault_addr,
            auth=settings.vault_auth,
            role_id=ROTATION_ROLE,
            credential_file=_text(own),
            ca_file=_text(settings.vault_ca_file),
        )

    @property
    def client(self) -> "VaultClient":
        """The client, made when first used; it logs in at its first request.

        Raises:
            VaultSettingsError: no address is set.
        """
        with _lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def read(self, path: str, version: int | None = None) -> Mapping[str, str]:
        """Return the values of a secret; see `VaultClient.read`."""
        return self.secret(path, version).values

    def secret(self, path: str, version: int | None = None) -> "Secret":
        """Return a secret with its version and metadata; see `VaultClient.read`."""
        return self.client.read(path, version)

    def write(self, path: str, values: Mapping[str, str], *, cas: int) -> int:
        """Write a secret's next version where `cas` is the last; see `VaultClient.write`."""
        return self.client.write(path, values, cas=cas)

    def database_credentials(self, role: str) -> "AbstractContextManager[DatabaseCredentials]":
        """Give a database login for the length of a `with`; see the method of `VaultClient`."""
        return self.client.database_credentials(role)

    def encrypt(self, plaintext: bytes) -> str:
        """Return the ciphertext by the platform's transit key."""
        return self.client.encrypt(plaintext)

    def decrypt(self, ciphertext: str) -> bytes:
        """Return the plaintext of what `encrypt` returned."""
        return self.client.decrypt(ciphertext)

    def teardown_after_execution(self, context: InitResourceContext) -> None:  # noqa: ARG002
        """Revoke the run's token, and with it what it leased."""
        self.close()

    def close(self) -> None:
        """Revoke the token, and with it what it leased; the next request logs in again."""
        with _lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connect(self) -> "VaultClient":
        from dataplatform.vault.auth import Login
        from dataplatform.vault.client import VaultClient
        from dataplatform.vault.errors import VaultSettingsError

        if not self.address:
            raise VaultSettingsError(
                "Vault",
                "its address is not set",
                "`dp stack up` starts one, or set DATAPLATFORM_VAULT_ADDR",
            )
        file = Path(self.credential_file) if self.credential_file else None
        return VaultClient(
            self.address,
            Login(self.auth, self.role_id, file),
            ca_file=Path(self.ca_file) if self.ca_file else None,
            timeout=self.timeout,
            patience=self.patience,
        )


_lock = threading.Lock()
_shared: Final[dict[tuple[object, ...], VaultResource]] = {}
"""What `open_secrets` gave out in this process: who asks often shares one token."""


def open_secrets(settings: Settings) -> SecretStore:
    """Return where the profile's secrets are read from; nothing is read yet.

    A process logs in to Vault once as the same role, and revokes its token when it ends.

    Args:
        settings: on `local` the environment and `.env` answer, elsewhere Vault; mounted files
            wherever `secrets_dir` names them.
    """
    if settings.secrets_dir is not None:
        return MountedSecrets(settings.secrets_dir)
    if settings.profile != "local":
        return _shared_vault(VaultResource.from_settings(settings))
    from dotenv import dotenv_values

    from_file = {name: value for name, value in dotenv_values(".env").items() if value}
    return EnvironmentSecrets({**from_file, **os.environ})


def _shared_vault(described: VaultResource) -> VaultResource:
    who = (described.address, described.auth, described.role_id)
    with _lock:
        return _shared.setdefault((*who, described.credential_file, described.ca_file), described)


@atexit.register
def close_shared() -> None:
    """Revoke the tokens of this process; who asks again logs in again."""
    for vault in _shared.values():
        vault.close()


def _forget_parents() -> None:
    """Leave a fork's parent its tokens, and a lock that another thread of it may have held."""
    global _lock  # noqa: PLW0603  a lock can't be made free from outside
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_forget_parents)


def _text(path: Path | None) -> str | None:
    return str(path) if path else None
