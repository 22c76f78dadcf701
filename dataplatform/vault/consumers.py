"""Who uses a secret, and how a new one is made, installed and tried: MinIO, PostgreSQL, CoinGecko."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from dataplatform.vault.layout import new_secret
from dataplatform.vault.postgres import PostgresServer
from dataplatform.vault.rotation import RotationError, idle_slot

if TYPE_CHECKING:
    from dataplatform.lake.store.errors import ObjectStoreError
    from dataplatform.lake.store.s3 import S3Access

Values = Callable[[], Mapping[str, str]]
"""Reads an administrator's secret, when it is first needed."""

_SECONDS: Final = 10.0


@dataclass(frozen=True)
class MinioUser:
    """A consumer's keys to MinIO: two users under one policy.

    Attributes:
        name: the consumer's, and its policy's, which has to be there.
        endpoint: MinIO's address, such as `http://127.0.0.1:9000`.
        root: reads `minio/root`.
        region: the one that requests are signed for.
    """

    name: str
    endpoint: str
    root: Values = field(repr=False)
    region: str = "us-east-1"

    @property
    def path(self) -> str:
        """Where the keys are."""
        return f"minio/{self.name}"

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str]:
        """Return new keys for the idle user."""
        user = idle_slot(self.name, current.get("access_key"))
        return {"access_key": user, "secret_key": new_secret()}

    def install(self, secret: Mapping[str, str]) -> None:
        """Make the user or give it the new key, under the consumer's policy."""
        from dataplatform.lake.store.errors import ObjectStoreError
        from dataplatform.lake.store.minio_admin import MinIOAdmin

        try:
            admin = MinIOAdmin(self._access(self.root()))
            admin.ensure_user(secret["access_key"], secret["secret_key"], self.name)
        except ObjectStoreError as error:
            raise RotationError(
                f"rotation of {self.path}",
                f"MinIO at {self.endpoint} did not take the new keys ({_reason(error)})",
                f"check minio/root in Vault, and that the policy {self.name} exists",
            ) from error

    # A node of a distributed MinIO learns of a new key from the others, a moment later.
    @retry(
        retry=retry_if_exception_type(RotationError),
        stop=stop_after_delay(5),
        wait=wait_fixed(0.5),
        reraise=True,
    )
    def verify(self, secret: Mapping[str, str]) -> None:
        """Sign a request with the new keys; what they may do is the policy's affair."""
        from dataplatform.lake.store.errors import ObjectStoreError
        from dataplatform.lake.store.minio_admin import is_accepted

        try:
            if is_accepted(self._access(secret)):
                return
        except ObjectStoreError as error:
            raise self._unusable(_reason(error)) from error
        raise self._unusable("the store refuses the signature")

    def _unusable(self, reason: str) -> RotationError:
        return RotationError(
            f"rotation of {self.path}",
            f"the new keys don't work at {self.endpoint} ({reason})",
            "see the store's log, clock and region, and run it again",
        )

    def _access(self, key: Mapping[str, str]) -> "S3Access":
        from dataplatform.lake.store.s3 import S3Access

        return S3Access(self.endpoint, self.region, key["access_key"], key["secret_key"])


@dataclass(frozen=True)
class PostgresLogin:
    """A consumer's login to PostgreSQL: two login roles that act as one group, which owns things.

    Attributes:
        name: the consumer's and the group's.
        server: where it logs in.
    """

    name: str
    server: PostgresServer

    @property
    def path(self) -> str:
        """Where the login is."""
        return f"postgres/{self.name}"

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str]:
        """Return a new password for the idle login role."""
        role = idle_slot(self.name, current.get("username"))
        return {"username": role, "password": new_secret()}

    def install(self, secret: Mapping[str, str]) -> None:
        """Make the login role or give it the new password, as a member of the group."""
        import psycopg2

        try:
            self.server.set_login(secret["username"], secret["password"], group=self.name)
        except psycopg2.Error as error:
            raise RotationError(
                f"rotation of {self.path}",
                f"PostgreSQL at {self.server.address} did not take the new password ({error})",
                "check postgres/superuser in Vault, and that the server runs",
            ) from error

    def verify(self, secret: Mapping[str, str]) -> None:
        """Log in with the new password."""
        import psycopg2

        try:
            self.server.connect(secret["username"], secret["password"]).close()
        except psycopg2.Error as error:
            raise RotationError(
                f"rotation of {self.path}",
                f"the new login does not work at {self.server.address} ({error})",
                "see PostgreSQL's log and pg_hba.conf, and run it again",
            ) from error


@dataclass(frozen=True)
class CoinGeckoKey:
    """The API key, which only a person can get: it is staged by hand, tried, then made current.

    Attributes:
        base_url: the API's address.
        header: the header that carries the key.
        probe: what is asked with it, such as `/ping`.
    """

    base_url: str = field(repr=False)
    header: str
    probe: str = "/ping"
    path: str = "coingecko"

    def propose(self, current: Mapping[str, str]) -> None:  # noqa: ARG002
        """Return nothing: the API makes no keys."""
        return

    def install(self, secret: Mapping[str, str]) -> None:
        """Do nothing: the API knows the key already, and the old one until it is revoked there."""

    def verify(self, secret: Mapping[str, str]) -> None:
        """Ask the API once with the key."""
        import httpx

        from dataplatform.lake.api.errors import error_of

        key = secret.get("api_key", "").strip()
        if not key.isascii() or not key.isprintable() or not key:
            raise self._unusable("it is empty or no header can carry it")
        try:
            answer = httpx.get(
                self.base_url + self.probe, headers={self.header: key}, timeout=_SECONDS
            )
        except httpx.HTTPError as error:
            raise self._unusable(f"the API does not answer, {type(error).__name__}") from error
        refusal = error_of(answer.status_code, answer.content, self.probe, key_sent=True)
        if refusal:
            # The API's own words might repeat what was sent.
            raise self._unusable(f"the API answers HTTP {refusal.status}, code {refusal.code}")

    def _unusable(self, reason: str) -> RotationError:
        return RotationError(
            f"rotation of {self.path}",
            f"the key staged at rotation/{self.path} does not work ({reason})",
            "stage a valid key of the tier in force; until then the current one stays",
        )


def _reason(error: "ObjectStoreError") -> str:
    return f"{error.cause}, {error.code}" if error.code else error.cause
