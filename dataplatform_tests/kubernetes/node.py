"""A real Kubernetes node of one machine: etcd, control plane, kubelet and containerd, without Docker.

It runs in process and mount namespaces of its own, listens at 127.0.0.1 and changes nothing else: one
process to end ends all, containers and mounts included. There is no pod network: pods with
`hostNetwork: true` run, and reach the servers at 127.0.0.1.
"""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from kubernetes import client
from kubernetes.config import new_client_from_config
from urllib3.exceptions import HTTPError

from dataplatform_tests.kubernetes import loopback, oci
from dataplatform_tests.kubernetes.binaries import node_programs
from dataplatform_tests.kubernetes.components import (
    NODE_NAME,
    Layout,
    commands,
    write_configuration,
    write_kubeconfig,
)

READY_SECONDS: Final = 180.0
"""A node is ready after some ten seconds; a machine at work on other things takes longer."""
_FOLDER: Final = Path(tempfile.gettempdir()) / "dataplatform-kubernetes"
"""Not pytest's folder: the path of a socket may have 107 characters."""
_TAIL_LINES: Final = 15

Tell = Callable[[str], None]


class NodeError(RuntimeError):
    """The node did not start; carries the last lines of its programs' logs."""


def missing() -> str:
    """Return why no node can run on this machine; empty where one can."""
    if os.geteuid() != 0:
        return "a Kubernetes node needs root: containers, mounts and cgroups are made"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "namespaces can't be made here (unshare is refused)"


@dataclass(frozen=True)
class Node:
    """A running node.

    Attributes:
        layout: its folders and its ports.
        kubeconfig: for the administrator (context `admin`) and a user without rights (`plain`).
        shared: a folder that every pod of the operator's mounts at the same path, writable by all.
    """

    layout: Layout
    kubeconfig: Path
    shared: Path
    _init: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def server(self) -> str:
        """Return the address of the API server."""
        return self.layout.server

    def api(self, context: str = "admin") -> client.ApiClient:
        """Return a client of the API server for one of the users."""
        return new_client_from_config(config_file=str(self.kubeconfig), context=context)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator and return what it wrote."""
        command = [str(self.layout.programs / "kubectl"), f"--kubeconfig={self.kubeconfig}"]
        command.append(f"--cache-dir={self.layout.folder / 'kubectl'}")
        run = subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise NodeError(f"kubectl {' '.join(arguments)}: {run.stderr.strip()}")
        return run.stdout

    def requests(self, account: str) -> list[dict[str, Any]]:
        """Return what a service account has asked the API server, as the audit log tells it.

        Args:
            account: `namespace:name`.
        """
        user = f"system:serviceaccount:{account}"
        events = map(json.loads, self.layout.audit.read_text().splitlines())
        return [event for event in events if event["user"]["username"] == user]

    def start(self, name: str) -> None:
        """Start one of the node's programs, for the first time or again."""
        command, environment = commands(self.layout)[name]
        self.launch(name, command, environment)

    def launch(self, name: str, command: list[str], environment: dict[str, str]) -> Path:
        """Start any program that is to end with the node, and return its log."""
        self._tell_init({"name": name, "command": command, "environment": environment})
        return self.layout.log(name)

    def kill(self, name: str) -> None:
        """Kill a program that was started here, as a crash would, and wait until it is gone."""
        self._tell_init({"name": name, "signal": "SIGKILL"})
        self.wait(name, lambda: self._ended(name) is not None, fails=False)

    def runs(self, name: str) -> bool:
        """Return whether a program that was started here has not ended."""
        return self._ended(name) is None

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the node, containers included."""
        return psutil.Process(self._init.pid).children(recursive=True)

    def import_image(self, archive: Path) -> None:
        """Give an image in an OCI archive to the node's pods, which may not pull."""
        ctr = self.layout.debian / "usr/bin/ctr"
        command = [str(ctr), "-a", str(self.layout.socket), "-n", "k8s.io", "images", "import"]
        subprocess.run([*command, str(archive)], check=True, capture_output=True)

    def logs(self) -> str:
        """Return the last lines of what each program wrote."""
        parts = []
        for log in sorted(self.layout.logs.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            parts.append("\n".join([f"-- {log.name}", *lines]))
        return "\n".join(parts)

    def wait(
        self,
        what: str,
        ready: Callable[[], bool],
        *,
        fails: bool = True,
        seconds: float = READY_SECONDS,
    ) -> None:
        """Wait until `ready`.

        Raises:
            NodeError: it is not in time, or one of the node's programs ended meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not self._answers(ready):
            gone = [name for name in commands(self.layout) if self._ended(name) is not None]
            if (gone and fails) or time.monotonic() > deadline:
                why = f"{gone[0]} ended with {self._ended(gone[0])}" if gone else "time is up"
                raise NodeError(f"no {what} after {seconds:.0f} s: {why}\n{self.logs()}")
            time.sleep(0.1)

    def api_is_ready(self) -> bool:
        """Return whether the API server answers that it is ready."""
        trust = ssl.create_default_context(cafile=str(self.layout.api_certificate))
        return httpx.get(f"{self.server}/readyz", verify=trust).is_success

    def is_ready(self) -> bool:
        """Return whether the node takes pods."""
        with self.api() as api:
            node = client.CoreV1Api(api).read_node(NODE_NAME)
            client.CoreV1Api(api).read_namespaced_service_account("default", "default")
        conditions = {
            condition.type: condition.status for condition in node.status.conditions or []
        }
        return conditions.get("Ready") == "True"

    def _answers(self, ready: Callable[[], bool]) -> bool:
        with suppress(client.ApiException, HTTPError, httpx.HTTPError, OSError):
            return ready()
        return False

    def _ended(self, name: str) -> str | None:
        status = self.layout.ended / name
        return status.read_text() if status.exists() else None

    def _tell_init(self, request: dict[str, Any]) -> None:
        pipe = self._init.stdin
        if pipe is None or self._init.poll() is not None:
            raise NodeError(f"the node is gone\n{self.logs()}")
        pipe.write(json.dumps(request).encode() + b"\n")
        pipe.flush()


@contextmanager
def running(tell: Tell) -> Generator[Node]:
    """Start a node and end it, with all that it runs, at last.

    Args:
        tell: takes a line for each step that takes seconds.

    Raises:
        NodeError: it was not ready in time; says what its programs wrote last.
    """
    programs = node_programs(tell)
    with loopback.claimed(_FOLDER) as ports:
        layout = Layout(_FOLDER / str(ports.number), programs, ports)
        # A test that was killed left its folders.
        _remove_folders(layout)
        try:
            with _namespaces(layout) as init:
                node = _node(layout, init)
                _start(node, tell)
                yield node
        finally:
            _remove_folders(layout)


@contextmanager
def _namespaces(layout: Layout) -> Generator["subprocess.Popen[bytes]"]:
    """Start the first process in new namespaces; all processes in them end with it."""
    layout.make_folders()
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [str(part) for part in layout.python("init")]
    with (layout.logs / "init.log").open("wb") as log:
        environment = os.environ | {"PYTHONPATH": str(oci.CHECKOUT)}
        init = subprocess.Popen(
            [*command, str(layout.folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        yield init
    finally:
        if init.stdin:
            with suppress(BrokenPipeError):
                init.stdin.close()
        init.wait(30)


def _node(layout: Layout, init: "subprocess.Popen[bytes]") -> Node:
    tokens = {user: secrets.token_hex(16) for user in ("admin", "plain", "kubelet")}
    write_configuration(layout, tokens)
    shared = layout.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    layout.folder.chmod(0o711)
    return Node(layout, layout.kubeconfig("admin"), shared, init)


def _start(node: Node, tell: Tell) -> None:
    start = time.monotonic()
    for name in ("etcd", "containerd", "dns", "egress", "kube-apiserver"):
        node.start(name)
    node.wait("API server", node.api_is_ready)
    tell(f"-- kubernetes: API server ready after {time.monotonic() - start:.1f} s")
    write_kubeconfig(node.layout)
    for name in ("kube-controller-manager", "kube-scheduler"):
        node.start(name)
    node.wait("containerd", node.layout.socket.exists)
    _import_images(node)
    node.start("kubelet")
    node.wait("node that is Ready", node.is_ready)
    tell(f"-- kubernetes: node ready after {time.monotonic() - start:.1f} s at {node.server}")


def _import_images(node: Node) -> None:
    archive = node.layout.folder / "image.tar"
    node.import_image(oci.write_image(archive))
    busybox = node.layout.debian / "bin/busybox"
    node.import_image(oci.write_busybox(archive, busybox, oci.BUSYBOX, oci.PAUSE))
    archive.unlink()


def _remove_folders(layout: Layout) -> None:
    """Remove the node's files, and its cgroups, whose folders only rmdir takes."""
    for cgroup in layout.cgroup_folders:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
    if layout.folder.exists():
        shutil.rmtree(layout.folder)
