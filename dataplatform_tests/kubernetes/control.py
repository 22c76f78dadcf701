"""Dagster beside the node: code location, the daemon's loops, and what the UI asks for."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml
from dagster import AssetKey, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.controller import create_daemon_of_type
from dagster._daemon.daemon import MonitoringDaemon
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon
from dagster._grpc.client import DagsterGrpcClient
from dagster_graphql.test.utils import execute_dagster_graphql
from kubernetes.config import incluster_config

from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.deployment import DAEMON_ACCOUNT, Deployment

PATIENCE_SECONDS: Final = 900.0
LOCATION: Final = "dataplatform"
_HOST: Final = "127.0.0.1"
_LOOPS: Final = (QueuedRunCoordinatorDaemon, MonitoringDaemon, EventLogConsumerDaemon)
"""Of the daemon; without sensors and schedules, which would start runs of their own."""
_LAUNCH: Final = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""
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
    _workspace: WorkspaceProcessContext

    def launch(self, job: str, tags: Mapping[str, str], assets: Sequence[AssetKey] = ()) -> str:
        """Queue a run of a job, or of some of its assets; returns its id."""
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
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

    def _ask(self, query: str, **variables: Any) -> Any:
        with self._workspace.create_request_context() as context:
            return execute_dagster_graphql(context, query, variables).data


def _has_executors(application: Mapping[str, Any]) -> bool:
    return "RUNNING" in application.get("status", {}).get("executorState", {}).values()


@contextmanager
def control(platform: Deployment, environment: Mapping[str, str]) -> Generator[Control]:
    """Start the code location and the daemon's loops; the caller's environment is the settings'."""
    home = dagster_home(platform)
    with (
        _in_cluster(platform),
        _code_location(platform, {**environment, "DAGSTER_HOME": str(home)}) as port,
        DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, GrpcServerTarget(_HOST, port, None, LOCATION)) as space,
        _daemon(space),
    ):
        yield Control(instance, platform, space)


@contextmanager
def _in_cluster(platform: Deployment) -> Generator[None]:
    """Give this process what a pod of the daemon has: runs get its instance, login included."""
    token = platform.folder / "daemon.token"
    token.write_text(platform.token(DAEMON_ACCOUNT))
    url = urlsplit(platform.node.server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBERNETES_SERVICE_HOST", str(url.hostname))
        patch.setenv("KUBERNETES_SERVICE_PORT", str(url.port))
        patch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
        certificate = str(platform.node.layout.api_certificate)
        patch.setattr(incluster_config, "SERVICE_CERT_FILENAME", certificate)
        yield


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


@contextmanager
def _code_location(platform: Deployment, environment: Mapping[str, str]) -> Generator[int]:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "code-server", "start", "--host", _HOST]
    command += ["--port", str(port), "--module-name", "dataplatform.definitions"]
    command += ["--container-context", json.dumps(platform.container_context())]
    log = platform.folder / "code-location.log"
    image = {"DAGSTER_CURRENT_IMAGE": oci.IMAGE}
    with log.open("wb") as written:
        server = subprocess.Popen(
            command, stdout=written, stderr=written, env={**environment, **image}, cwd=log.parent
        )
    try:
        platform.node.wait("code location", lambda: _answers(port), seconds=PATIENCE_SECONDS)
        yield port
    finally:
        server.terminate()
        server.wait(60)


def _answers(port: int) -> bool:
    with suppress(DagsterUserCodeUnreachableError):
        DagsterGrpcClient(port=port, host=_HOST).ping("")
        return True
    return False


@contextmanager
def _daemon(space: WorkspaceProcessContext) -> Generator[None]:
    over = threading.Event()
    loops: list[Any] = [
        create_daemon_of_type(kind.daemon_type(), space.instance) for kind in _LOOPS
    ]

    def work() -> None:
        while not over.wait(1):
            for loop in loops:
                for _ in loop.run_iteration(space):
                    pass

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
