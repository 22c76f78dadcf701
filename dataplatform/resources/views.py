"""The engine behind the schema `analytics` as a resource."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

from dataplatform.lake.view_engine import ViewEngine
from dataplatform.resources.lake import LakeResource

if TYPE_CHECKING:
    from dataplatform.lake.query import EmbeddedEngine


class ViewsResource(ConfigurableResource, ABC):
    """Where views are deployed and queried; each profile brings its own."""

    @property
    @abstractmethod
    def engine(self) -> ViewEngine:
        """The engine, opened when first used."""

    @property
    @abstractmethod
    def engine_name(self) -> str:
        """What to call it in metadata."""


class EmbeddedViews(ViewsResource):
    """Profile local: the same Trino SQL on DuckDB.

    Attributes:
        lake: the lake whose tables the views read.
    """

    lake: LakeResource

    @cached_property
    def _embedded(self) -> "EmbeddedEngine":
        from dataplatform.lake.query import EmbeddedEngine

        return EmbeddedEngine(self.lake.folders, self.lake.catalog())

    @property
    def engine(self) -> ViewEngine:
        """DuckDB over the lake's current tables."""
        return self._embedded

    @property
    def engine_name(self) -> str:
        """DuckDB, with its version."""
        import duckdb

        return f"DuckDB {duckdb.__version__}"
