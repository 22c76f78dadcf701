"""The engine behind the schema `analytics` as a resource."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import PrivateAttr

from dataplatform.lake.view_engine import ViewEngine
from dataplatform.resources.lake import LakeResource

if TYPE_CHECKING:
    from dataplatform.lake.query import EmbeddedEngine


class ViewsResource(ConfigurableResource, ABC):
    """Where views are deployed and queried; each profile brings its own.

    Attributes:
        sample_rows: the most rows of a view that a run reads for its preview and plot.
    """

    sample_rows: int = 1000

    @abstractmethod
    def engine(self, lake: LakeResource) -> ViewEngine:
        """Return the engine over the run's lake, opened at the first call."""

    @property
    @abstractmethod
    def engine_name(self) -> str:
        """What to call it in metadata."""


class EmbeddedViews(ViewsResource):
    """Profile local: the same Trino SQL on DuckDB.

    The lake is an argument rather than nested: Dagster 1.13 warns of its own deprecated
    `dagster_run` whenever a resource holds another.
    """

    _engine: "EmbeddedEngine | None" = PrivateAttr(default=None)

    def engine(self, lake: LakeResource) -> ViewEngine:
        """Return DuckDB over the lake's current tables."""
        if self._engine is None:
            from dataplatform.lake.query import EmbeddedEngine

            self._engine = EmbeddedEngine(lake.folders, lake.catalog())
        return self._engine

    @property
    def engine_name(self) -> str:
        """DuckDB, with its version."""
        import duckdb

        return f"DuckDB {duckdb.__version__}"
