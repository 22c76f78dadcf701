"""Spark in this process: one JVM, started when the first table has to be built."""

from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import PrivateAttr

from dataplatform.lake.place import LakePlace
from dataplatform.lake.spark import lake_session, local_conf, prepare_environment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class SparkLocalResource(ConfigurableResource):
    """Embedded Spark on all cores of this machine, through dagster-pyspark.

    Attributes:
        memory: heap of the JVM, such as `1g`.
    """

    memory: str = "1g"
    _spark: "SparkSession | None" = PrivateAttr(default=None)

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
