"""Spark on Kubernetes, up to the application: what is submitted, and what becomes of its messages.

The driver's program runs for real, as a process here: only the pod around it is left out.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from dagster import (
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
)

from dataplatform.assets.maintenance import build_maintenance_job
from dataplatform.assets.tables import build_table_assets
from dataplatform.lake.place import NotConfiguredError
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.sizing import executors_for
from dataplatform.lake.spec import Column
from dataplatform.profiles import Settings
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_cluster import (
    DriverDiedError,
    SparkClusterResource,
    SparkSizes,
    SparkSizesError,
    spark_application,
)
from dataplatform.resources.spark_operator.errors import ApplicationFailedError, OutOfMemoryError
from dataplatform.spark_settings import SparkSettings
from dataplatform.tables import all_specs
from dataplatform_tests.driving import TABLES, DriverProcess, land

if TYPE_CHECKING:
    from dataplatform.lake.orders import Order
    from dataplatform.resources.spark_operator.spec import SparkApplication

IMAGE = "registry.example.org/dataplatform/spark:1"
SERVERS = {
    "profile": "cluster",
    "s3_endpoint": "http://minio:9000",
    "catalog_uri": "http://catalog:8181/{origin}",
    "postgres_url": "postgresql://postgres:5432",
}


class ProcessCluster(SparkClusterResource):
    """Runs the driver as a process here, where the operator would run it in a pod."""

    home: str
    work: str
    image: str | None = IMAGE
    # Dagster copies a resource for each run.
    submitted: "ClassVar[list[SparkApplication]]" = []  # noqa: RUF012  annotated, but as text
    ending: ClassVar[Exception | None] = None
    is_left_behind: ClassVar[bool] = False

    def _left_behind(self, context: Any, order: "Order") -> bool:
        return self.is_left_behind

    def _stream(
        self, context: Any, order: "Order", application: "SparkApplication"
    ) -> Generator[Any]:
        self.submitted.append(application)
        if self.ending is not None:
            raise self.ending
        place = Path(self.work) / str(len(self.submitted))
        driven = DriverProcess(Path(self.home), place, order).wait()
        yield from driven.told
        if driven.code:
            raise ApplicationFailedError("spark/app", "exit code 1", "look at the log")


@pytest.fixture
def lake(tmp_path: Path) -> LakeResource:
    found = LakeResource(home=str(tmp_path / "home"), origin="recorded")
    land(found.raw_zone)
    return found


@pytest.fixture
def spark(tmp_path: Path, lake: LakeResource, monkeypatch: pytest.MonkeyPatch) -> ProcessCluster:
    monkeypatch.setattr(ProcessCluster, "submitted", [])
    monkeypatch.setattr(ProcessCluster, "ending", None)
    return ProcessCluster(home=lake.home, work=str(tmp_path / "work"))


def run(
    lake: LakeResource, spark: ProcessCluster, tags: Mapping[str, str] | None = None
) -> ExecuteInProcessResult:
    specs = {name: all_specs()[name] for name in TABLES}
    resources = {"lake": lake, "spark": spark}
    defs = Definitions(assets=[build_table_assets(specs)], resources=resources)
    job = defs.resolve_implicit_global_asset_job_def()
    with DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)


def statuses(result: ExecuteInProcessResult) -> dict[str, Any]:
    events = result.get_asset_materialization_events()
    found = {event.asset_key: event.materialization.metadata for event in events}
    return {key.path[-1]: data["status"].value for key, data in found.items() if key}


def error_of(result: ExecuteInProcessResult) -> str:
    (failure,) = result.get_step_failure_events()
    return str(failure.step_failure_data)


def retried(result: ExecuteInProcessResult) -> int:
    return len([e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"])


@pytest.mark.slow
def test_one_application_builds_the_tables_and_none_starts_when_nothing_is_new(
    lake: LakeResource, spark: ProcessCluster
) -> None:
    first = run(lake, spark)
    assert first.success
    assert statuses(first) == dict.fromkeys(TABLES, "published")
    (application,) = spark.submitted
    assert application.executor.instances == 1
    second = run(lake, spark)
    assert statuses(second) == dict.fromkeys(TABLES, "unchanged")
    assert len(spark.submitted) == 1
    maintained = build_maintenance_job().execute_in_process(
        run_config={"ops": {"maintain_tables": {"config": {"tables": ["coins", "ohlc"]}}}},
        resources={"lake": lake, "spark": spark},
    )
    assert maintained.success
    observed = [e for e in maintained.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    assert [event.asset_key.path[-1] for event in observed if event.asset_key] == ["coins"]
    assert len(spark.submitted) == 2


def test_what_the_attempt_before_left_behind_is_followed_although_nothing_is_new(
    tmp_path: Path, spark: ProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = LakeResource(home=str(tmp_path / "bare"), origin="recorded")
    monkeypatch.setattr(ProcessCluster, "ending", OutOfMemoryError("spark/app", "x", "y"))
    run(bare, spark)
    assert spark.submitted == []
    monkeypatch.setattr(ProcessCluster, "is_left_behind", True)
    run(bare, spark)
    assert len(spark.submitted) == 1


def test_nothing_is_started_to_maintain_what_is_not_built(
    lake: LakeResource, spark: ProcessCluster
) -> None:
    resources = {"lake": lake, "spark": spark}
    assert build_maintenance_job().execute_in_process(resources=resources).success
    assert spark.submitted == []


def test_what_a_person_has_to_mend_is_not_tried_again(
    lake: LakeResource, spark: ProcessCluster
) -> None:
    spec = all_specs()["coins"]
    changed = tuple(Column("symbol", "int", "x") if c.name == "symbol" else c for c in spec.columns)
    ensure_table(lake.catalog(), replace(spec, columns=changed))
    result = run(lake, spark)
    assert not result.success
    assert "symbol" in error_of(result)
    assert retried(result) == 0
    assert set(statuses(result)) == set(TABLES) - {"coins"}


@pytest.mark.parametrize(
    ("ending", "said", "tries"),
    [
        (ApplicationFailedError("spark/app", "exit code 137", "look"), "DriverDiedError", 2),
        (OutOfMemoryError("spark/app", "the driver took 2 GiB", "give it more"), "2 GiB", 0),
    ],
)
def test_a_driver_that_says_nothing_is_tried_again_unless_it_would_end_so_again(
    lake: LakeResource,
    spark: ProcessCluster,
    monkeypatch: pytest.MonkeyPatch,
    ending: Exception,
    said: str,
    tries: int,
) -> None:
    monkeypatch.setattr(ProcessCluster, "ending", ending)
    result = run(lake, spark)
    assert not result.success
    assert said in error_of(result)
    assert retried(result) == tries


def test_a_runs_tags_change_its_size(
    lake: LakeResource,
    spark: ProcessCluster,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending = OutOfMemoryError("spark/app", "x", "y")
    monkeypatch.setattr(ProcessCluster, "ending", ending)
    tags = {"dataplatform.spark/executors": "7", "dataplatform.spark/executor_memory": "8g"}
    run(lake, spark, tags)
    (application,) = spark.submitted
    assert (application.executor.instances, application.executor.memory) == (7, "8g")
    assert "is the most" not in capfd.readouterr().err
    refused = run(lake, spark, {"dataplatform.spark/executor_memory": "much"})
    assert "dataplatform.spark/executor_memory" in error_of(refused)
    assert retried(refused) == 0


def test_a_run_that_asks_for_more_executors_than_it_gets_is_told(
    lake: LakeResource,
    spark: ProcessCluster,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ending = OutOfMemoryError("spark/app", "x", "y")
    monkeypatch.setattr(ProcessCluster, "ending", ending)
    run(lake, spark, {"dataplatform.spark/executors": "40"})
    (application,) = spark.submitted
    assert application.executor.instances == 20
    said = capfd.readouterr().err
    assert "40 executors were asked for, and 20 is the most" in said
    assert "dataplatform.spark/max_executors" in said


@pytest.mark.parametrize(
    ("size", "executors"),
    [(0, 1), (1, 1), (256, 1), (257, 2), (512, 2), (513, 4), (3000, 16), (5000, 20), (10**6, 20)],
)
def test_executors_grow_with_the_input_up_to_the_cap(size: int, executors: int) -> None:
    assert executors_for(size, each=256, most=20) == executors


def test_a_fixed_number_of_executors_keeps_to_the_cap() -> None:
    sizes = SparkSizes(executors=50)
    assert sizes.chosen_for(1) == 20
    assert sizes.tagged({"dataplatform.spark/max_executors": "60"}).chosen_for(1) == 50
    with pytest.raises(SparkSizesError, match="use one of driver_cores"):
        sizes.tagged({"dataplatform.spark/exekutors": "1"})


def described(**settings: Any) -> SparkClusterResource:
    return SparkClusterResource.from_settings(
        Settings.model_validate(SERVERS | settings), SparkSettings(image=IMAGE)
    )


def test_the_application_names_servers_and_mounts_secrets_and_holds_none() -> None:
    spark = described(catalog_auth="oauth2")
    application = spark_application(spark, spark.sizes, 4)
    manifest = application.manifest("tables-1", spark.namespace)
    spec = manifest["spec"]
    assert (manifest["metadata"]["namespace"], spec["image"]) == ("spark", IMAGE)
    assert spec["mainApplicationFile"] == "local:///opt/dataplatform/driver.py"
    assert spec["driver"]["serviceAccount"] == "spark"
    assert spec["executor"]["instances"] == 4
    env = spec["driver"]["envVars"]
    assert env["DATAPLATFORM_PROFILE"] == "cluster"
    assert env["DATAPLATFORM_S3_ENDPOINT"] == "http://minio:9000"
    assert env["DATAPLATFORM_SECRETS_DIR"] == "/var/run/secrets/dataplatform"
    pod = spec["driver"]["template"]["spec"]
    mounts = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounts == {
        f"/var/run/secrets/dataplatform/{path}"
        for path in ("minio/platform", "postgres/dagster", "catalog/platform")
    }
    assert {v["secret"]["secretName"] for v in pod["volumes"]} == {
        "dataplatform-minio-platform",
        "dataplatform-postgres-dagster",
        "dataplatform-catalog-platform",
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    # Spark is given what tables need of it, and nothing of which the driver holds the secret.
    conf = spec["sparkConf"]
    assert conf["spark.sql.session.timeZone"] == "UTC"
    assert conf["spark.authenticate"] == "true"
    assert not [key for key in conf if "s3" in key or "spark.sql.catalog" in key]


def test_without_an_image_the_setting_is_named() -> None:
    spark = SparkClusterResource()
    with pytest.raises(NotConfiguredError, match=r"DATAPLATFORM_SPARK_IMAGE.*Remedy"):
        spark_application(spark, spark.sizes, 1)


def test_a_driver_that_died_may_be_tried_again() -> None:
    assert DriverDiedError.transient
