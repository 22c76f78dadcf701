"""What the rotation job talks to: Vault, and the servers whose secrets it replaces."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import Field

from dataplatform.resources.coingecko import TIERS
from dataplatform.resources.vault import VaultResource

if TYPE_CHECKING:
    from dataplatform.vault.consumers import CoinGeckoKey
    from dataplatform.vault.rotation import Rotatable, Rotation


class RotationResource(ConfigurableResource):
    """Rotates the platform's secrets; no field holds one.

    Attributes:
        vault: logs in as the role `rotation`.
        s3_endpoint: MinIO's address; None, its keys are not rotated, as for another S3 store.
        postgres_url: PostgreSQL's address without a user; None, its logins are not rotated.
        minio_users: consumers with keys to MinIO, each under a policy of its name.
        postgres_logins: consumers with a login to PostgreSQL, each as a group of its name.
        coingecko_tier: says how a new key is tried: pro, or else demo.
        coingecko_base_url: another address of the API, without user and password.
    """

    vault: VaultResource
    s3_endpoint: str | None = None
    postgres_url: str | None = None
    minio_users: list[str] = Field(default=["platform", "trino", "catalog"])
    postgres_logins: list[str] = Field(default=["dagster", "catalog", "trino"])
    coingecko_tier: str | None = None
    coingecko_base_url: str | None = None

    def rotation(self, min_age: timedelta) -> "Rotation":
        """Return the mechanism; nothing is asked yet.

        Args:
            min_age: a secret younger than this is not replaced.
        """
        from dataplatform.vault.rotation import Rotation

        return Rotation(self.vault.client, min_age)

    def consumers(self) -> "dict[str, Rotatable]":
        """Return who uses a secret that can be rotated, by the secret's path."""
        from dataplatform.vault.consumers import MinioUser, PostgresLogin
        from dataplatform.vault.postgres import PostgresServer

        root, superuser = self._reader("minio/root"), self._reader("postgres/superuser")
        found: list[Rotatable] = [self._coingecko_key()]
        if self.s3_endpoint:
            found += [MinioUser(name, self.s3_endpoint, root) for name in self.minio_users]
        if self.postgres_url:
            server = PostgresServer(self.postgres_url, superuser)
            found += [PostgresLogin(name, server) for name in self.postgres_logins]
        return {each.path: each for each in found}

    def _reader(self, path: str) -> "Callable[[], Mapping[str, str]]":
        return lambda: self.vault.read(path)

    def _coingecko_key(self) -> "CoinGeckoKey":
        from dataplatform.vault.consumers import CoinGeckoKey

        # Who has no key yet stages the first one: without a word on the tier, a demo key.
        rules = TIERS["pro" if self.coingecko_tier == "pro" else "demo"]
        return CoinGeckoKey(
            base_url=self.coingecko_base_url or rules.base_url,
            header=rules.header or "",
            probe="/key" if self.coingecko_tier == "pro" else "/ping",
        )
