"""Dagster in its pods on the node, asked as its UI asks."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from dataplatform_tests.kubernetes import loopback, oci
from dataplatform_tests.kubernetes.deployment import Deployment
from dataplatform_tests.kubernetes.shipped import CODE_SERVER, DAEMON, WEB_SERVER

PATIENCE_SECONDS: Final = 900.0
LOCATION: Final = "dataplatform"
_REPOSITORY: Final = "__repository__"
_LAUNCH: Final = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
_AUTOMATIONS: Final = """
query ($repository: RepositorySelector!) {
  repositoryOrError(repositorySelector: $repository) {
    ... on Repository { schedules { id name } sensors { id name } }
    ... on PythonError { message }
  }
}
"""
_STOP: Final = {
    "schedules": "mutation ($id: String!) { done: stopRunningSchedule(id: $id) { __typename } }",
    "sensors": "mutation ($id: String!) { done: stopSensor(id: $id) { __typename } }",
}
_TERMINATE: Final = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"


@dataclass(frozen=True)
class Control:
    """Launches, follows and ends runs, as the UI and the daemon do.

    Attributes:
        instance: that of `dagster.cluster.yaml`.
        platform: where runs get their pods.
    """

    instance: DagsterInstance
    platform: Deployment

    def launch(self, job: str, tags: Mapping[str, str], assets: Sequence[AssetKey] = ()) -> str:
        """Queue a run of a job, or of some of its assets; returns its id."""
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": _REPOSITORY,
            "jobName": job,
            "assetSelection": [key.to_graphql_input() for key in assets] or None,
        }
        described = [{"key": key, "value": value} for key, value in tags.items()]
        params = {"selector": selector, "executionMetadata": {"tags": described}}
        answer = self._ask(_LAUNCH, params=params | {"runConfigData": {}})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        """Cancel a run."""
        answer = self._ask(_TERMINATE, run=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def run(self, run_id: str) -> DagsterRun:
        """Return a run as it is now."""
        found = self.instance.get_run_by_id(run_id)
        assert found is not None
        return found

    def retries(self, run_id: str) -> list[DagsterRun]:
        """Return the runs that retry another one."""
        return list(self.instance.get_runs(RunsFilter(tags={"dagster/parent_run_id": run_id})))

    def ended(self, run_id: str) -> DagsterRunStatus:
        """Wait for the end of a run."""
        self.wait("end of the run", lambda: self.run(run_id).is_finished)
        return self.run(run_id).status

    def wait_for_executors(self, run_id: str) -> None:
        """Wait until the application of a run has executors.

        Raises:
            AssertionError: the run ended first.
        """

        def seen() -> bool:
            return self.run(run_id).is_finished or any(
                map(_has_executors, self.platform.of_run(run_id))
            )

        self.wait("executors", seen)
        assert not self.run(run_id).is_finished, self.said(run_id)

    def wait(self, what: str, holds: Any) -> None:
        """Wait until something holds, while the node's programs run."""
        self.platform.node.wait(what, holds, seconds=PATIENCE_SECONDS)

    def said(self, run_id: str) -> str:
        """Return all that was logged of a run."""
        return "\n".join(str(entry) for entry in self.instance.all_logs(run_id))

    def stop_automations(self) -> None:
        """Stop schedules and sensors, which would start runs of their own."""
        names = {"repositoryLocationName": LOCATION, "repositoryName": _REPOSITORY}
        found = self._ask(_AUTOMATIONS, repository=names)["repositoryOrError"]
        for kind, mutation in _STOP.items():
            assert found.get(kind), found
            for one in found[kind]:
                answer = self._ask(mutation, id=one["id"])["done"]
                assert "Error" not in answer["__typename"], (one, answer)

    def _ask(self, query: str, **variables: Any) -> Any:
        url = f"http://{loopback.ADDRESS}:{self.platform.shipped.web_port}/graphql"
        body = {"query": query, "variables": variables}
        answer = httpx.post(url, json=body, timeout=PATIENCE_SECONDS)
        assert answer.is_success, answer.text
        return answer.json()["data"]


def _has_executors(application: Mapping[str, Any]) -> bool:
    return "RUNNING" in application.get("status", {}).get("executorState", {}).values()


@contextmanager
def control(platform: Deployment) -> Generator[Control]:
    """Start code server, web server and daemon; the caller's environment is the settings'."""
    platform.start(CODE_SERVER, WEB_SERVER)
    assert_healthy(platform)
    with DagsterInstance.from_config(str(dagster_home(platform))) as instance:
        running = Control(instance, platform)
        running.stop_automations()
        platform.start(DAEMON)
        yield running


def assert_healthy(platform: Deployment) -> None:
    """Ask the code server what the kubelet asks by the shipped probe."""
    probe = platform.shipped.grpc_probe
    with grpc.insecure_channel(f"{loopback.ADDRESS}:{platform.shipped.grpc_port}") as channel:
        answer = HealthStub(channel).Check(HealthCheckRequest(service=probe["service"]))
    assert answer.status == HealthCheckResponse.SERVING


def dagster_home(platform: Deployment) -> Path:
    """Write `dagster.cluster.yaml` for a process outside of the node: only its folders differ."""
    home = platform.folder / "dagster"
    home.mkdir()
    config = yaml.safe_load((oci.CHECKOUT / "dagster.cluster.yaml").read_text())
    for section in ("compute_logs", "local_artifact_storage"):
        [(name, _)] = config[section]["config"].items()
        config[section]["config"][name] = str(home / section)
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return home
