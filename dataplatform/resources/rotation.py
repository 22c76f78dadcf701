"""The servers whose secrets the rotation job replaces."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field

from dataplatform.addresses import PostgresAddress, ServerAddress
from dataplatform.profiles import Settings
from dataplatform.resources.coingecko import TIERS
from dataplatform.resources.vault import VaultResource

if TYPE_CHECKING:
    from dataplatform.vault.consumers import CoinGeckoKey
    from dataplatform.vault.rotation import Rotatable


class RotationResource(ConfigurableResource):
    """Who uses the secrets that are rotated, and where; no field holds one.

    Attributes:
        s3_endpoint: the store's address; None, or another store than MinIO's: no keys are rotated.
        s3_region: the region that requests to it are signed for.
        postgres_url: PostgreSQL's address without a user; None, its logins are not rotated.
        minio_users: consumers with keys to MinIO, each under a policy of its name.
        postgres_logins: consumers with a login to PostgreSQL, each as a group of its name.
        coingecko_tier: says how a new key is tried: pro, or else demo.
        coingecko_base_url: another address of the API, without user and password.
    """

    # What is refused may hold a password: it is not repeated.
    model_config = ConfigDict(hide_input_in_errors=True)

    s3_endpoint: ServerAddress | None = None
    s3_region: str = "us-east-1"
    postgres_url: PostgresAddress | None = None
    minio_users: list[str] = Field(default=["platform", "trino", "catalog", "inbox"])
    postgres_logins: list[str] = Field(default=["dagster", "catalog", "trino"])
    coingecko_tier: str | None = None
    coingecko_base_url: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "RotationResource":
        """Describe the servers as the settings say; nothing is read or asked yet."""
        return cls(
            s3_endpoint=settings.s3_endpoint,
            s3_region=settings.s3_region,
            postgres_url=settings.postgres_url,
            coingecko_tier=settings.coingecko_tier,
        )

    def consumers(self, vault: VaultResource) -> "dict[str, Rotatable]":
        """Return who uses a secret that can be rotated, by the secret's path; only the store is asked, what it is.

        Args:
            vault: where the administrators' secrets are read, when they are needed.
        """
        from dataplatform.vault.consumers import MinioUser, PostgresLogin
        from dataplatform.vault.postgres import PostgresServer

        def reader(path: str) -> "Callable[[], Mapping[str, str]]":
            return lambda: vault.read(path)

        found: list[Rotatable] = [self._coingecko_key()]
        if self.s3_endpoint and not self.left_out:
            endpoint, root = self.s3_endpoint, reader("minio/root")
            found += [MinioUser(n, endpoint, root, self.s3_region) for n in self.minio_users]
        if self.postgres_url:
            server = PostgresServer(self.postgres_url, reader("postgres/superuser"))
            found += [PostgresLogin(name, server) for name in self.postgres_logins]
        return {each.path: each for each in found}

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """The paths of keys to a store that is not MinIO: who runs it makes them."""
        from dataplatform.lake.store.minio_admin import is_minio

        if self.s3_endpoint is None or is_minio(self.s3_endpoint):
            return ()
        return tuple(f"minio/{name}" for name in self.minio_users)

    def _coingecko_key(self) -> "CoinGeckoKey":
        from dataplatform.vault.consumers import CoinGeckoKey

        # Who has no key yet stages the first one: without a word on the tier, a demo key.
        rules = TIERS["pro" if self.coingecko_tier == "pro" else "demo"]
        return CoinGeckoKey(
            base_url=self.coingecko_base_url or rules.base_url,
            header=rules.header or "",
            probe="/key" if self.coingecko_tier == "pro" else "/ping",
        )
