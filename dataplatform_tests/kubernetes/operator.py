"""A stand-in of the Spark Operator 2.5.2 for tests: `python -m dataplatform_tests.kubernetes.operator`.

The real one's binary can't be had from package registries. This one watches SparkApplications and their
pods, submits by spark-submit in cluster mode and writes the status in the real one's words and order; its
states are those of `internal/controller/sparkapplication/controller.go` upstream. Left out: the webhook,
ingresses, batch schedulers, scheduled applications, and the events of pods and of suspended applications.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kubernetes import client
from kubernetes.config import new_client_from_config
from kubernetes.watch import Watch
from urllib3.exceptions import HTTPError

from dataplatform.lake.jvm import find_java
from dataplatform_tests.kubernetes.loopback import free_port
from dataplatform_tests.kubernetes.monitoring import config_map, is_wanted, with_monitoring
from dataplatform_tests.kubernetes.oci import spark_home
from dataplatform_tests.kubernetes.submission import (
    APP_NAME,
    DRIVER_CONTAINER,
    LAUNCHED,
    SUBMISSION_ID,
    SubmissionError,
    arguments,
    driver_pod_name,
    owner_reference,
    with_defaults,
)
from dataplatform_tests.kubernetes.workqueue import WorkQueue

App = dict[str, Any]
Key = tuple[str, str]

GROUP: Final = "sparkoperator.k8s.io"
VERSION: Final = "v1beta2"
PLURAL: Final = "sparkapplications"
FREE_PORT: Final = "free-port"
"""In the defaults' `sparkConf`: a port that is free, since all pods share the node's network."""

_GRACE_SECONDS: Final = 10.0
_CONFLICT, _GONE, _NOT_FOUND = 409, 410, 404
_APPLICATION_STATES: Final = {
    "PENDING": "SUBMITTED",
    "RUNNING": "RUNNING",
    "COMPLETED": "SUCCEEDING",
    "FAILED": "FAILING",
    "UNKNOWN": "UNKNOWN",
}
_POD_STATES: Final = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "COMPLETED",
    "Failed": "FAILED",
}
_EVENTS: Final = {
    "SUBMITTED": (
        *("Normal", "SparkApplicationSubmitted"),
        "SparkApplication {name} was submitted successfully",
    ),
    "SUBMISSION_FAILED": (
        *("Warning", "SparkApplicationSubmissionFailed"),
        "failed to submit SparkApplication {name}: {error}",
    ),
    "FAILED": ("Warning", "SparkApplicationFailed", "SparkApplication {name} failed: {error}"),
    "PENDING_RERUN": (
        *("Warning", "SparkApplicationPendingRerun"),
        "SparkApplication {name} is pending rerun",
    ),
}
_KEPT_ON_CHANGE: Final = ("suspend", "timeToLiveSeconds")
_UI_PORT: Final = 4040


@dataclass(frozen=True)
class Options:
    """How the operator runs.

    Attributes:
        kubeconfig: of the API server, for the operator and for spark-submit.
        defaults: `sparkConf` and a pod template for every application.
        ui_service: whether each driver's UI gets a service.
        workers: applications that are submitted or looked after at once.
    """

    kubeconfig: Path
    defaults: App
    ui_service: bool = True
    workers: int = 4


class Operator:
    """Reconciles SparkApplications, each by the handler of the state that it is in."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._api = new_client_from_config(config_file=str(options.kubeconfig))
        self._core = client.CoreV1Api(self._api)
        self._custom = client.CustomObjectsApi(self._api)
        self._queue: WorkQueue[Key] = WorkQueue()
        self._specs: dict[str, App] = {}
        self._invalid: set[str] = set()
        self._states: dict[str, Callable[[App], float | None]] = {
            "": self._submit,
            "RESUMING": self._submit,
            "SUBMITTED": self._submitted,
            "RUNNING": self._follow,
            "UNKNOWN": self._follow,
            "SUBMISSION_FAILED": self._submission_failed,
            "PENDING_RERUN": self._pending_rerun,
            "INVALIDATING": self._invalidating,
            "SUCCEEDING": self._succeeding,
            "FAILING": self._failing,
            "COMPLETED": self._terminated,
            "FAILED": self._terminated,
            "SUSPENDING": self._suspending,
            "SUSPENDED": self._suspended,
        }

    def run(self) -> None:
        """Watch and reconcile until the process ends."""
        list_apps = self._custom.list_cluster_custom_object
        for target in (
            lambda: self._watch(list_apps, self._saw_app, GROUP, VERSION, PLURAL),
            lambda: self._watch(
                self._core.list_pod_for_all_namespaces, self._saw_pod, label_selector=LAUNCHED
            ),
        ):
            threading.Thread(target=target, daemon=True).start()
        _say("watching")
        workers = [
            threading.Thread(target=self._work, daemon=True) for _ in range(self._options.workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def _watch(
        self,
        listing: Callable[..., Any],
        seen: Callable[[App], None],
        *where: str,
        **selection: str,
    ) -> None:
        """List, then watch from there, for ever; what broke is listed anew."""
        while True:
            try:
                for event in Watch().stream(listing, *where, timeout_seconds=300, **selection):
                    seen(self._api.sanitize_for_serialization(event["raw_object"]))
            except (client.ApiException, HTTPError, OSError) as error:
                _say(f"watch broke: {type(error).__name__}")
                time.sleep(0.5)

    def _saw_app(self, app: App) -> None:
        metadata, spec = app["metadata"], copy.deepcopy(app["spec"])
        for field in _KEPT_ON_CHANGE:
            spec.pop(field, None)
        if self._specs.setdefault(metadata["uid"], spec) != spec:
            self._specs[metadata["uid"]] = spec
            self._invalid.add(metadata["uid"])
        self._queue.add((metadata["namespace"], metadata["name"]))

    def _saw_pod(self, pod: App) -> None:
        name = pod["metadata"]["labels"].get(APP_NAME)
        if name:
            self._queue.add((pod["metadata"]["namespace"], name))

    def _work(self) -> None:
        while True:
            key = self._queue.take()
            try:
                after = self._reconcile(key)
            except (client.ApiException, HTTPError, OSError) as error:
                _say(f"{key[1]}: {type(error).__name__} {error}")
                after = 1.0
            finally:
                self._queue.done(key)
            if after is not None:
                self._queue.add(key, after)

    def _reconcile(self, key: Key) -> float | None:
        """Bring one application a step further; return in how many seconds to look again."""
        found = self._get(key)
        if found is None:
            return None
        app = with_defaults(found)
        if app["metadata"].get("deletionTimestamp"):
            self._delete_resources(app)
            return None
        before = copy.deepcopy(app.setdefault("status", {}))
        # Go writes times that were never set as null.
        unset = {"lastSubmissionAttemptTime": None, "terminationTime": None}
        app["status"] = (
            unset | {"driverInfo": {}, "applicationState": {"state": ""}} | app["status"]
        )
        again = self._step(app)
        if app["status"]["applicationState"]["state"] and app["status"] != before:
            self._write_status(app)
            self._record(app, before.get("applicationState", {}).get("state", ""))
        return again

    def _step(self, app: App) -> float | None:
        state = _state(app)
        if app["metadata"]["uid"] in self._invalid:
            self._invalid.discard(app["metadata"]["uid"])
            if state:
                _set_state(app, "INVALIDATING")
                return None
        running = state not in {"COMPLETED", "FAILED", "SUSPENDED", "SUSPENDING"}
        if app["spec"].get("suspend") and running:
            _set_state(app, "SUSPENDING")
            return None
        return self._states[state](app)

    def _submit(self, app: App) -> None:
        """Run spark-submit, which ends when the driver's pod is made."""
        status = app["status"]
        status["submissionID"] = str(uuid.uuid4())
        status["driverInfo"] = {"podName": driver_pod_name(app)}
        status["lastSubmissionAttemptTime"] = _now()
        status["submissionAttempts"] = status.get("submissionAttempts", 0) + 1
        monitored = app
        if is_wanted(app):
            monitored = with_monitoring(app)
            self._keep_config_map(app)
        try:
            spark_submit(monitored, self._options, self._api.configuration.host)
        except SubmissionError as error:
            message = f"failed to submit spark application: {error}"
            status["applicationState"] = {"state": "SUBMISSION_FAILED", "errorMessage": message}
        else:
            status["applicationState"] = {"state": "SUBMITTED"}
            status["executionAttempts"] = status.get("executionAttempts", 0) + 1

    def _submitted(self, app: App) -> float | None:
        again = self._follow(app)
        if again is None and self._options.ui_service:
            self._serve_ui(app)
        return again

    def _follow(self, app: App) -> float | None:
        """Take the state of the driver's pod over, and those of the executors'."""
        pod = self._driver_pod(app)
        if pod is None:
            since = time.time() - _seconds(app["status"]["lastSubmissionAttemptTime"])
            if _state(app) == "SUBMITTED" and since <= _GRACE_SECONDS:
                return 0.5
            app["status"]["applicationState"] = {
                "state": "FAILING",
                "errorMessage": "driver pod not found",
            }
            app["status"]["terminationTime"] = _now()
        else:
            self._take_driver_over(app, pod)
        self._take_executors_over(app)
        return None

    def _take_driver_over(self, app: App, pod: App) -> None:
        status = app["status"]
        selector = pod["metadata"]["labels"].get("spark-app-selector")
        if selector:
            status["sparkApplicationId"] = selector
        state, ended = driver_state(pod), _terminated_container(pod)
        if state in {"COMPLETED", "FAILED"}:
            status["terminationTime"] = status["terminationTime"] or _now()
        if state == "FAILED" and ended is None:
            status["applicationState"]["errorMessage"] = "driver container status missing"
        elif state == "FAILED" and ended and ended["exitCode"]:
            status["applicationState"]["errorMessage"] = (
                f"driver container failed with ExitCode: {ended['exitCode']},"
                f" Reason: {ended.get('reason', '')}"
            )
        _set_state(app, _APPLICATION_STATES[state])

    def _take_executors_over(self, app: App) -> None:
        labels = {APP_NAME: app["metadata"]["name"], "spark-role": "executor"}
        labels[SUBMISSION_ID] = app["status"]["submissionID"]
        pods = self._core.list_namespaced_pod(
            app["metadata"]["namespace"],
            label_selector=",".join(f"{key}={value}" for key, value in labels.items()),
        ).items
        seen = {pod.metadata.name: _POD_STATES.get(pod.status.phase, "UNKNOWN") for pod in pods}
        known = app["status"].get("executorState", {}) | seen
        for name, state in known.items():
            if name not in seen and state not in {"COMPLETED", "FAILED"}:
                lost = "COMPLETED" if _state(app) == "COMPLETED" else "FAILED"
                known[name] = "UNKNOWN" if _state(app) == "RUNNING" else lost
        if known:
            app["status"]["executorState"] = known

    def _submission_failed(self, app: App) -> float | None:
        policy = app["spec"]["restartPolicy"]
        retries = policy.get("onSubmissionFailureRetries")
        attempts = app["status"]["submissionAttempts"]
        if not _retries(policy, retries, attempts):
            _set_state(app, "FAILED")
            app["status"]["terminationTime"] = _now()
            return None
        wait = _until_retry(app, policy["onSubmissionFailureRetryInterval"])
        if wait > 0:
            return wait
        if self._resources_are_gone(app):
            self._submit(app)
            return None
        self._delete_resources(app)
        return 0.5

    def _failing(self, app: App) -> float | None:
        policy, attempts = app["spec"]["restartPolicy"], app["status"].get("executionAttempts", 0)
        if not _retries(policy, policy.get("onFailureRetries"), attempts):
            _set_state(app, "FAILED")
            return None
        wait = _until_retry(app, policy["onFailureRetryInterval"])
        if wait <= 0:
            self._run_again(app)
            return None
        return wait

    def _succeeding(self, app: App) -> None:
        if app["spec"]["restartPolicy"]["type"] == "Always":
            self._run_again(app)
        else:
            _set_state(app, "COMPLETED")

    def _invalidating(self, app: App) -> None:
        self._run_again(app)
        app["status"]["lastSubmissionAttemptTime"] = None
        for count in ("submissionAttempts", "executionAttempts"):
            app["status"].pop(count, None)

    def _run_again(self, app: App) -> None:
        self._delete_resources(app)
        app["status"]["terminationTime"] = None
        _forget_driver(app, "PENDING_RERUN")

    def _pending_rerun(self, app: App) -> float | None:
        if not self._resources_are_gone(app):
            return 0.2
        self._submit(app)
        return None

    def _suspending(self, app: App) -> None:
        self._delete_resources(app)
        _forget_driver(app, "SUSPENDED")

    def _suspended(self, app: App) -> float | None:
        if not self._resources_are_gone(app):
            return 0.5
        if not app["spec"].get("suspend"):
            app["status"]["applicationState"] = {"state": "RESUMING"}
        return None

    def _terminated(self, app: App) -> float | None:
        """Delete an application whose time is over, else look after its executors."""
        lifetime, ended = app["spec"].get("timeToLiveSeconds"), app["status"]["terminationTime"]
        left = None
        if lifetime is not None and ended:
            left = _seconds(ended) + lifetime - time.time()
            if left < 0:
                metadata = app["metadata"]
                self._custom.delete_namespaced_custom_object(
                    GROUP, VERSION, metadata["namespace"], PLURAL, metadata["name"]
                )
                return None
        self._take_executors_over(app)
        return left

    def _get(self, key: Key) -> App | None:
        try:
            return self._custom.get_namespaced_custom_object(GROUP, VERSION, key[0], PLURAL, key[1])
        except client.ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _write_status(self, app: App) -> None:
        """Write the status, onto the newest version: nobody else writes it."""
        key = (app["metadata"]["namespace"], app["metadata"]["name"])
        newest = self._get(key)
        while newest is not None:
            newest["status"] = app["status"]
            try:
                self._custom.replace_namespaced_custom_object_status(
                    GROUP, VERSION, key[0], PLURAL, key[1], newest
                )
                return
            except client.ApiException as error:
                if error.status not in {_CONFLICT, _NOT_FOUND}:
                    raise
                newest = self._get(key)

    def _driver_pod(self, app: App) -> App | None:
        name, namespace = app["status"]["driverInfo"]["podName"], app["metadata"]["namespace"]
        try:
            pod = self._core.read_namespaced_pod(name, namespace)
        except client.ApiException as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return self._api.sanitize_for_serialization(pod)

    def _delete_resources(self, app: App) -> None:
        namespace, info = app["metadata"]["namespace"], app.get("status", {}).get("driverInfo", {})
        pod = info.get("podName") or driver_pod_name(app)
        _ignoring_absence(lambda: self._core.delete_namespaced_pod(pod, namespace))
        service = info.get("webUIServiceName")
        if service:
            _ignoring_absence(lambda: self._core.delete_namespaced_service(service, namespace))

    def _resources_are_gone(self, app: App) -> bool:
        pod = app["status"]["driverInfo"].get("podName") or driver_pod_name(app)
        try:
            self._core.read_namespaced_pod(pod, app["metadata"]["namespace"])
        except client.ApiException as error:
            return error.status == _NOT_FOUND
        return False

    def _serve_ui(self, app: App) -> None:
        """Make the service of the driver's UI, at the port that the driver was given."""
        pod, name = self._driver_pod(app), f"{app['metadata']['name']}-ui-svc"
        if pod is None:
            return
        port = _ui_port(pod)
        selector = {APP_NAME: app["metadata"]["name"], "spark-role": "driver"}
        ports = [{"name": "spark-driver-ui-port", "port": port, "targetPort": port}]
        metadata = {
            "name": name,
            "labels": {key: selector[key] for key in (APP_NAME,)},
            "ownerReferences": [owner_reference(app, controller=True)],
        }
        body = {"metadata": metadata, "spec": {"selector": selector, "ports": ports}}
        namespace = app["metadata"]["namespace"]
        try:
            service = self._core.create_namespaced_service(namespace, body)
        except client.ApiException as error:
            if error.status != _CONFLICT:
                raise
            service = self._core.read_namespaced_service(name, namespace)
        app["status"]["driverInfo"] |= {
            "webUIServiceName": name,
            "webUIPort": port,
            "webUIAddress": f"{service.spec.cluster_ip}:{port}",
        }

    def _keep_config_map(self, app: App) -> None:
        body, namespace = config_map(app), app["metadata"]["namespace"]
        if body is None:
            return
        name = body["metadata"]["name"]
        _ignoring_absence(lambda: self._core.delete_namespaced_config_map(name, namespace))
        self._core.create_namespaced_config_map(namespace, body)

    def _record(self, app: App, before: str) -> None:
        """Tell of a new state in the operator's log and, as upstream does, as an event."""
        state, metadata = _state(app), app["metadata"]
        if state == before:
            return
        _say(f"{metadata['name']}: {before or 'NEW'} → {state}")
        # Upstream has none for an application whose driver failed, nor for one that completed.
        if state not in _EVENTS or (state == "FAILED" and before != "SUBMISSION_FAILED"):
            return
        kind, reason, text = _EVENTS[state]
        detail = app["status"]["applicationState"].get("errorMessage", "")
        names = {key: metadata[key] for key in ("name", "namespace", "uid")}
        self._core.create_namespaced_event(
            metadata["namespace"],
            {
                "metadata": {"generateName": f"{metadata['name']}."},
                "involvedObject": names | {"apiVersion": app["apiVersion"], "kind": app["kind"]},
                "type": kind,
                "reason": reason,
                "message": text.format(name=metadata["name"], error=detail)[:1024],
                "firstTimestamp": _now(),
                "lastTimestamp": _now(),
                "count": 1,
                "source": {"component": "spark-application-controller"},
            },
        )


def spark_submit(app: App, options: Options, server: str) -> None:
    """Submit an application by spark-submit.

    Raises:
        SubmissionError: spark-submit refused; the text has what it wrote.
    """
    home = spark_home()
    environment = os.environ | {
        "KUBECONFIG": str(options.kubeconfig),
        "SPARK_HOME": str(home),
        "JAVA_HOME": str(find_java()),
        "SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }
    defaults = copy.deepcopy(options.defaults)
    for key, value in defaults.get("sparkConf", {}).items():
        if value == FREE_PORT:
            defaults["sparkConf"][key] = str(free_port())
    with tempfile.TemporaryDirectory(prefix="spark-") as folder:
        command = [str(home / "bin" / "spark-submit")]
        command += arguments(app, f"k8s://{server}", Path(folder), defaults)
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode and "code=409" in run.stderr:
        raise SubmissionError("failed to run spark-submit: driver pod already exist")
    if run.returncode:
        why = run.stderr or f"exit status {run.returncode}"
        raise SubmissionError(f"failed to run spark-submit: failed to run spark-submit: {why}")


def driver_state(pod: App) -> str:
    """Return the state of a driver by its pod."""
    phase, ended = pod["status"].get("phase"), _terminated_container(pod)
    if phase in {"Running", "Failed"} and ended:
        return "FAILED" if ended["exitCode"] else "COMPLETED"
    return _POD_STATES.get(phase, "UNKNOWN")


def _terminated_container(pod: App) -> App | None:
    for container in pod["status"].get("containerStatuses") or []:
        if container["name"] == DRIVER_CONTAINER:
            return container["state"].get("terminated")
    return None


def _ui_port(pod: App) -> int:
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == "spark-ui":
                return port["containerPort"]
    return _UI_PORT


def _retries(policy: App, limit: int | None, attempts: int) -> bool:
    if policy["type"] == "OnFailure":
        return limit is not None and attempts <= limit
    return policy["type"] == "Always"


def _until_retry(app: App, interval: int) -> float:
    """Return the seconds until the next attempt; each waits one interval longer."""
    status = app["status"]
    wait = interval * status["submissionAttempts"]
    return wait - (time.time() - _seconds(status["lastSubmissionAttemptTime"]))


def _forget_driver(app: App, state: str) -> None:
    app["status"]["driverInfo"] = {}
    app["status"]["applicationState"] = {"state": state}
    for field in ("sparkApplicationId", "executorState"):
        app["status"].pop(field, None)


def _state(app: App) -> str:
    return app["status"]["applicationState"]["state"]


def _set_state(app: App, state: str) -> None:
    app["status"]["applicationState"]["state"] = state


def _ignoring_absence(call: Callable[[], object]) -> None:
    try:
        call()
    except client.ApiException as error:
        if error.status != _NOT_FOUND:
            raise


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)  # noqa: T201


def _end(failed: threading.ExceptHookArgs) -> None:
    """End the process where a thread failed: an operator without it would leave applications as they are."""
    sys.__excepthook__(failed.exc_type, failed.exc_value or RuntimeError(), failed.exc_traceback)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--defaults", type=Path, help="JSON with sparkConf and a pod template")
    parser.add_argument("--no-ui-service", dest="ui_service", action="store_false")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    threading.excepthook = _end
    defaults = json.loads(given.defaults.read_text()) if given.defaults else {}
    Operator(Options(given.kubeconfig, defaults, given.ui_service, given.workers)).run()


if __name__ == "__main__":
    main()
