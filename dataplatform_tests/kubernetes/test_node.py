"""The node itself: pods run on it, it survives its API server, and it leaves nothing behind."""

import http.server
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import psutil
import pytest
from kubernetes import client
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.fixtures import pod_spec
from dataplatform_tests.kubernetes.loopback import ADDRESS
from dataplatform_tests.kubernetes.node import Node
from dataplatform_tests.kubernetes.sockets import interfaces, used
from dataplatform_tests.kubernetes.submission import laid_over

pytestmark = pytest.mark.kubernetes

ASK = """
import socket, sys, urllib.request
from kubernetes import client, config

print(urllib.request.urlopen(sys.argv[1]).read().decode(), socket.gethostbyname("any.where.svc"))
config.load_incluster_config()
core = client.CoreV1Api()
print("pods", len(core.list_namespaced_pod(sys.argv[2]).items))
try:
    core.list_namespaced_secret(sys.argv[2])
except client.ApiException as error:
    print("secrets", error.status)
"""
START = """
import time
from dataplatform_tests.kubernetes import node

with node.running(lambda line: None) as started:
    print(started.layout.folder, flush=True)
    started.kubectl("apply", "-f", "-", stdin='''
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  hostNetwork: true
  containers: [{name: main, image: "registry.test/busybox:1"}]
''')
    started.kubectl("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=120s")
    print(started.server, flush=True)
    time.sleep(600)
"""
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def address() -> Iterator[str]:
    """Serve the word `hello` at 127.0.0.1, as a server of the stack would be."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def apply_pod(node: Node, namespace: str, spec: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    node.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(pod))


def run_pod(node: Node, namespace: str, spec: dict[str, Any]) -> str:
    """Run a pod to its end and return what it wrote."""
    apply_pod(node, namespace, spec)
    with node.api() as api:
        core = client.CoreV1Api(api)

        def ended() -> bool:
            phase = core.read_namespaced_pod("one", namespace).status.phase
            return phase in {"Succeeded", "Failed"}

        node.wait("end of the pod", ended)
    return node.kubectl("logs", "-n", namespace, "one")


def test_a_pod_runs(cluster: Node, spark_namespace: str) -> None:
    container = {"name": "main", "image": oci.BUSYBOX, "command": ["sh", "-c", "echo $((6 * 7))"]}
    spec = {"hostNetwork": True, "restartPolicy": "Never", "containers": [container]}
    assert run_pod(cluster, spark_namespace, spec) == "42\n"


def test_a_restricted_pod_reaches_this_machine_and_the_api_server_with_its_own_rights(
    cluster: Node, spark_namespace: str, address: str
) -> None:
    script = cluster.shared / f"{spark_namespace}-ask.py"
    script.write_text(ASK)
    container = {"name": "main", "image": oci.IMAGE, "securityContext": RESTRICTED}
    container["args"] = ["python", str(script), address, spark_namespace]
    spec = {"restartPolicy": "Never", "serviceAccountName": "spark", "containers": [container]}
    written = run_pod(cluster, spark_namespace, laid_over(spec, pod_spec(cluster)))
    assert written.splitlines() == [f"hello {ADDRESS}", "pods 1", "secrets 403"]


# containerd misses the end of a container that has just begun: the reason is then a mere `Error`.
HUNGRY = ["python", "-c", "import time; time.sleep(2); b'x' * 10**9"]


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"args": HUNGRY, "resources": {"limits": {"memory": "100Mi"}}}, "OOMKilled"),
        ({"image": "registry.test/absent:1"}, "ErrImagePull"),
        ({"resources": {"requests": {"cpu": "1000"}}}, "Unschedulable"),
    ],
)
def test_a_pod_that_does_not_run_says_why(
    cluster: Node, spark_namespace: str, container: dict[str, Any], reason: str
) -> None:
    spec = {
        "restartPolicy": "Never",
        "containers": [{"name": "main", "image": oci.IMAGE} | container],
    }
    apply_pod(cluster, spark_namespace, laid_over(spec, pod_spec(cluster)))
    where = ["pod", "one", "-n", spark_namespace, "-o", "jsonpath={.status}"]
    cluster.wait(reason, lambda: reason in cluster.kubectl("get", *where), seconds=60)


def test_its_programs_use_127_0_0_1_alone(cluster: Node) -> None:
    found = used(cluster)
    assert all(found[name] == {ADDRESS} for name in PROGRAMS), found
    assert set().union(*found.values()) == {ADDRESS}


def test_the_api_server_may_be_lost_and_come_back(cluster: Node) -> None:
    cluster.kill("kube-apiserver")
    with pytest.raises(httpx.ConnectError):
        cluster.api_is_ready()
    cluster.start("kube-apiserver")
    cluster.wait("API server", cluster.api_is_ready)
    cluster.wait("node", cluster.is_ready)


def test_the_kubelet_leaves_the_settings_of_the_kernel_alone(cluster: Node) -> None:
    written = (cluster.layout.folder / "sysctls" / "kernel.panic").read_text()
    assert written.strip() == "10"
    assert Path("/proc/sys/kernel/panic").read_text().strip() != "10"


def test_a_node_beside_ends_with_the_test_that_is_killed(cluster: Node) -> None:
    before = interfaces()
    environment = os.environ | {"PYTHONPATH": str(oci.CHECKOUT)}
    started = subprocess.Popen(
        [sys.executable, "-c", START], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert started.stdout
    with started.stdout as lines:
        folder, server = lines.readline().strip(), lines.readline().strip()
    assert server not in {"", cluster.server}
    assert len(processes(folder)) > 8
    assert interfaces() == before
    started.send_signal(signal.SIGKILL)
    started.wait()
    nothing_runs(folder)
    mounts = Path("/proc/self/mounts").read_text()
    assert folder not in mounts
    assert cluster.is_ready()


def processes(folder: str) -> list[str]:
    return [
        process.info["name"]
        for process in psutil.process_iter(["name", "cmdline"])
        if any(folder in part for part in process.info["cmdline"] or [])
    ]


@retry(stop=stop_after_delay(30), wait=wait_fixed(0.2), reraise=True)
def nothing_runs(folder: str) -> None:
    assert processes(folder) == []
