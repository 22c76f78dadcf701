import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import dagster_pipes
import pytest
from dagster import DagsterInstance

from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.states import Deadlines
from dataplatform_tests.minio.servers import ROOT, SECRET, minio
from dataplatform_tests.spark_operator import api_server
from dataplatform_tests.spark_operator.api_server import ApiServer
from dataplatform_tests.spark_operator.operator import MemoryS3, StandIn, working
from dataplatform_tests.spark_operator.step import KEY, PATIENT, Operator, Step

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.fixtures import OperatorProcess
    from dataplatform_tests.kubernetes.node import Node

NAMESPACE = "spark"
QUICK = Deadlines(unreachable=3, deletion=1, interrupt=1)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server.running() as state:
        yield state


@pytest.fixture
def client(server: ApiServer) -> SparkApplicationClient:
    return SparkApplicationClient(server.api(QUICK.unreachable), NAMESPACE, QUICK)


@pytest.fixture
def s3() -> MemoryS3:
    return MemoryS3()


@pytest.fixture
def stand_in(server: ApiServer, s3: MemoryS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    # The writer of messages looks once a second whether it is to end.
    hurried = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    monkeypatch.setattr(dagster_pipes, "time", hurried)
    with working(server, s3) as thread:
        yield thread


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    """Run the object store of the drivers on the node."""
    with minio(tmp_path_factory.mktemp("pipes") / "data") as access:
        s3_client(access).create_bucket(Bucket="pipes")
        yield access


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Return a Dagster that processes beside share."""
    home = tmp_path_factory.mktemp("dagster")
    (home / "dagster.yaml").touch()
    with DagsterInstance.from_config(str(home)) as made:
        yield made


@pytest.fixture
def failing(
    cluster: "Node",
    operator: "OperatorProcess",
    spark_namespace: str,
    store: S3Access,
    instance: DagsterInstance,
) -> Step:
    """Return a step with a namespace and a bucket of its own."""
    s3_client(store).create_bucket(Bucket=spark_namespace)
    resource = Operator(
        namespace=spark_namespace,
        kubeconfig=str(cluster.kubeconfig),
        in_cluster=False,
        pipes_bucket=spark_namespace,
        s3_endpoint=store.endpoint,
        deadlines=PATIENT,
    )
    step = Step(cluster, resource, instance)
    key = {"AWS_ACCESS_KEY_ID": ROOT, "AWS_SECRET_ACCESS_KEY": SECRET}
    step.apply("Secret", KEY, stringData=key)
    return step
