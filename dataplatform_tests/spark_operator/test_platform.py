"""How the platform's tables use the library: by what a retry finds the application of its run."""

from pathlib import Path

import pytest
from dagster import DagsterInstance, Definitions, ExecuteInProcessResult
from dagster_pipes import PipesContext

from dataplatform.assets.tables import build_table_assets
from dataplatform.lake import sizing
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_cluster import PlatformSparkOperator, SparkClusterResource
from dataplatform.tables import all_specs
from dataplatform_tests.driving import TABLES, land
from dataplatform_tests.spark_operator.api_server import APPS, ApiServer, status
from dataplatform_tests.spark_operator.operator import MemoryS3, StandIn, trace
from dataplatform_tests.spark_operator.test_reaper import write_kubeconfig


@pytest.fixture
def spark(
    server: ApiServer, s3: MemoryS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SparkClusterResource:
    monkeypatch.setattr(PlatformSparkOperator, "s3", lambda _self: s3)
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
    return SparkClusterResource(image="spark:1", kubeconfig=str(kubeconfig))


def run(
    instance: DagsterInstance, spark: SparkClusterResource, lake: LakeResource, root: str | None
) -> ExecuteInProcessResult:
    specs = {name: all_specs()[name] for name in TABLES}
    defs = Definitions(assets=[build_table_assets(specs)], resources={"lake": lake, "spark": spark})
    tags = {"dagster/root_run_id": root, "dagster/parent_run_id": root} if root else {}
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)


def test_a_retry_with_less_to_read_goes_on_with_the_larger_application(
    server: ApiServer,
    stand_in: StandIn,
    spark: SparkClusterResource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lake = LakeResource(home=str(tmp_path / "home"), origin="recorded")
    land(lake.raw_zone)

    def driver(pipes: PipesContext) -> None:
        pipes.report_custom_message("what ends the process that reads it")

    stand_in.driver, stand_in.stop_at = driver, "SUCCEEDING"
    server.fail(
        "DELETE", APPS, 403, status(403, "Forbidden", "killed processes delete nothing"), times=9
    )
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        monkeypatch.setattr(sizing, "build_bytes", lambda *_: 1 << 30)
        first = run(instance, spark, lake, None)
        [name] = server.names()
        assert server.objects[APPS, name]["spec"]["executor"]["instances"] == 4
        server.set_status(name, trace("silver", name)[-1])
        server.faults.clear()
        capsys.readouterr()
        monkeypatch.setattr(sizing, "build_bytes", lambda *_: 1)
        run(instance, spark, lake, first.run_id)

    assert f"Following {name} (COMPLETED) again." in capsys.readouterr().err


def test_a_retry_reads_what_the_attempt_before_has_published(
    server: ApiServer,
    stand_in: StandIn,
    spark: SparkClusterResource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lake = LakeResource(home=str(tmp_path / "home"), origin="recorded")
    land(lake.raw_zone)
    bare = LakeResource(home=str(tmp_path / "nothing-new"), origin="recorded")
    stand_in.driver = lambda pipes: pipes.report_custom_message("what ends the process")
    stand_in.stop_at = "SUCCEEDING"
    server.fail(
        "DELETE", APPS, 403, status(403, "Forbidden", "killed processes delete nothing"), times=9
    )
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        first = run(instance, spark, lake, None)
        [name] = server.names()
        server.set_status(name, trace("silver", name)[-1])
        server.faults.clear()
        capsys.readouterr()
        run(instance, spark, bare, first.run_id)

    assert f"Following {name} (COMPLETED) again." in capsys.readouterr().err
