"""A real Spark driver on a real node, followed through Pipes in a real object store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize

from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.follow import Following
from dataplatform.resources.spark_operator.messages import PipesBucket
from dataplatform.resources.spark_operator.pipes import PipesSparkApplicationClient
from dataplatform.resources.spark_operator.spec import (
    Driver,
    Executor,
    SecretKey,
    SparkApplication,
)
from dataplatform.resources.spark_operator.states import Deadlines
from dataplatform_tests.kubernetes import oci
from dataplatform_tests.minio.servers import ROOT, SECRET
from dataplatform_tests.spark_operator.step import KEY

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.fixtures import OperatorProcess
    from dataplatform_tests.kubernetes.node import Node

pytestmark = pytest.mark.kubernetes

LOGIN = {"AWS_ACCESS_KEY_ID": ROOT, "AWS_SECRET_ACCESS_KEY": SECRET}
PROGRAM = """
import os, time
import boto3
from dagster_pipes import PipesS3ContextLoader, PipesS3MessageWriter, open_dagster_pipes

s3 = boto3.client("s3", endpoint_url=os.environ["S3"])
loader, writer = PipesS3ContextLoader(s3), PipesS3MessageWriter(s3, interval=0.2)
with open_dagster_pipes(context_loader=loader, message_writer=writer) as pipes:
    from pyspark.sql import SparkSession

    pipes.report_custom_message({"phase": "opened", "rows": pipes.get_extra("rows")})
    print("the driver says hello", flush=True)
    do = pipes.get_extra("do")
    if do == "fail":
        raise ValueError("no such column: price")
    spark = SparkSession.builder.getOrCreate()
    pipes.report_custom_message({"phase": "started"})
    if do == "hang":
        time.sleep(600)
    rows = spark.range(pipes.get_extra("rows")).count()
    pipes.report_asset_materialization(metadata={"rows": rows})
    spark.stop()
"""


class Step:
    """One asset that runs the program."""

    def __init__(self, node: "Node", namespace: str, store: S3Access, folder: Path) -> None:
        self.client = SparkApplicationClient.connect(
            namespace, str(node.kubeconfig), in_cluster=False, deadlines=Deadlines(submitted=200)
        )
        self.store = store
        self.folder = folder
        self.program = node.shared / f"{namespace}.py"
        self.program.write_text(PROGRAM)
        literals = [f"--from-literal={name}={value}" for name, value in LOGIN.items()]
        node.kubectl("create", "secret", "generic", KEY, f"--namespace={namespace}", *literals)
        self.log: list[str] = []
        self.messages: list[Any] = []
        self.error: BaseException | None = None

    def application(self) -> SparkApplication:
        env = {"S3": self.store.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
        login = {name: SecretKey(name=KEY, key=name) for name in LOGIN}
        return SparkApplication(
            image=oci.IMAGE,
            image_pull_policy="Never",
            main_file=f"local://{self.program}",
            driver=Driver(memory="512m", service_account="spark", env=env, secret_env=login),
            executor=Executor(instances=1, memory="512m"),
        )

    def run(self, do: str, stop_at: str | None = None) -> Any:
        @asset
        def counted(context: AssetExecutionContext) -> MaterializeResult:
            try:
                return self._follow(context, do, stop_at)
            except BaseException as error:
                self.error = error
                raise

        with DagsterInstance.ephemeral(tempdir=str(self.folder)) as instance:
            return materialize([counted], instance=instance, raise_on_error=False)

    def _follow(
        self, context: AssetExecutionContext, do: str, stop_at: str | None
    ) -> MaterializeResult:
        bucket = PipesBucket("pipes", "runs", lambda: s3_client(self.store))
        following = Following(self.client.deadlines, write=self.log.append)
        pipes = PipesSparkApplicationClient(self.client, bucket, following)
        extras = {"do": do, "rows": 1000}
        with pipes.stream(
            context=context, application=self.application(), extras=extras
        ) as messages:
            for message in messages:
                self.messages.append(message)
                if message["phase"] == stop_at:
                    raise KeyboardInterrupt
        assert messages.invocation is not None
        return messages.invocation.get_materialize_result()

    def left(self) -> list[str]:
        pods = [
            pod["metadata"]["name"]
            for app in self.client.find()
            for pod in self.client.pods(app.name)
        ]
        keys = s3_client(self.store).list_objects_v2(Bucket="pipes").get("Contents", [])
        return [*pods, *(each["Key"] for each in keys)]


@pytest.fixture
def step(
    cluster: "Node",
    operator: "OperatorProcess",
    spark_namespace: str,
    store: S3Access,
    tmp_path: Path,
) -> Step:
    return Step(cluster, spark_namespace, store, tmp_path)


def test_a_driver_reports_its_results_and_its_log(step: Step) -> None:
    result = step.run("count")

    assert result.success, step.error
    assert [message["phase"] for message in step.messages] == ["opened", "started"]
    [event] = result.asset_materializations_for_node("counted")
    assert event.metadata["rows"].value == 1000
    assert event.metadata["spark/state"].value == "COMPLETED"
    assert "the driver says hello" in step.log
    assert not [key for key in step.left() if key.startswith("runs/")]


def test_a_driver_that_fails_is_explained_by_its_own_words(step: Step) -> None:
    result = step.run("fail")

    assert not result.success
    assert [message["phase"] for message in step.messages] == ["opened"]
    assert type(step.error) is errors.ApplicationFailedError
    assert "ExitCode: 1" in str(step.error)
    assert "ValueError: no such column: price" in str(step.error)


def test_an_interrupt_leaves_no_pod_behind(step: Step) -> None:
    assert not step.run("hang", stop_at="started").success

    assert type(step.error) is KeyboardInterrupt
    assert not getattr(step.error, "__notes__", [])
    assert step.client.find() == []
    assert step.left() == []
