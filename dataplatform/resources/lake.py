"""The lake as a resource: raw files, Iceberg catalog and deployed views of one profile."""

from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

from dataplatform.lake.manifest import Origin, RawZone
from dataplatform.lake.object_store import ObjectStore, open_folder
from dataplatform.profiles import LocalLake

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog


class LakeResource(ConfigurableResource):
    """The embedded lake: folders and a SQLite catalog, opened when first used.

    Attributes:
        home: the state folder, `.dataplatform` by default.
        origin: live or recorded; None, the one that `dp run` used last.
    """

    home: str = ".dataplatform"
    # Dagster's config knows no Literal.
    origin: str | None = None

    @cached_property
    def folders(self) -> LocalLake:
        """Where everything lies."""
        if self.origin not in ("live", "recorded", None):
            raise ValueError(f"origin is live or recorded, not {self.origin!r}")
        return LocalLake(Path(self.home), self.origin)

    @property
    def lake_origin(self) -> Origin:
        """Whether this lake holds live or recorded data."""
        return self.folders.origin

    @property
    def store(self) -> ObjectStore:
        """The bucket `datalake`."""
        return open_folder(self.folders.datalake)

    @property
    def raw_zone(self) -> RawZone:
        """The raw files and their manifests."""
        return RawZone(self.store)

    def writer_lock(self, holder: str) -> AbstractContextManager[None]:
        """Return the lock that each writer of tables holds: a build, or maintenance.

        Args:
            holder: who to name to those who wait, such as a run's id.
        """
        from dataplatform.lake.writer_lock import lake_writer_lock

        return lake_writer_lock(self.folders.root, holder)

    def catalog(self) -> "Catalog":
        """Open the Iceberg catalog."""
        from dataplatform.lake.catalog import open_sqlite_catalog

        return open_sqlite_catalog(self.folders.catalog_db, self.folders.warehouse)

    def spark_conf(self) -> dict[str, str]:
        """Return the Spark settings that open the same catalog."""
        from dataplatform.lake.catalog import sqlite_spark_conf

        return sqlite_spark_conf(self.folders.catalog_db, self.folders.warehouse)
