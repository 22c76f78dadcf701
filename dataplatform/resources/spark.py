"""What tables are built and maintained by: one interface, whatever runs Spark behind it."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, OpExecutionContext

from dataplatform.lake.spec import TableSpec
from dataplatform.resources.lake import LakeResource

if TYPE_CHECKING:
    from dagster import AssetExecutionContext

    from dataplatform.lake.build import TableResult
    from dataplatform.lake.maintenance import Maintained, Retention
    from dataplatform.profiles import Settings


class SparkResource(ConfigurableResource, ABC):
    """Builds and maintains the tables of a lake, holding its writers' lock meanwhile.

    Close what a method returns, also where an error ends the reading of it: the lock goes with it.
    """

    @abstractmethod
    def build(
        self,
        context: "AssetExecutionContext",
        lake: LakeResource,
        declared: Mapping[str, TableSpec],
        selected: Collection[str],
    ) -> "Generator[TableResult]":
        """Build tables, each after those it reads; yields each as it is published.

        Where metadata alone say that nothing is new, no Spark is started.

        Args:
            context: the step that asks.
            lake: whose tables.
            declared: every table by name, in dependency order.
            selected: the names to build.

        Raises:
            AuditFailedError: a blocking check failed.
            ExceptionGroup: several tables failed.
        """

    @abstractmethod
    def maintain(
        self,
        context: OpExecutionContext,
        lake: LakeResource,
        names: Sequence[str],
        retention: "Retention",
    ) -> "Generator[tuple[str, Maintained | None]]":
        """Maintain tables one after another; yields each with what was done, None if not built.

        Args:
            context: the step that asks.
            lake: whose tables.
            names: of the tables.
            retention: what is kept; it allows each of them.
        """


def build_spark_resources(settings: "Settings") -> dict[str, ConfigurableResource]:
    """Return what the profile builds tables by; nothing is started or asked yet.

    On the profile cluster, the operator's namespace is a resource as well, for the sensor that clears
    up and for users' own assets.
    """
    if settings.profile == "cluster":
        from dataplatform.resources.spark_cluster import SparkClusterResource
        from dataplatform.spark_settings import SparkSettings

        spark = SparkClusterResource.from_settings(settings, SparkSettings())
        return {"spark": spark, "spark_operator": spark.operator()}
    from dataplatform.resources.spark_local import SparkLocalResource

    return {"spark": SparkLocalResource(memory=settings.spark_memory)}
