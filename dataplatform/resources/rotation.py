"""The servers whose secrets the rotation job replaces."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import Field

from dataplatform.profiles import Settings
from dataplatform.resources.coingecko import TIERS
from dataplatform.resources.vault import VaultResource

if TYPE_CHECKING:
    from dataplatform.vault.consumers import CoinGeckoKey
    from dataplatform.vault.rotation import Rotatable


class RotationResource(ConfigurableResource):
    """Who uses the secrets that are rotated, and where; no field holds one.

    Attributes:
        s3_endpoint: MinIO's address; None, its keys are not rotated, as for another S3 store.
        postgres_url: PostgreSQL's address without a user; None, its logins are not rotated.
        minio_users: consumers with keys to MinIO, each under a policy of its name.
        postgres_logins: consumers with a login to PostgreSQL, each as a group of its name.
        coingecko_tier: says how a new key is tried: pro, or else demo.
        coingecko_base_url: another address of the API, without user and password.
    """

    s3_endpoint: str | None = None
    postgres_url: str | None = None
    minio_users: list[str] = Field(default=["platform", "trino", "catalog"])
    postgres_logins: list[str] = Field(default=["dagster", "catalog", "trino"])
    coingecko_tier: str | None = None
    coingecko_base_url: str | None = None

    def consumers(self, vault: VaultResource) -> "dict[str, Rotatable]":
        """Return who uses a secret that can be rotated, by the secret's path; nothing is asked yet.

        Args:
            vault: where the administrators' secrets are read, when they are needed.
        """
        from dataplatform.vault.consumers import MinioUser, PostgresLogin
        from dataplatform.vault.postgres import PostgresServer

        def reader(path: str) -> "Callable[[], Mapping[str, str]]":
            return lambda: vault.read(path)

        found: list[Rotatable] = [self._coingecko_key()]
        if self.s3_endpoint:
            root = reader("minio/root")
            found += [MinioUser(name, self.s3_endpoint, root) for name in self.minio_users]
        if self.postgres_url:
            server = PostgresServer(self.postgres_url, reader("postgres/superuser"))
            found += [PostgresLogin(name, server) for name in self.postgres_logins]
        return {each.path: each for each in found}

    def _coingecko_key(self) -> "CoinGeckoKey":
        from dataplatform.vault.consumers import CoinGeckoKey

        # Who has no key yet stages the first one: without a word on the tier, a demo key.
        rules = TIERS["pro" if self.coingecko_tier == "pro" else "demo"]
        return CoinGeckoKey(
            base_url=self.coingecko_base_url or rules.base_url,
            header=rules.header or "",
            probe="/key" if self.coingecko_tier == "pro" else "/ping",
        )


def build_rotation_resources(settings: Settings) -> dict[str, ConfigurableResource]:
    """Return what the rotation job needs on servers; nothing on `local`, which has no such job."""
    if settings.profile == "local":
        return {}
    rotation = RotationResource(
        s3_endpoint=settings.s3_endpoint,
        postgres_url=settings.postgres_url,
        coingecko_tier=settings.coingecko_tier,
    )
    return {"rotation": rotation, "rotation_vault": VaultResource.for_rotation(settings)}
