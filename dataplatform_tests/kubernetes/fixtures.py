"""Fixtures of the tier `kubernetes`: one node and one operator for all of its tests."""

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest

from dataplatform_tests.kubernetes.oci import CHECKOUT

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

DATA: Final = Path(__file__).with_name("data") / "spark-operator"
_CRD: Final = DATA / "sparkoperator.k8s.io_sparkapplications.yaml"
_RBAC: Final = Path(__file__).with_name("rbac.yaml")


@dataclass(frozen=True)
class OperatorProcess:
    """The stand-in of the Spark Operator, running.

    Attributes:
        name: by which `Node.kill` ends it, as a crash would.
        log: what it says of each application.
    """

    name: str
    log: Path


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Node]":
    """Start a Kubernetes node that knows SparkApplications; skips where none can run."""
    from dataplatform_tests.kubernetes import node

    why_not = node.missing()
    if why_not:
        pytest.skip(why_not)
    with run_cluster() as started:
        yield started


@pytest.fixture(scope="session")
def operator(cluster: "Node") -> Iterator[OperatorProcess]:
    """Start the stand-in of the Spark Operator for all namespaces of the node."""
    with run_operator(cluster) as process:
        yield process


@pytest.fixture
def spark_namespace(cluster: "Node") -> Iterator[str]:
    """Make a namespace with a service account `spark` that a driver may have; ends it, unwaited."""
    name = make_namespace(cluster)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def run_cluster() -> "Generator[Node]":
    """Run a Kubernetes node that knows SparkApplications until the end of the block."""
    from dataplatform_tests.kubernetes import node

    with node.running(_tell) as started:
        started.kubectl("apply", "--server-side", "-f", str(_CRD))
        started.wait("SparkApplications", lambda: _knows_applications(started))
        yield started


def make_namespace(node: "Node") -> str:
    """Make a namespace with a service account `spark` that a driver may have."""
    name = f"spark-{uuid4().hex[:8]}"
    node.kubectl("create", "namespace", name)
    node.kubectl("apply", "-n", name, "-f", str(_RBAC))
    return name


@contextmanager
def run_operator(node: "Node", *options: str) -> Generator[OperatorProcess]:
    """Run the operator until the end of the block.

    Args:
        node: where it runs applications.
        options: more of its command line, such as `--workers=8`.
    """
    name = f"operator-{uuid4().hex[:8]}"
    defaults = node.layout.folder / f"{name}.json"
    defaults.write_text(json.dumps(operator_defaults(node)))
    command = [*node.layout.python("operator"), f"--kubeconfig={node.kubeconfig}"]
    command += [f"--defaults={defaults}", *options]
    log = node.launch(name, command, {"PYTHONPATH": str(CHECKOUT)})
    node.wait("operator", lambda: "watching" in log.read_text())
    yield OperatorProcess(name, log)
    if node.runs(name):
        node.kill(name)


def pod_spec(node: "Node") -> dict[str, Any]:
    """Return what a pod of the image `oci.IMAGE` needs on this node: network, addresses, volumes.

    Its one container has the name `main`. Lay a pod's own specification over it with
    `submission.laid_over`.
    """
    from dataplatform_tests.kubernetes import loopback, oci

    volumes, mounts = [], []
    for index, path in enumerate([*oci.host_paths(), node.shared]):
        volumes.append({"name": f"host-{index}", "hostPath": {"path": str(path)}})
        mount = {"name": f"host-{index}", "mountPath": str(path)}
        mounts.append(mount if path == node.shared else mount | {"readOnly": True})
    environment = {
        "SPARK_LOCAL_IP": loopback.ADDRESS,
        # In place of the address of the service `kubernetes`, which nothing routes.
        "KUBERNETES_SERVICE_HOST": loopback.ADDRESS,
        "KUBERNETES_SERVICE_PORT": str(node.layout.ports["kube-apiserver"]),
    }
    container = {
        "name": "main",
        "volumeMounts": mounts,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    return {
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "volumes": volumes,
        "containers": [container],
    }


def operator_defaults(node: "Node") -> dict[str, Any]:
    """Return what the operator adds to each application, so that its spec stays a real cluster's."""
    from dataplatform_tests.kubernetes.operator import FREE_PORT

    small = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    return {
        "template": {"spec": pod_spec(node)},
        "sparkConf": {
            # What a test puts there stands for the jars that an image has beside Spark's own.
            "spark.driver.extraClassPath": f"{node.shared}/jars/*",
            "spark.executor.extraClassPath": f"{node.shared}/jars/*",
            # All pods share one network.
            "spark.driver.port": FREE_PORT,
            "spark.driver.blockManager.port": FREE_PORT,
            "spark.ui.port": FREE_PORT,
            "spark.blockManager.port": "0",
            # All executors seem to be on one host, but none sees another's files.
            "spark.shuffle.readHostLocalDisk": "false",
            # Not by the name and port of the service `kubernetes`, which nothing routes.
            "spark.kubernetes.driver.master": node.server,
            # A driver and two executors on a machine of two cores.
            "spark.kubernetes.driver.request.cores": "0.1",
            "spark.kubernetes.executor.request.cores": "0.1",
            "spark.driver.defaultJavaOptions": small,
            "spark.executor.defaultJavaOptions": small,
        },
    }


def _knows_applications(node: "Node") -> bool:
    from kubernetes import client

    with node.api() as api:
        client.CustomObjectsApi(api).list_cluster_custom_object(
            "sparkoperator.k8s.io", "v1beta2", "sparkapplications"
        )
    return True


def _tell(line: str) -> None:
    # pytest captures it, and shows it with the test that failed.
    print(line, flush=True)  # noqa: T201
