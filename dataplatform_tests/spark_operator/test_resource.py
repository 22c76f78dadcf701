import re
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize
from pydantic import ValidationError

from dataplatform.resources.spark_operator.client import Application
from dataplatform.resources.spark_operator.progress import SparkUi, summed_up
from dataplatform.resources.spark_operator.resource import SparkOperatorResource
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform_tests.spark_operator.api_server import ApiServer
from dataplatform_tests.spark_operator.operator import MemoryS3, StandIn
from dataplatform_tests.spark_operator.test_reaper import InMemory, write_kubeconfig


def test_the_resource_runs_an_application_for_an_asset(
    server: ApiServer, stand_in: StandIn, s3: MemoryS3, tmp_path: Path
) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
    stand_in.driver = lambda pipes: pipes.report_asset_materialization(metadata={"rows": 3})

    @asset
    def prices(
        context: AssetExecutionContext, spark_operator: SparkOperatorResource
    ) -> MaterializeResult:
        application = SparkApplication(image="spark", main_file="local:///a.py")
        invocation = spark_operator.pipes_client().run(context=context, application=application)
        return invocation.get_materialize_result()

    resource = InMemory.of(s3, kubeconfig)
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = materialize([prices], instance=instance, resources={"spark_operator": resource})

    [event] = result.asset_materializations_for_node("prices")
    assert event.metadata["rows"].value == 3


def test_a_deadline_of_the_configuration_counts() -> None:
    resource = SparkOperatorResource(pipes_bucket="lake", deadlines={"submitted": 60})

    assert resource.times().submitted == 60
    with pytest.raises(ValidationError):
        SparkOperatorResource(pipes_bucket="lake", deadlines={"submitt": 60}).times()


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValidationError):
        SparkOperatorResource(pipes_bucket="lake", on_existing="ignore")


def test_describing_the_resource_imports_no_client() -> None:
    code = (
        "import sys; from dataplatform.resources.spark_operator import reaper, resource, spec;"
        "resource.SparkOperatorResource(pipes_bucket='lake'); reaper.build_reaper_sensor();"
        "print(sorted({'kubernetes', 'boto3', 'dagster_aws'} & set(sys.modules)))"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


def test_the_library_needs_nothing_else_of_this_project() -> None:
    library = Path(__file__).parents[2] / "dataplatform/resources/spark_operator"
    imports = re.compile(r"^\s*(?:from|import) (\.+|\w+)", re.MULTILINE)

    found = {
        name for module in library.glob("*.py") for name in imports.findall(module.read_text())
    }

    assert {".", "dagster", "kubernetes"} <= found
    assert not {"..", "dataplatform"} & found


@pytest.mark.parametrize(
    ("conf", "driver", "port"),
    [
        ({}, {}, 4040),
        ({}, {"webUIPort": 4100}, 4100),
        ({"spark.ui.port": "4200"}, {"webUIPort": 80}, 4200),
    ],
)
def test_the_ui_is_asked_where_spark_or_the_operator_says(
    conf: dict[str, str], driver: dict[str, int], port: int
) -> None:
    found = Application({"spec": {"sparkConf": conf}, "status": {"driverInfo": driver}})

    assert found.ui_port == port


def test_skipped_stages_are_no_work() -> None:
    job = {"status": "SUCCEEDED", "stageIds": [0, 1, 2], "numTasks": 30, "numCompletedTasks": 10}
    job |= {"numSkippedStages": 2, "numSkippedTasks": 20, "numCompletedStages": 1}

    found = summed_up([job], [{"totalCores": 4, "totalShuffleWrite": 7}])

    assert str(found) == "1 of 1 stages, 10 of 10 tasks, 1 executors with 4 cores"
    assert found.metadata()["spark/shuffle_bytes"] == 7


def test_the_ui_of_another_application_on_the_same_port_is_not_taken(server: ApiServer) -> None:
    server.pages["api/v1/applications"] = '[{"id": "spark-other"}]'

    assert SparkUi(server.api(), "spark").progress("app-driver", "spark-ours") is None
