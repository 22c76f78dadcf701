"""The servers behind the profiles stack and cluster: addresses from the settings, secrets from Vault."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from dataplatform.addresses import in_database
from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import LakeServers, NotConfiguredError, ServerLake
from dataplatform.lake.secrets import MountedSecrets
from dataplatform.lake.store.object_store import S3Access

if TYPE_CHECKING:
    from dagster import ConfigurableResource

    from dataplatform.lake.secrets import SecretStore
    from dataplatform.lake.trino.client import TrinoClient
    from dataplatform.lake.view_engine import QueryEngine
    from dataplatform.lake.views import Relation
    from dataplatform.profiles import Settings

TRINO_CATALOGS: Final = {"live": "lake", "recorded": "recorded"}
"""Trino's catalog of each origin; both have the schemas `warehouse` and `analytics`."""


def required(settings: "Settings", name: str) -> str:
    """Return the address `name` among the settings.

    Raises:
        NotConfiguredError: it is not set; on `stack`, the servers are not up.
    """
    value = getattr(settings, name)
    if value:
        return str(value)
    variable = f"DATAPLATFORM_{name.upper()}"
    if settings.profile == "stack":
        raise NotConfiguredError(
            f"The stack is not up. Remedy: dp stack up, or set {variable} to the address of yours."
        )
    raise NotConfiguredError(
        f"The profile {settings.profile} needs {variable}, which is not set."
        " Remedy: set it to the address of yours."
    )


def require_servers(settings: "Settings") -> None:
    """Look that each server of the profile has an address; none is asked, `local` has none.

    Raises:
        NotConfiguredError: one has none; on `stack`, the servers are not up.
    """
    for name in _ADDRESSES if settings.profile != "local" else ():
        required(settings, name)


_ADDRESSES: Final = ("vault_addr", "postgres_url", "s3_endpoint", "catalog_uri", "trino_url")


class PlatformServers(LakeServers):
    """The servers that the settings name."""

    def __init__(self, settings: "Settings", secrets: "SecretStore") -> None:
        """Look up what opening a lake takes."""
        self._settings = settings
        self._secrets = secrets
        self.catalog_uri = required(settings, "catalog_uri")
        self.catalog_login = _catalog_login(secrets) if settings.catalog_auth == "oauth2" else {}
        key = secrets.read("minio/platform")
        self.access = S3Access(
            endpoint=required(settings, "s3_endpoint"),
            access_key=key["access_key"],
            secret_key=key["secret_key"],
            region=settings.s3_region,
        )

    def lock_dsn(self) -> str:
        """Return how Dagster's database is reached."""
        return self._dsn("dagster")

    def budget_dsn(self) -> str:
        """Return how the database of the API's budget is reached."""
        from dataplatform.lake.api.budget_store import DATABASE

        return self._dsn(DATABASE)

    def _dsn(self, database: str) -> str:
        from psycopg2.extensions import make_dsn

        address = required(self._settings, "postgres_url")
        login = self._secrets.read("postgres/dagster")
        return make_dsn(
            in_database(address, database),
            user=login["username"],
            password=login["password"],
            connect_timeout=10,
        )

    def open_engine(self, lake: ServerLake, declared: "Iterable[Relation]") -> "QueryEngine":
        """Return Trino over `lake`; it is asked nothing yet."""
        from dataplatform.lake.trino.engine import TrinoEngine

        return TrinoEngine(self.trino(lake.origin), lake.open_catalog(), lake.origin, declared)

    def trino(self, origin: Origin) -> "TrinoClient":
        """Return a client of Trino's catalog for `origin`; it is asked nothing yet."""
        from dataplatform.resources.trino import TrinoResource

        trino = TrinoResource.from_settings(self._settings)
        return trino.client(TRINO_CATALOGS[origin], self._secrets)


def _catalog_login(secrets: "SecretStore") -> Mapping[str, str]:
    from dataplatform.lake.catalog import CATALOG_LOGIN

    found = secrets.read("catalog/platform")
    return {name: found[name] for name in CATALOG_LOGIN if found.get(name)}


def build_server_resources(settings: "Settings") -> "dict[str, ConfigurableResource]":
    """Return the resources that only servers have, for users' own assets and the rotation job.

    None on `local`. Each asks its server when it is first used.
    """
    if settings.profile == "local":
        return {}
    from dataplatform.resources.minio import MinIOResource
    from dataplatform.resources.rotation import RotationResource
    from dataplatform.resources.trino import TrinoResource
    from dataplatform.resources.vault import VaultResource

    return {
        "vault": VaultResource.from_settings(settings),
        "minio": MinIOResource.from_settings(settings),
        "trino": TrinoResource.from_settings(settings),
        "rotation": RotationResource.from_settings(settings),
        "rotation_vault": VaultResource.for_rotation(settings),
    }


def find_servers(settings: "Settings") -> PlatformServers:
    """Return the servers of the profile stack or cluster.

    Raises:
        NotConfiguredError: an address is missing.
        SecretError: Vault does not give what opening a lake takes.
    """
    if settings.secrets_dir is not None:
        # In Spark's pods, where there is no Dagster; the resource that asks Vault is made of it.
        return PlatformServers(settings, MountedSecrets(settings.secrets_dir))
    from dataplatform.resources.vault import open_secrets

    return PlatformServers(settings, open_secrets(settings))
