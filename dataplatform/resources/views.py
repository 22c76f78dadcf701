"""The engine behind the schema `analytics` as a resource."""

from dagster import ConfigurableResource, InitResourceContext, get_dagster_logger
from pydantic import PrivateAttr

from dataplatform.lake.view_engine import QueryEngine
from dataplatform.resources.lake import LakeResource


class ViewsResource(ConfigurableResource):
    """Where views are deployed and queried: DuckDB over an embedded lake, else Trino.

    The lake is an argument rather than nested: Dagster 1.13 warns of its own deprecated
    `dagster_run` whenever a resource holds another.

    Attributes:
        sample_rows: the most rows of a view that a run reads for its preview and plot.
    """

    sample_rows: int = 1000
    _engine: QueryEngine | None = PrivateAttr(default=None)
    _run_id: str | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: InitResourceContext) -> None:
        """Keep which run asks: the engine names it to its server."""
        self._run_id = context.run.run_id if context.run else None

    def engine(self, lake: LakeResource) -> QueryEngine:
        """Return the engine over the run's lake, opened at the first call."""
        if self._engine is None:
            self._engine = lake.place.engine()
            if self._run_id:
                self._engine.watch(self._run_id, get_dagster_logger().info)
        return self._engine
