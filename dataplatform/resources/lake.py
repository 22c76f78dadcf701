"""The lake as a resource: raw files, Iceberg catalog and deployed views of one profile."""

from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, InitResourceContext
from pydantic import PrivateAttr

from dataplatform.lake.manifest import Origin, RawZone
from dataplatform.lake.place import LakePlace
from dataplatform.lake.store.object_store import ObjectStore
from dataplatform.lake.writer_lock import StillWriter
from dataplatform.profiles import ORIGIN_TAG, Settings, lake_place
from dataplatform.raw import all_endpoints

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from dataplatform.lake.plan import Lake


class LakeResource(ConfigurableResource):
    """The lake that assets read and write, opened when first used.

    A run works on one lake from its start to its end: whatever else needs the lake is given this
    resource rather than told where it lies.

    Attributes:
        home: the state folder, `.dataplatform` by default.
        origin: live or recorded; None, the one that `dp run` used last.
        profile: local, stack or cluster. Where the servers of the latter two are, and their
            secrets, is no field: Dagster would store it.
    """

    home: str = ".dataplatform"
    # Dagster's config knows no Literal.
    origin: str | None = None
    profile: str = "local"
    _of_run: str | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Settle which lake a run works on, and note it on the run for those that retry it.

        A tag that is there decides: the sensor that asked for the run had that lake in view, or the
        run is tried again.
        """
        if context.run is None or context.instance is None:
            return
        self._of_run = context.run.tags.get(ORIGIN_TAG)
        if self.lake_origin != self._of_run:
            context.instance.add_run_tags(context.run.run_id, {ORIGIN_TAG: self.lake_origin})

    @cached_property
    def place(self) -> LakePlace:
        """Where everything lies."""
        origin = self._of_run or self.origin
        if origin not in ("live", "recorded", None):
            raise ValueError(f"origin is live or recorded, not {origin!r}")
        chosen = Settings.model_validate({"profile": self.profile, "home": Path(self.home)})
        return lake_place(chosen, origin)

    @property
    def lake_origin(self) -> Origin:
        """Whether this lake holds live or recorded data."""
        return self.place.origin

    @property
    def store(self) -> ObjectStore:
        """The bucket `datalake`."""
        return self.place.store

    @property
    def raw_zone(self) -> RawZone:
        """The raw files and their manifests."""
        return self.place.raw_zone

    def writer_lock(self, holder: str) -> AbstractContextManager[StillWriter]:
        """Return the lock that each writer of tables holds: a build, or maintenance.

        Args:
            holder: who to name to those who wait, such as a run's id.
        """
        return self.place.writer_lock(holder)

    def catalog(self) -> "Catalog":
        """Open the Iceberg catalog, once."""
        return self.place.open_catalog()

    def build_target(self) -> "Lake":
        """Return what tables are built in: this lake with every declared endpoint."""
        from dataplatform.lake.plan import Lake

        return Lake.at(self.place, all_endpoints())
