"""Spark in this process: one JVM, started when the first table has to be built."""

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from dagster import OpExecutionContext
from pydantic import PrivateAttr

from dataplatform.lake.place import LakePlace
from dataplatform.lake.spark import lake_session, local_conf, prepare_environment
from dataplatform.lake.spec import TableSpec
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark import SparkResource

if TYPE_CHECKING:
    from dagster import AssetExecutionContext
    from pyspark.sql import SparkSession

    from dataplatform.lake.build import TableResult
    from dataplatform.lake.maintenance import Maintained, Retention


class SparkLocalResource(SparkResource):
    """Embedded Spark on all cores of this machine, through dagster-pyspark.

    Attributes:
        memory: heap of the JVM, such as `1g`.
    """

    memory: str = "1g"
    _spark: "SparkSession | None" = PrivateAttr(default=None)

    def build(
        self,
        context: "AssetExecutionContext",
        lake: LakeResource,
        declared: Mapping[str, TableSpec],
        selected: Collection[str],
    ) -> "Generator[TableResult]":
        """Build tables in this process; see `SparkResource.build`."""
        from dataplatform.lake.build import Builder

        target = lake.build_target()
        with lake.writer_lock(context.run.run_id) as still_writer:
            builder = Builder(target, declared, lambda: self.session(lake.place), still_writer)
            yield from builder.build(selected)

    def maintain(
        self,
        context: OpExecutionContext,
        lake: LakeResource,
        names: Sequence[str],
        retention: "Retention",
    ) -> "Generator[tuple[str, Maintained | None]]":
        """Maintain tables in this process; see `SparkResource.maintain`."""
        from dataplatform.lake.maintenance import Maintenance

        with lake.writer_lock(context.run.run_id):
            session = self.session(lake.place)
            maintenance = Maintenance(lake.catalog(), lambda: session, retention)
            for name in names:
                yield name, maintenance.maintain(name)

    def session(self, lake: LakePlace) -> "SparkSession":
        """Return a session that sees `lake`; starts the JVM (about 4 s) at the first call.

        Raises:
            JavaNotFoundError: there is no Java 17 to 21.
            JarError: Iceberg's jars can't be had.
        """
        if self._spark is None:
            prepare_environment()
            from dagster_pyspark import LazyPySparkResource

            resource = LazyPySparkResource(spark_config=local_conf(self.memory, lake.spark_jars))
            self._spark = resource.spark_session
        return lake_session(self._spark, lake.spark_conf())
