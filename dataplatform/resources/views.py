"""The engine behind the schema `analytics` as a resource."""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

from dataplatform.lake.view_engine import ViewEngine
from dataplatform.resources.lake import LakeResource

if TYPE_CHECKING:
    from dataplatform.lake.query import EmbeddedEngine
    from dataplatform.lake.views import ViewSpec


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

    @abstractmethod
    def ensure_tables(self, view: "ViewSpec") -> None:
        """Create, empty, the declared tables that `view` reads and that were never built.

        The first run of a lake may be one endpoint's, by a schedule or a dropped file: what reads
        the others as well answers with the rows that there are.
        """


class EmbeddedViews(ViewsResource):
    """Profile local: the same Trino SQL on DuckDB.

    The lake is named as `LakeResource` names it, rather than nested: Dagster 1.13 warns of its own
    deprecated `dagster_run` whenever a resource holds another.

    Attributes:
        home: the state folder, `.dataplatform` by default.
        origin: live or recorded; None, the one that `dp run` used last.
    """

    home: str = ".dataplatform"
    # Dagster's config knows no Literal.
    origin: str | None = None

    @cached_property
    def _embedded(self) -> "EmbeddedEngine":
        from dataplatform.lake.query import EmbeddedEngine

        lake = LakeResource(home=self.home, origin=self.origin)
        return EmbeddedEngine(lake.folders, lake.catalog())

    @property
    def engine(self) -> ViewEngine:
        """DuckDB over the lake's current tables."""
        return self._embedded

    def ensure_tables(self, view: "ViewSpec") -> None:
        """Create them in the lake's catalog; those that exist are left alone."""
        from dataplatform.lake.schema import ensure_table, load_table
        from dataplatform.lake.spec import NAMESPACE
        from dataplatform.tables import all_specs

        catalog = LakeResource(home=self.home, origin=self.origin).catalog()
        for relation in view.references:
            spec = all_specs().get(relation.name) if relation.schema == NAMESPACE else None
            if spec is not None and load_table(catalog, spec.name) is None:
                ensure_table(catalog, spec)

    @property
    def engine_name(self) -> str:
        """DuckDB, with its version."""
        import duckdb

        return f"DuckDB {duckdb.__version__}"
