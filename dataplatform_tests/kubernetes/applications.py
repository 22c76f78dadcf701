"""SparkApplications of the tests: what a user of a real cluster writes, and what becomes of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kubernetes import client
from kubernetes.watch import Watch

from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.operator import GROUP, PLURAL, VERSION

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

TERMINAL: Final = frozenset({"COMPLETED", "FAILED"})
PATIENCE_SECONDS: Final = 600
"""On an idle machine an application is over in half a minute."""


def manifest(name: str, main: Path | str, **spec: Any) -> dict[str, Any]:
    """Return an application of a small driver and two small executors."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "SparkApplication",
        "metadata": {"name": name},
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "pythonVersion": "3",
            "sparkVersion": "3.5.0",
            "image": oci.IMAGE,
            "mainApplicationFile": f"local://{main}",
            "restartPolicy": {"type": "Never"},
            "driver": {"cores": 1, "memory": "512m", "serviceAccount": "spark"},
            "executor": {"instances": 2, "cores": 1, "memory": "512m"},
        }
        | spec,
    }


def create(node: "Node", namespace: str, application: dict[str, Any]) -> None:
    with node.api() as api:
        client.CustomObjectsApi(api).create_namespaced_custom_object(
            GROUP, VERSION, namespace, PLURAL, application
        )


def statuses(
    node: "Node",
    namespace: str,
    name: str,
    until: Callable[[dict[str, Any]], bool] = lambda status: state(status) in TERMINAL,
) -> Iterator[dict[str, Any]]:
    """Yield each status that the operator writes, to the one that `until` holds for."""
    with node.api() as api:
        applications = client.CustomObjectsApi(api).list_namespaced_custom_object
        where = {"field_selector": f"metadata.name={name}", "timeout_seconds": PATIENCE_SECONDS}
        for event in Watch().stream(applications, GROUP, VERSION, namespace, PLURAL, **where):
            status = event["raw_object"].get("status", {})
            if state(status):
                yield status
            if until(status):
                return
    raise TimeoutError(f"{name} is not there after {PATIENCE_SECONDS} s: {status}")


def state(status: dict[str, Any]) -> str:
    return status.get("applicationState", {}).get("state", "")
