from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    build_sensor_context,
)

from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.ownership import Owner
from dataplatform.resources.spark_operator.reaper import build_reaper_sensor, reap
from dataplatform.resources.spark_operator.resource import SparkOperatorResource
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform_tests.spark_operator.api_server import APPS, ApiServer, status
from dataplatform_tests.spark_operator.operator import MemoryS3, trace

APPLICATION = SparkApplication(image="spark", main_file="a.py")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as made:
        yield made


def add_run(instance: DagsterInstance, state: DagsterRunStatus, root: str | None = None) -> str:
    tags = {"dagster/root_run_id": root} if root else {}
    run = DagsterRun("job", run_id=str(uuid4()), status=state, tags=tags)
    instance.add_run(run)
    return run.run_id


def submit(
    server: ApiServer, client: SparkApplicationClient, run_id: str, age: float = 3600
) -> str:
    """Create an application of a run that is `age` seconds old."""
    owner = Owner(run_id, run_id, "prices", "platform")
    name = owner.new_name()
    client.create(APPLICATION.manifest(name, "spark", owner.labels()))
    created = datetime.now(UTC) - timedelta(seconds=age)
    server.objects[APPS, name]["metadata"]["creationTimestamp"] = created.strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
    return name


@pytest.mark.parametrize("state", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED, None])
def test_what_belongs_to_no_active_run_is_deleted(
    server: ApiServer,
    client: SparkApplicationClient,
    instance: DagsterInstance,
    state: DagsterRunStatus | None,
) -> None:
    run_id = add_run(instance, state) if state else str(uuid4())
    name = submit(server, client, run_id)

    assert reap(client, instance).deleted == (name,)
    assert server.names() == []


def test_what_somebody_may_still_want_is_left_alone(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    failed = add_run(instance, DagsterRunStatus.FAILURE)
    add_run(instance, DagsterRunStatus.STARTING, root=failed)
    kept = {
        submit(server, client, add_run(instance, DagsterRunStatus.STARTED)),
        submit(server, client, failed),
        submit(server, client, str(uuid4()), age=5),
    }
    ended = submit(server, client, str(uuid4()))
    server.set_status(ended, trace("silver", ended)[-1])
    client.create(APPLICATION.manifest("of-others", "spark"))

    assert reap(client, instance).deleted == ()
    assert set(server.names()) == kept | {ended, "of-others"}


def test_only_the_own_code_location_is_reaped(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    submit(server, client, str(uuid4()))

    assert reap(client, instance, "another").deleted == ()
    assert len(reap(client, instance, "platform").deleted) == 1


def test_one_that_cant_be_deleted_does_not_keep_the_others(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    names = {submit(server, client, str(uuid4())) for _ in range(2)}
    server.fail("DELETE", APPS, 403, status(403, "Forbidden", "cannot delete"))

    reaped = reap(client, instance)

    assert len(reaped.deleted) == 1
    assert len(reaped.failed) == 1
    assert "Not deleted: " in str(reaped)
    assert set(server.names()) < names


def test_the_sensor_deletes_the_messages_as_well(
    server: ApiServer, instance: DagsterInstance, s3: MemoryS3, tmp_path: Path
) -> None:
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.url)
    resource = InMemory.of(s3, kubeconfig)
    name = submit(server, resource.client(), str(uuid4()))
    resource.bucket().folder("spark", name).write_context({})

    with build_sensor_context(instance, resources={"spark_operator": resource}) as context:
        said = build_reaper_sensor().evaluate_tick(context)

    assert said.skip_message == f"Deleted {name}."
    assert s3.objects == {}


class InMemory(SparkOperatorResource):
    """The resource with an object store in memory."""

    _stores: ClassVar[dict[str, MemoryS3]] = {}

    @classmethod
    def of(cls, s3: MemoryS3, kubeconfig: Path) -> "InMemory":
        cls._stores[str(kubeconfig)] = s3
        return cls(
            kubeconfig=str(kubeconfig), in_cluster=False, pipes_bucket="lake", poll_seconds=0.05
        )

    def s3(self) -> MemoryS3:
        return self._stores[str(self.kubeconfig)]


def write_kubeconfig(path: Path, url: str) -> Path:
    path.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "{url}"}}}}]
users: [{{name: test, user: {{token: not-a-secret}}}}]
"""
    )
    return path
