"""Vault's client: a token that is kept alive, typed errors, and the engines the platform uses."""

import base64
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import RLock
from typing import Any, Final, TypeVar

import hvac
import requests
from hvac.exceptions import VaultError as HvacError
from tenacity import RetryCallState, Retrying, stop_after_delay, wait_random_exponential

from dataplatform.lake.secrets import forms_of
from dataplatform.vault.auth import Login, Session
from dataplatform.vault.errors import (
    VaultError,
    VaultForbiddenError,
    VaultNotFoundError,
    VaultRefusedError,
    VaultTlsError,
    VaultUnreachableError,
    error_of,
    login_error,
    standby_error,
)
from dataplatform.vault.leases import DatabaseCredentials, Lease, kept_alive

T = TypeVar("T")

MOUNT: Final = "dataplatform"
"""Where the KV engine is mounted; the transit key has the same name."""
_LONGEST_WAIT: Final = 5.0
_STANDBY_STATUS: Final = 429


@dataclass(frozen=True)
class Secret:
    """One version of a secret.

    Attributes:
        values: name to value.
        version: 1 for the first.
        created_at: when this version was written, by Vault's clock.
        metadata: what was noted with the secret, such as `rotated_at`.
    """

    values: Mapping[str, str] = field(repr=False)
    version: int
    created_at: datetime
    metadata: Mapping[str, str]


class VaultClient:
    """Talks to one Vault as one role.

    Args:
        address: such as `https://vault.example.org:8200`.
        login: who logs in, and how.
        ca_file: the certificate authority of its TLS; None, the system's.
        timeout: seconds to wait for an answer.
        patience: seconds for all attempts at one request together.

    Raises:
        VaultTlsError: the authority's file is not there.
    """

    def __init__(
        self,
        address: str,
        login: Login,
        *,
        ca_file: Path | None = None,
        timeout: float = 10.0,
        patience: float = 20.0,
    ) -> None:
        if ca_file and not ca_file.is_file():
            raise VaultTlsError(
                f"Vault's certificate authority {ca_file}",
                "there is no such file",
                "correct DATAPLATFORM_VAULT_CA_FILE",
            )
        self.address = address
        self._login = login
        self._patience = patience
        self._lock = RLock()
        self._session: Session | None = None
        self._http = requests.Session()
        self._http.verify = str(ca_file) if ca_file else True
        self._timeout = timeout

    def call(
        self, subject: str, request: Callable[[hvac.Client], T], *, repeatable: bool = True
    ) -> T:
        """Return the answer to a request, with a token that lives.

        A token that is gone is replaced once. What may pass (no answer, an election, a 5xx) is
        tried again.

        Args:
            subject: what is asked for, for messages; no secret.
            request: asks Vault.
            repeatable: whether doing it twice is like doing it once. If not, it is tried again
                only where the first attempt surely never arrived.

        Raises:
            VaultError: the kind says what went wrong.
        """

        def worth_it(state: RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if not isinstance(error, VaultError):
                return False
            return error.transient and (repeatable or not error.perhaps_done)

        attempts = Retrying(
            stop=stop_after_delay(self._patience),
            wait=wait_random_exponential(0.2, max=_LONGEST_WAIT),
            retry=worth_it,
            reraise=True,
        )
        return attempts(self._once, subject, request)

    def read(self, path: str, version: int | None = None) -> Secret:
        """Return a secret of the KV engine.

        Args:
            path: such as `minio/platform`.
            version: None for the newest.

        Raises:
            VaultNotFoundError: there is no secret, or this version is deleted.
            VaultError: any other reason.
        """
        answer = self.call(
            f"secret {path}",
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                path, version, mount_point=MOUNT, raise_on_deleted_version=True
            ),
        )
        about = answer["data"]["metadata"]
        return Secret(
            values=answer["data"]["data"],
            version=int(about["version"]),
            created_at=datetime.fromisoformat(about["created_time"]),
            metadata=about.get("custom_metadata") or {},
        )

    def write(self, path: str, values: Mapping[str, str], *, cas: int) -> int:
        """Write the next version of a secret, and return its number.

        Args:
            path: such as `minio/platform`.
            values: name to value.
            cas: the version that this one follows; 0 where there must be none.

        Raises:
            VaultConflictError: somebody else wrote first.
            VaultError: any other reason.
        """
        forms = forms_of(path)
        if forms and set(values) not in map(set, forms):
            expected = " or ".join(", ".join(form) for form in forms)
            raise VaultRefusedError(
                f"secret {path}",
                f"it has the values {expected}, not {', '.join(sorted(values))}",
                "write these",
            )
        answer = self.call(
            f"secret {path}",
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(
                path, dict(values), cas=cas, mount_point=MOUNT
            ),
            repeatable=False,
        )
        return int(answer["data"]["version"])

    def last_version(self, path: str) -> int:
        """Return the number of a secret's last version, deleted or not; 0 where there is none."""
        try:
            answer = self.call(
                f"metadata of {path}",
                lambda vault: vault.secrets.kv.v2.read_secret_metadata(path, mount_point=MOUNT),
            )
        except VaultNotFoundError:
            return 0
        return int(answer["data"]["current_version"])

    def annotate(self, path: str, **metadata: str) -> None:
        """Note something with a secret, beside what is noted there; no secrets."""
        noted = {**self.read(path).metadata, **metadata}
        self.call(
            f"metadata of {path}",
            # hvac's own method also sets when versions are deleted, which the role may not.
            lambda vault: vault.write_data(
                f"{MOUNT}/metadata/{path}", data={"custom_metadata": noted}
            ),
        )

    def encrypt(self, plaintext: bytes, key: str = MOUNT) -> str:
        """Return the ciphertext, such as `vault:v1:…`, by a key that never leaves Vault."""
        encoded = base64.b64encode(plaintext).decode()
        answer = self.call(
            f"transit key {key}", lambda vault: vault.secrets.transit.encrypt_data(key, encoded)
        )
        return answer["data"]["ciphertext"]

    def decrypt(self, ciphertext: str, key: str = MOUNT) -> bytes:
        """Return the plaintext of a ciphertext of the same key.

        Raises:
            VaultRefusedError: the ciphertext is not of this key.
        """
        answer = self.call(
            f"transit key {key}", lambda vault: vault.secrets.transit.decrypt_data(key, ciphertext)
        )
        return base64.b64decode(answer["data"]["plaintext"])

    @contextmanager
    def database_credentials(self, role: str) -> Generator[DatabaseCredentials]:
        """Give a PostgreSQL login for the length of a `with`; it is renewed meanwhile, then revoked.

        Args:
            role: a role of the database engine, such as `reader`.

        Raises:
            VaultError: no credentials are to be had.
        """
        answer = self.call(
            f"database role {role}",
            lambda vault: vault.secrets.database.generate_credentials(role),
            repeatable=False,
        )
        lease = Lease(self, answer["lease_id"], float(answer["lease_duration"]))
        credentials = DatabaseCredentials(**answer["data"], lease=lease)
        with kept_alive(lease):
            yield credentials

    def close(self) -> None:
        """Revoke the token that this client got by a login, and with it what it leased."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None and self._login.method != "token":
            # Who can't reach Vault any more has a token that ends by itself.
            with suppress(HvacError, requests.RequestException):
                self._vault(session.token).auth.token.revoke_self()
        self._http.close()

    def _once(self, subject: str, request: Callable[[hvac.Client], T]) -> T:
        session = self._session_for_request()
        vault = self._vault(session.token)
        try:
            with self._typed(subject):
                return request(vault)
        except VaultForbiddenError:
            if self._is_known(vault):
                raise
        self._forget(session)
        vault = self._vault(self._session_for_request().token)
        with self._typed(subject):
            return request(vault)

    def _session_for_request(self) -> Session:
        try:
            return self._live_session()
        except VaultError as error:
            # Whatever became of the login, the request itself was not sent.
            error.perhaps_done = False
            raise

    def _live_session(self) -> Session:
        with self._lock:
            session = self._session
            if session is None:
                session = self._log_in()
            elif session.due:
                session = self._renewed(session) or self._log_in()
            self._session = session
            return session

    def _log_in(self) -> Session:
        try:
            with self._typed("Vault login"):
                return self._login.log_in(self._vault())
        except VaultError as error:
            raise login_error(error, self._login.method) from error

    def _renewed(self, session: Session) -> Session | None:
        """Return the prolonged session; None where it is at its longest, or gone."""
        if not session.renewable:
            return None
        try:
            with self._typed("Vault's token"):
                answer: dict[str, Any] = self._vault(session.token).auth.token.renew_self()
        except (VaultForbiddenError, VaultRefusedError):
            return None
        renewed = Session.of(answer["auth"])
        return renewed if renewed.seconds > session.seconds / 3 else None

    def _is_known(self, vault: hvac.Client) -> bool:
        """Whether Vault still knows the token: a 403 alone does not say."""
        try:
            with self._typed("Vault's token"):
                vault.auth.token.lookup_self()
        except VaultForbiddenError:
            return False
        return True

    def _forget(self, session: Session) -> None:
        with self._lock:
            # Another thread may have got a new one meanwhile.
            if self._session is session:
                self._session = None

    def _vault(self, token: str | None = None) -> hvac.Client:
        vault = hvac.Client(
            self.address, token, session=self._http, timeout=self._timeout, verify=self._http.verify
        )
        if token is None:
            # hvac would take one from VAULT_TOKEN or a file in the home folder.
            vault.token = None
        return vault

    @contextmanager
    def _typed(self, subject: str) -> Generator[None]:
        try:
            yield
        except (HvacError, requests.RequestException) as error:
            raise self._explained(error_of(error, subject, self.address)) from error

    def _explained(self, error: VaultError) -> VaultError:
        """Return why nothing came: a server that stands by points at an active one that is gone."""
        if not isinstance(error, VaultUnreachableError) or not self._stands_by():
            return error
        waiting = standby_error(error.subject)
        waiting.perhaps_done = error.perhaps_done
        return waiting

    def _stands_by(self) -> bool:
        try:
            health = self._vault().adapter.get("/v1/sys/health", raise_exception=False)
        except requests.RequestException:
            return False
        # The parsed body where all is well, else the response.
        return getattr(health, "status_code", None) == _STANDBY_STATUS
