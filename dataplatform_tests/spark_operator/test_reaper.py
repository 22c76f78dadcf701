import time
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

from dataplatform.resources.spark_operator import errors, reaper
from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.ownership import Owner, instance_id
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
    tags = {"dagster/root_run_id": root, "dagster/parent_run_id": root} if root else {}
    run = DagsterRun(
        "job", str(uuid4()), status=state, tags=tags, root_run_id=root, parent_run_id=root
    )
    instance.add_run(run)
    return run.run_id


def submit(
    server: ApiServer,
    client: SparkApplicationClient,
    instance: DagsterInstance,
    run_id: str,
    age: float = 3600,
    location: str | None = "platform",
) -> str:
    """Create an application of a run that is `age` seconds old."""
    owner = Owner(run_id, run_id, "prices", location, instance_id(instance))
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
    name = submit(server, client, instance, run_id)

    assert reap(client, instance).deleted == (name,)
    assert server.names() == []


def test_what_somebody_may_still_want_is_left_alone(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    failed = add_run(instance, DagsterRunStatus.FAILURE)
    add_run(instance, DagsterRunStatus.STARTING, root=failed)
    kept = {
        submit(server, client, instance, add_run(instance, DagsterRunStatus.STARTED)),
        submit(server, client, instance, failed),
        submit(server, client, instance, str(uuid4()), age=5),
    }
    ended = submit(server, client, instance, str(uuid4()))
    server.set_status(ended, trace("silver", ended)[-1])
    client.create(APPLICATION.manifest("of-others", "spark"))

    assert reap(client, instance).deleted == ()
    assert set(server.names()) == kept | {ended, "of-others"}


def test_only_the_own_code_location_is_reaped(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    submit(server, client, instance, str(uuid4()))

    assert reap(client, instance, "another").deleted == ()
    assert len(reap(client, instance, "platform").deleted) == 1


def test_one_that_cant_be_deleted_does_not_keep_the_others(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    names = {submit(server, client, instance, str(uuid4())) for _ in range(2)}
    server.fail("DELETE", APPS, 403, status(403, "Forbidden", "cannot delete"))

    reaped = reap(client, instance)

    assert len(reaped.deleted) == 1
    assert len(reaped.failed) == 1
    assert "Not deleted: " in str(reaped)
    assert set(server.names()) < names


def test_what_another_instance_runs_in_the_namespace_is_left_alone(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with DagsterInstance.ephemeral(tempdir=str(tmp_path / "other")) as other:
        started = add_run(other, DagsterRunStatus.STARTED)
        name = submit(server, client, other, started)
        client.create(APPLICATION.manifest("unlabelled", "spark", {"dagster/run-id": "1"}))

        assert reap(client, instance).deleted == ()
        assert reap(client, instance, "platform").deleted == ()
        other.report_run_failed(run_of(other, started))
        assert reap(client, other, grace=0).deleted == (name,)


def test_a_run_without_a_code_location_is_reaped_by_each(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    name = submit(server, client, instance, str(uuid4()), location=None)

    assert reap(client, instance, "platform").deleted == (name,)


def test_the_grace_begins_with_the_runs_end(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    run_id = add_run(instance, DagsterRunStatus.STARTED)
    name = submit(server, client, instance, run_id, age=7200)
    instance.report_run_failed(run_of(instance, run_id))

    assert reap(client, instance).deleted == ()
    assert reap(client, instance, grace=0).deleted == (name,)


def test_a_retry_that_dagster_has_promised_is_waited_for(
    server: ApiServer, client: SparkApplicationClient, instance: DagsterInstance
) -> None:
    run_id = add_run(instance, DagsterRunStatus.STARTED)
    name = submit(server, client, instance, run_id, age=7200)
    instance.report_run_failed(run_of(instance, run_id))
    instance.add_run_tags(run_id, {"dagster/will_retry": "true"})

    assert reap(client, instance, grace=0).deleted == ()
    retry = add_run(instance, DagsterRunStatus.FAILURE, root=run_id)
    assert run_of(instance, retry).parent_run_id == run_id
    assert reap(client, instance, grace=0).deleted == (name,)


def run_of(instance: DagsterInstance, run_id: str) -> DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run
    return run


def test_an_api_server_that_does_not_answer_is_not_waited_for_long(
    server: ApiServer, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "PATIENCE_SECONDS", 0.1)
    patient = SparkApplicationClient(server.api(60), "spark")
    server.silent = True
    began = time.monotonic()

    with pytest.raises(errors.ApiServerUnreachableError):
        reap(patient, instance)
    assert time.monotonic() - began < 10


def test_the_sensor_deletes_what_is_left_of_applications_that_are_gone(
    server: ApiServer, instance: DagsterInstance, s3: MemoryS3, tmp_path: Path
) -> None:
    resource = InMemory.of(s3, write_kubeconfig(tmp_path / "kubeconfig", server.url))
    ended = add_run(instance, DagsterRunStatus.FAILURE)
    active = add_run(instance, DagsterRunStatus.STARTED)
    written = {
        "gone": ended,
        "of-an-active-run": active,
        "of-another-instance": str(uuid4()),
        submit(server, resource.client(), instance, active): ended,
    }
    for name, run_id in written.items():
        write_folder(resource, s3, name, run_id, age=3600)
    write_folder(resource, s3, "fresh", ended, age=10)

    with build_sensor_context(instance, resources={"spark_operator": resource}) as context:
        said = build_reaper_sensor().evaluate_tick(context)

    assert said.skip_message == "Cleared the messages of gone."
    kept = {key.split("/")[3] for key in s3.objects}
    assert kept == {*written, "fresh"} - {"gone"}


def write_folder(
    resource: SparkOperatorResource, s3: MemoryS3, name: str, run_id: str, age: float
) -> None:
    """Write what an application leaves, `age` seconds ago."""
    folder = resource.bucket().folder("spark", name)
    folder.write_context({"run_id": run_id})
    s3.put_object(Bucket="lake", Key=f"{folder.messages_prefix}/1.json", Body="{}")
    for key in s3.objects:
        if key.startswith(f"lake/{folder.prefix}/"):
            s3.written[key] -= timedelta(seconds=age)


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
