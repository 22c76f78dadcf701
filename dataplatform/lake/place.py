"""Where a lake lies: its raw files, its catalog and its writers' lock; one lake an origin.

The API's budgets are where the lock is, and both lakes share them.

Everything that knows whether a lake is folders or servers is here: the rest asks a `LakePlace`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dataplatform.lake.manifest import Origin, RawZone
from dataplatform.lake.store.object_store import ObjectStore, S3Access, open_bucket, open_folder
from dataplatform.lake.writer_lock import StillWriter

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from dataplatform.lake.api.budget_store import BudgetStore
    from dataplatform.lake.catalog import CatalogServer
    from dataplatform.lake.view_engine import QueryEngine
    from dataplatform.lake.views import Relation

LOCK_SECONDS: Final = 3600.0
"""How long a writer waits for the one before it."""


class NotConfiguredError(RuntimeError):
    """A server that the profile needs has no address."""


class LakePlace(ABC):
    """One lake. Nothing is read or made before it is asked for."""

    def __init__(self, state: Path, origin: Origin | None = None) -> None:
        """Describe the lakes of one installation.

        Args:
            state: the folder that remembers which lake is in use.
            origin: live or recorded; None, the one that `dp run` used last.
        """
        self.state = state
        self._origin = origin

    @cached_property
    def origin(self) -> Origin:
        """The origin asked for, else the one that `dp run` used last, else live."""
        if self._origin is not None:
            return self._origin
        return "recorded" if self.remembered == "recorded" else "live"

    @property
    def remembered(self) -> str | None:
        """The origin that `dp run` used last; None before the first."""
        return self._memory.read_text().strip() if self._memory.exists() else None

    @property
    def _memory(self) -> Path:
        return self.state / "origin"

    def remember(self) -> None:
        """Make this origin the one that later commands use."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._memory.write_text(self.origin)

    @property
    def raw_zone(self) -> RawZone:
        """The raw files and their manifests."""
        return RawZone(self.store)

    def open_catalog(self) -> "Catalog":
        """Open the Iceberg catalog, once."""
        return self._catalog

    @cached_property
    def _catalog(self) -> "Catalog":
        return self.catalog_server.open()

    def spark_conf(self) -> dict[str, str]:
        """Return the settings with which a Spark session sees this lake."""
        return self.catalog_server.spark_conf()

    @abstractmethod
    def beside(self) -> "LakePlace":
        """Return the lake of the other origin, in the same place."""

    @property
    def _other(self) -> Origin:
        return "recorded" if self.origin == "live" else "live"

    @property
    @abstractmethod
    def store(self) -> ObjectStore:
        """The bucket `datalake`."""

    @property
    @abstractmethod
    def catalog_server(self) -> "CatalogServer":
        """The Iceberg catalog's description."""

    @property
    @abstractmethod
    def spark_jars(self) -> Mapping[str, str]:
        """The jars that Spark needs for it: Maven coordinate → SHA-256."""

    @property
    @abstractmethod
    def is_built(self) -> bool:
        """Whether there is a catalog to look into."""

    @property
    @abstractmethod
    def holds_data(self) -> bool:
        """Whether a raw file or a table is in it."""

    @property
    @abstractmethod
    def whereabouts(self) -> Mapping[str, str]:
        """What to show people: `raw files` and `tables` → folder or bucket; `lake` → the whole."""

    @abstractmethod
    def writer_lock(
        self, holder: str, timeout: float = LOCK_SECONDS
    ) -> AbstractContextManager[StillWriter]:
        """Return the lock that each writer of tables holds: a build, maintenance, a roll-back.

        Args:
            holder: who to name to those who wait, such as a run's id.
            timeout: seconds to wait for the present holder.

        Returns:
            what to ask, inside of it, before each step that must not be another writer's.
        """

    @abstractmethod
    def budget_store(self) -> "BudgetStore":
        """Return where all who ask the API, for either lake, share their budgets; not opened yet."""

    @abstractmethod
    def engine(self, declared: "Iterable[Relation]" = ()) -> "QueryEngine":
        """Return what answers SQL over this lake.

        Args:
            declared: relations that a run would build, to tell "not built yet" from "unknown".
        """


class LocalLake(LakePlace):
    """An embedded lake: folders and a SQLite catalog below `home`, one folder an origin."""

    def __init__(self, home: Path, origin: Origin | None = None) -> None:
        """Describe the lakes below `home`; nothing is read or made yet."""
        super().__init__(home, origin)
        self.home = home

    def beside(self) -> "LocalLake":
        """Return the lake in the other folder."""
        return LocalLake(self.home, self._other)

    @property
    def root(self) -> Path:
        """The folder of the lake in force."""
        return self.home.resolve() / self.origin

    @property
    def datalake(self) -> Path:
        """The bucket `datalake`: raw files."""
        return self.root / "datalake"

    @property
    def warehouse(self) -> Path:
        """The bucket `warehouse`: Iceberg tables."""
        return self.root / "warehouse"

    @property
    def catalog_db(self) -> Path:
        """The Iceberg catalog's SQLite file."""
        return self.root / "catalog.db"

    @property
    def views(self) -> Path:
        """The folder of deployed view definitions."""
        return self.root / "views"

    @property
    def store(self) -> ObjectStore:
        """The bucket `datalake`: a folder."""
        return open_folder(self.datalake)

    @property
    def catalog_server(self) -> "CatalogServer":
        """The SQLite catalog."""
        from dataplatform.lake.catalog import SqliteCatalog

        return SqliteCatalog(self.catalog_db, self.warehouse)

    @property
    def spark_jars(self) -> Mapping[str, str]:
        """Iceberg's runtime and the SQLite driver."""
        from dataplatform.versions import SPARK_JARS

        return SPARK_JARS

    @property
    def is_built(self) -> bool:
        """Whether the catalog's file is there."""
        return self.catalog_db.exists()

    @property
    def holds_data(self) -> bool:
        """Whether a raw file or a table is in the lake in force."""
        folders = (self.datalake, self.warehouse)
        return any(path.is_file() for folder in folders for path in folder.rglob("*"))

    @property
    def whereabouts(self) -> Mapping[str, str]:
        """The folders, as short as they can be typed from here."""
        places = {"raw files": self.datalake, "tables": self.warehouse, "lake": self.root}
        return {what: shown(path) for what, path in places.items()}

    def writer_lock(
        self, holder: str, timeout: float = LOCK_SECONDS
    ) -> AbstractContextManager[StillWriter]:
        """Return a lock on a file: the system frees it when its process dies."""
        from dataplatform.lake.writer_lock import file_lock

        return file_lock(self.root, holder, timeout)

    def budget_store(self) -> "BudgetStore":
        """Return a file, for all processes of this machine."""
        from dataplatform.lake.api.budget_store import SqliteStore

        return SqliteStore(self.home / "ratelimit.sqlite")

    def engine(self, declared: "Iterable[Relation]" = ()) -> "QueryEngine":
        """Return DuckDB over the current tables."""
        from dataplatform.lake.query import EmbeddedEngine

        return EmbeddedEngine(self, self.open_catalog(), declared)


class ServerLake(LakePlace):
    """A lake on servers: buckets of an S3 store, a REST catalog, Trino, a lock in PostgreSQL.

    Live data are in the buckets `datalake` and `warehouse`; recorded ones in `datalake-recorded`
    and `warehouse-recorded`, with a catalog of their own on the same server.
    """

    def __init__(
        self, state: Path, origin: Origin | None, servers: "Callable[[], LakeServers]"
    ) -> None:
        """Describe the lakes; the servers' addresses and secrets are asked for when first needed."""
        super().__init__(state, origin)
        self._find = servers

    @cached_property
    def servers(self) -> "LakeServers":
        """The servers, with the secrets that are current now."""
        return self._find()

    def beside(self) -> "ServerLake":
        """Return the lake in the other buckets, by the same secrets."""
        return ServerLake(self.state, self._other, lambda: self.servers)

    def bucket(self, name: str) -> str:
        """Return the bucket that plays the part `name` for this origin."""
        return bucket_of(name, self.origin)

    @property
    def store(self) -> ObjectStore:
        """The bucket `datalake`."""
        return self._store

    @cached_property
    def _store(self) -> ObjectStore:
        return open_bucket(self.servers.access, self.bucket("datalake"))

    @property
    def catalog_server(self) -> "CatalogServer":
        """The REST catalog of this origin."""
        from dataplatform.lake.catalog import RestCatalogServer

        uri = self.servers.catalog_uri.format(origin=self.origin)
        return RestCatalogServer(
            uri, self.bucket("warehouse"), self.servers.access, self.servers.catalog_login
        )

    @property
    def spark_jars(self) -> Mapping[str, str]:
        """Iceberg's runtime, and what speaks S3."""
        from dataplatform.versions import S3_JARS, SPARK_JARS

        return SPARK_JARS | S3_JARS

    @property
    def is_built(self) -> bool:
        """Whether the catalog holds a table."""
        from dataplatform.lake.spec import NAMESPACE

        return bool(self.open_catalog().list_tables(NAMESPACE))

    @property
    def holds_data(self) -> bool:
        """Whether a raw file or a table is in it."""
        return bool(self.store.folders("")) or self.is_built

    @property
    def whereabouts(self) -> Mapping[str, str]:
        """The buckets."""
        places = {"raw files": "datalake", "tables": "warehouse"}
        found = {what: f"s3://{self.bucket(name)}" for what, name in places.items()}
        return found | {"lake": self.servers.access.endpoint}

    def writer_lock(
        self, holder: str, timeout: float = LOCK_SECONDS
    ) -> AbstractContextManager[StillWriter]:
        """Return an advisory lock in PostgreSQL, which frees it when the holder is gone."""
        from dataplatform.lake.writer_lock import postgres_lock

        return postgres_lock(self.servers.lock_dsn(), f"lake {self.origin}", holder, timeout)

    def budget_store(self) -> "BudgetStore":
        """Return tables in PostgreSQL, for all pods and machines."""
        from dataplatform.lake.api.budget_store import PostgresStore

        return PostgresStore(self._budget_dsn)

    def _budget_dsn(self) -> str:
        # Not the servers' method: they are asked for when the budget is.
        return self.servers.budget_dsn()

    def engine(self, declared: "Iterable[Relation]" = ()) -> "QueryEngine":
        """Return Trino over the same catalog."""
        return self.servers.open_engine(self, declared)


def bucket_of(name: str, origin: str) -> str:
    """Return the bucket that plays the part `name` for an origin."""
    return name if origin == "live" else f"{name}-{origin}"


class LakeServers(ABC):
    """Addresses and present secrets of the servers that a `ServerLake` lies on."""

    access: S3Access
    catalog_uri: str
    catalog_login: Mapping[str, str]

    @abstractmethod
    def lock_dsn(self) -> str:
        """Return how PostgreSQL is reached for locks, as a libpq connection string."""

    @abstractmethod
    def budget_dsn(self) -> str:
        """Return how the database of the API's budget is reached, likewise."""

    @abstractmethod
    def open_engine(self, lake: ServerLake, declared: "Iterable[Relation]") -> "QueryEngine":
        """Return Trino over `lake`."""


def shown(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
