"""Spark on Kubernetes: one SparkApplication a run, and none where metadata say nothing is new.

The application's driver is `dataplatform.lake.driver`, which runs the same builder as a laptop and
holds the writers' lock itself; each table that it tells of is yielded here as it comes. What fails
there is raised here as the error that it was.
"""

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from dagster import Config, OpExecutionContext
from pydantic import Field, ValidationError

from dataplatform.lake.place import NotConfiguredError
from dataplatform.lake.spark import ENGINE_CONF
from dataplatform.lake.spec import TableSpec
from dataplatform.lake.store.buckets import LOGS
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark import SparkResource
from dataplatform.resources.spark_operator.resource import SparkOperatorResource

if TYPE_CHECKING:
    from dagster import AssetExecutionContext
    from pyspark.sql import SparkSession

    from dataplatform.lake.build import TableResult
    from dataplatform.lake.maintenance import Maintained, Retention
    from dataplatform.lake.orders import MaintainedMessage, Order, ResultMessage
    from dataplatform.lake.plan import Lake
    from dataplatform.profiles import Settings
    from dataplatform.resources.spark_operator.spec import SparkApplication
    from dataplatform.spark_settings import PullPolicy, SparkSettings

SIZE_TAGS: Final = "dataplatform.spark"
"""Tags of a run or a job such as `dataplatform.spark/executors: "5"` change the sizes for it."""
SECRETS_DIR: Final = "/var/run/secrets/dataplatform"
PIPES_PREFIX: Final = "tmp/pipes"
"""Where contexts and messages are, in the bucket of logs: what nobody clears is gone in a week."""
_MEGABYTE: Final = 1 << 20


class DriverDiedError(RuntimeError):
    """A driver ended without a word of why; another one may do better."""

    transient = True


class SparkSizesError(ValueError):
    """A run's tag asks for a size that there is not."""

    transient = False


class SparkSizes(Config):
    """How large an application is.

    Attributes:
        driver_cores: of the driver.
        driver_memory: heap of the driver.
        executor_cores: of an executor.
        executor_memory: heap of an executor.
        executors: how many; None, as many as the input is worth.
        max_executors: never more.
        megabytes_per_executor: stored input that one executor is worth.
    """

    driver_cores: int = Field(default=1, ge=1)
    driver_memory: str = Field(default="2g", pattern=r"^[1-9][0-9]*[kmgt]b?$")
    executor_cores: int = Field(default=2, ge=1)
    executor_memory: str = Field(default="4g", pattern=r"^[1-9][0-9]*[kmgt]b?$")
    executors: int | None = Field(default=None, ge=1)
    max_executors: int = Field(default=20, ge=1)
    megabytes_per_executor: int = Field(default=256, ge=1)

    def tagged(self, tags: Mapping[str, str]) -> "SparkSizes":
        """Return the sizes with what a run's tags change of them.

        Raises:
            SparkSizesError: a tag names no size, or no value that it may have.
        """
        own = {
            key.removeprefix(f"{SIZE_TAGS}/"): value
            for key, value in tags.items()
            if key.startswith(f"{SIZE_TAGS}/")
        }
        if unknown := own.keys() - type(self).model_fields.keys():
            known = ", ".join(type(self).model_fields)
            raise SparkSizesError(
                f"the tag {SIZE_TAGS}/{min(unknown)} names no size. Remedy: use one of {known}."
            )
        try:
            return type(self).model_validate(self.model_dump() | own)
        except ValidationError as error:
            problem = error.errors()[0]
            tag = f"{SIZE_TAGS}/{problem['loc'][0]}"
            raise SparkSizesError(f"the tag {tag}: {problem['msg']}. Remedy: change it.") from None

    def chosen_for(self, size: int) -> int:
        """Return how many executors an input of `size` bytes gets."""
        from dataplatform.lake.sizing import executors_for

        each = self.megabytes_per_executor * _MEGABYTE
        wanted = executors_for(size, each=each, most=self.max_executors)
        return min(self.executors or wanted, self.max_executors)


class SparkClusterResource(SparkResource):
    """Builds and maintains tables by a SparkApplication, which the Spark Operator runs.

    Attributes:
        image: of drivers and executors.
        main_file: the program in the image.
        image_pull_policy: Always, IfNotPresent or Never.
        image_pull_secrets: names of Secrets for the registry.
        namespace: where applications run.
        service_account: of the drivers.
        kubeconfig: how the API server is reached; None, as a pod is told.
        kube_context: the context in it.
        event_log: where Spark's event logs go.
        ui_url: of a driver's UI, with `{namespace}` and `{name}`; None, none is linked.
        history_url: of the history server; None, none is linked.
        driver_env: settings of the platform for the driver: addresses, no secrets.
        secret_paths: secrets that the driver reads, each mounted from a Secret of its own.
        secret_prefix: what the names of those Secrets begin with.
        sizes: how large an application is, where a run's tags do not say otherwise.
        deadlines: seconds that an application may stay in a state, where not as the library has it.
    """

    image: str | None = None
    main_file: str = "local:///opt/dataplatform/driver.py"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: list[str] = Field(default_factory=list)
    namespace: str = "spark"
    service_account: str = "spark"
    kubeconfig: str | None = None
    kube_context: str | None = None
    event_log: str | None = None
    ui_url: str | None = None
    history_url: str | None = None
    driver_env: dict[str, str] = Field(default_factory=dict)
    secret_paths: list[str] = Field(default_factory=lambda: ["minio/platform", "postgres/dagster"])
    secret_prefix: str = "dataplatform-"  # noqa: S105  of names of Secrets
    sizes: SparkSizes = SparkSizes()
    deadlines: dict[str, float] = Field(default={})

    @classmethod
    def from_settings(cls, settings: "Settings", spark: "SparkSettings") -> "SparkClusterResource":
        """Describe Spark as the settings say; nothing is read or asked yet."""
        login = ["catalog/platform"] if settings.catalog_auth == "oauth2" else []
        return cls(
            image=spark.image,
            main_file=spark.main_file,
            image_pull_policy=spark.image_pull_policy,
            image_pull_secrets=list(spark.image_pull_secrets),
            namespace=spark.namespace,
            service_account=spark.service_account,
            kubeconfig=str(spark.kubeconfig) if spark.kubeconfig else None,
            kube_context=spark.kube_context,
            event_log=spark.event_log,
            ui_url=spark.ui_url,
            history_url=spark.history_url,
            driver_env=driver_env(settings),
            secret_paths=["minio/platform", "postgres/dagster", *login],
            secret_prefix=spark.secret_prefix,
            sizes=SparkSizes(**{name: getattr(spark, name) for name in SparkSizes.model_fields}),
            deadlines=spark.deadlines,
        )

    def build(
        self,
        context: "AssetExecutionContext",
        lake: LakeResource,
        declared: Mapping[str, TableSpec],
        selected: Collection[str],
    ) -> "Generator[TableResult]":
        """Build tables by an application, if one has something to read; see `SparkResource.build`.

        Raises:
            SparkOperatorError: the application could not be run, and its driver said nothing.
            DriverDiedError: the driver ended without saying why.
        """
        from dataplatform.lake.orders import BuildOrder, ResultMessage
        from dataplatform.lake.sizing import build_bytes, plans

        target = lake.build_target()
        planned = plans(target, declared, selected)
        order = BuildOrder(tables=sorted(selected), origin=target.origin, run_id=context.run.run_id)
        is_needed = any(plan.is_needed for plan in planned)
        # What the attempt before has published is told by its application, if that is still there.
        if not is_needed and not self._left_behind(context, order):
            context.log.info("Metadata say that nothing is new: no application is submitted.")
            yield from _unchanged(context, lake, target, declared, selected)
            return
        size = build_bytes(target.catalog, declared, planned)
        with closing(self._told(context, order, size)) as messages:
            yield from (one.result for one in messages if isinstance(one, ResultMessage))

    def maintain(
        self,
        context: OpExecutionContext,
        lake: LakeResource,
        names: Sequence[str],
        retention: "Retention",
    ) -> "Generator[tuple[str, Maintained | None]]":
        """Maintain tables by an application, if one is built; see `SparkResource.maintain`."""
        from dataplatform.lake.orders import MaintainedMessage, MaintainOrder
        from dataplatform.lake.schema import load_table
        from dataplatform.lake.sizing import table_bytes

        catalog = lake.catalog()
        found = {name: load_table(catalog, name) for name in names}
        built = [name for name, table in found.items() if table and table.current_snapshot()]
        yield from ((name, None) for name in names if name not in built)
        if not built:
            return
        order = MaintainOrder(
            tables=built, origin=lake.lake_origin, run_id=context.run.run_id, retention=retention
        )
        with closing(self._told(context, order, table_bytes(catalog, built))) as messages:
            yield from ((m.table, m.done) for m in messages if isinstance(m, MaintainedMessage))

    def _told(
        self,
        context: "AssetExecutionContext | OpExecutionContext",
        order: "Order",
        size: int,
    ) -> "Generator[ResultMessage | MaintainedMessage]":
        """Yield what the driver tells of; raise what it says has failed."""
        from dataplatform.lake.orders import FailureMessage, raise_failures, read_message
        from dataplatform.resources.spark_operator.errors import SparkOperatorError

        sizes = self.sizes.tagged(context.run.tags)
        executors = sizes.chosen_for(size)
        context.log.info("%.1f MB to read: %d executors.", size / _MEGABYTE, executors)
        if sizes.executors and executors < sizes.executors:
            tag = f"{SIZE_TAGS}/max_executors"
            told = "%d executors were asked for, and %d is the most. Remedy: raise the tag %s."
            context.log.warning(told, sizes.executors, executors, tag)
        application = spark_application(self, sizes, executors)
        failures: list[FailureMessage] = []
        try:
            with closing(self._stream(context, order, application)) as payloads:
                for message in map(read_message, payloads):
                    if isinstance(message, FailureMessage):
                        failures.append(message)
                    else:
                        yield message
        except SparkOperatorError as error:
            # What the driver said is the cause; that its application failed is what came of it.
            raise_failures(failures, error)
            _raise(error)
        raise_failures(failures, None)

    def _stream(
        self,
        context: "AssetExecutionContext | OpExecutionContext",
        order: "Order",
        application: "SparkApplication",
    ) -> "Generator[Any]":
        """Run an application; yield the payloads of its messages as they come."""
        from dataplatform.lake.store.s3 import make_folder

        operator = self.operator()
        if self.event_log:
            # Spark does not start where the folder of its event logs is missing.
            make_folder(operator.s3(), self.event_log)
        stream = operator.pipes_client().stream(
            context=context,
            application=application,
            extras=order.model_dump(mode="json"),
            identity=self._identity(context),
            may_omit=True,
        )
        with closing(stream):
            yield from stream

    def _left_behind(self, context: "AssetExecutionContext", order: "Order") -> bool:
        """Return whether the attempt before left an application with news."""
        return (
            self.operator()
            .pipes_client()
            .left_behind(
                context=context,
                identity=self._identity(context),
                extras=order.model_dump(mode="json"),
            )
        )

    def _identity(
        self, context: "AssetExecutionContext | OpExecutionContext"
    ) -> "SparkApplication":
        """Return the application without what is chosen by how much is left to read."""
        return spark_application(self, self.sizes.tagged(context.run.tags), executors=1)

    def operator(self) -> "PlatformSparkOperator":
        """Return the namespace in which applications run."""
        return PlatformSparkOperator(
            namespace=self.namespace,
            kubeconfig=self.kubeconfig,
            kube_context=self.kube_context,
            pipes_bucket=LOGS.name,
            pipes_prefix=PIPES_PREFIX,
            ui_url=self.ui_url,
            history_url=self.history_url,
            # Within the grace period of a run's pod (dagster.cluster.yaml).
            deadlines={"interrupt": 90.0} | self.deadlines,
        )


class PlatformSparkOperator(SparkOperatorResource):
    """The operator's namespace, with messages in the platform's own object store."""

    def s3(self) -> Any:
        """Return a client of the store, with the key that is current now.

        Raises:
            NotConfiguredError: the store's address is not set.
        """
        from dataplatform.lake.store.s3 import s3_client
        from dataplatform.profiles import Settings
        from dataplatform.resources.servers import find_servers

        return s3_client(find_servers(Settings()).access)


def driver_env(settings: "Settings") -> dict[str, str]:
    """Return the environment that tells a driver where the platform's servers are."""
    env = {
        "DATAPLATFORM_PROFILE": settings.profile,
        "DATAPLATFORM_HOME": "/tmp/dataplatform",  # noqa: S108  nothing is kept there
        "DATAPLATFORM_S3_ENDPOINT": settings.s3_endpoint,
        "DATAPLATFORM_S3_REGION": settings.s3_region,
        "DATAPLATFORM_CATALOG_URI": settings.catalog_uri,
        "DATAPLATFORM_CATALOG_AUTH": settings.catalog_auth,
        "DATAPLATFORM_POSTGRES_URL": settings.postgres_url,
        "DATAPLATFORM_SECRETS_DIR": SECRETS_DIR,
    }
    return {name: value for name, value in env.items() if value is not None}


def spark_application(
    spark: SparkClusterResource, sizes: SparkSizes, executors: int
) -> "SparkApplication":
    """Return the application as it is submitted, without what each run adds.

    No secret is in it: the driver reads them from mounted files, and hands executors what they need
    with their tasks.

    Args:
        spark: image, namespace and all else that is the same for each run.
        sizes: of this run.
        executors: how many.

    Raises:
        NotConfiguredError: no image is set.
    """
    from dataplatform.resources.spark_operator.spec import (
        Driver,
        Executor,
        SecretVolume,
        SparkApplication,
    )

    if not spark.image:
        raise NotConfiguredError(
            "The profile cluster needs DATAPLATFORM_SPARK_IMAGE, which is not set."
            " Remedy: build and push the image, and set its name with registry and tag."
        )
    mounted = tuple(
        SecretVolume(
            name=f"{spark.secret_prefix}{path.replace('/', '-')}", path=f"{SECRETS_DIR}/{path}"
        )
        for path in spark.secret_paths
    )
    # Two tasks a core: a shuffle of one spreads evenly, and small ones are joined while it runs.
    partitions = 2 * executors * sizes.executor_cores
    return SparkApplication(
        image=spark.image,
        main_file=spark.main_file,
        # Dagster's config knows no Literal; the application's description refuses another word.
        image_pull_policy=cast("PullPolicy", spark.image_pull_policy),
        image_pull_secrets=tuple(spark.image_pull_secrets),
        spark_conf={
            **ENGINE_CONF,
            # Driver and executors talk to who knows the application's secret, which Spark makes.
            "spark.authenticate": "true",
            "spark.sql.shuffle.partitions": str(partitions),
        },
        event_log=spark.event_log,
        driver=Driver(
            cores=sizes.driver_cores,
            memory=sizes.driver_memory,
            env=spark.driver_env,
            secrets=mounted,
            service_account=spark.service_account,
        ),
        executor=Executor(
            instances=executors, cores=sizes.executor_cores, memory=sizes.executor_memory
        ),
    )


def _unchanged(
    context: "AssetExecutionContext",
    lake: LakeResource,
    target: "Lake",
    declared: Mapping[str, TableSpec],
    selected: Iterable[str],
) -> "Generator[TableResult]":
    """Yield the results of tables of which none has anything to read; they may still be made."""
    from dataplatform.lake.build import Builder

    with lake.writer_lock(context.run.run_id) as still_writer:
        yield from Builder(target, declared, _no_spark, still_writer).build(selected)


def _no_spark() -> "SparkSession":
    raise DriverDiedError(
        "Something arrived after it was found that nothing is new. Remedy: run it again."
    )


def _raise(error: Exception) -> NoReturn:
    """Raise an operator's error; a driver that merely ended is tried again, as on one machine."""
    from dataplatform.resources.spark_operator.errors import ApplicationFailedError

    if type(error) is ApplicationFailedError:
        raise DriverDiedError(str(error)) from error
    raise error
