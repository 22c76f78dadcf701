import time
from collections.abc import Iterator
from types import SimpleNamespace

import dagster_pipes
import pytest

from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.states import Deadlines
from dataplatform_tests.spark_operator import api_server
from dataplatform_tests.spark_operator.api_server import ApiServer
from dataplatform_tests.spark_operator.operator import MemoryS3, StandIn, working

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
