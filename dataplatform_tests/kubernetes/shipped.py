"""What `kubectl apply -k .` sends, with what the tests' node needs laid over it, and nothing else.

The node has no pod network and its image no program, so Dagster's pods get the machine's network and
folders, listen at 127.0.0.1 on free ports, and are probed there.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import yaml

from dataplatform_tests.kubernetes import loopback, oci
from dataplatform_tests.kubernetes.fixtures import pod_spec
from dataplatform_tests.kubernetes.submission import laid_over

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

CODE_SERVER: Final = "dataplatform-code"
WEB_SERVER: Final = "dagster-webserver"
DAEMON: Final = "dagster-daemon"
_DOCKERFILE: Final = oci.CHECKOUT / "infra" / "images" / "dagster" / "Dockerfile"
_ANYWHERE: Final = "0.0.0.0"  # noqa: S104  which is replaced
_HOME: Final = "/opt/dagster/dagster_home"
_GRPC_PORT: Final = "4000"
"""The image's, which `workspace.cluster.yaml` names too."""
_OPEN: Final = {"pod-security.kubernetes.io/enforce": "privileged"}
"""For the machine's network and folders; `test_manifests` tries the shipped pods in `restricted`."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Shipped:
    """The manifests of Dagster and Spark for one node.

    Attributes:
        node: where they are applied.
        settings: those of the ConfigMap `dataplatform-settings` that are this machine's.
    """

    node: "Node"
    settings: Mapping[str, str]
    grpc_port: int = field(default_factory=loopback.free_port)
    web_port: int = field(default_factory=loopback.free_port)

    def surroundings(self) -> list[Manifest]:
        """Return everything but the Deployments, in the order in which it is applied."""
        return [self._opened(one) for one in self._built if one["kind"] != "Deployment"]

    @property
    def grpc_probe(self) -> Mapping[str, Any]:
        """What the kubelet of a cluster asks the code server."""
        [container] = self._shipped(CODE_SERVER)["spec"]["template"]["spec"]["containers"]
        return container["readinessProbe"]["grpc"]

    def deployment(self, name: str) -> Manifest:
        """Return a Deployment of Dagster's."""
        changed = copy.deepcopy(self._shipped(name))
        template = changed["spec"]["template"]
        template["spec"] = laid_over(self._own_pod(), template["spec"])
        [container] = template["spec"]["containers"]
        # The image of the tests has no command, and names no home.
        container.setdefault("command", _image_command())
        container["env"].append({"name": "DAGSTER_HOME", "value": _HOME})
        self._at_loopback(container)
        return changed

    def container_context(self) -> dict[str, Any]:
        """Return what pods of runs need on this node, as the code location says it."""
        pod = self._own_pod()
        [container] = pod.pop("containers")
        own = {name: container[name] for name in ("env", "volumeMounts")}
        # Of a pod in the host's network it would be the host's name.
        name = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        own["env"] = [*own["env"], {"name": "HOSTNAME", **name}]
        return {"k8s": {"run_k8s_config": {"pod_spec_config": pod, "container_config": own}}}

    @cached_property
    def _built(self) -> list[Manifest]:
        return list(yaml.safe_load_all(self.node.kubectl("kustomize", str(oci.CHECKOUT))))

    def _shipped(self, name: str) -> Manifest:
        deployments = [one for one in self._built if one["kind"] == "Deployment"]
        return next(one for one in deployments if one["metadata"]["name"] == name)

    def _opened(self, shipped: Manifest) -> Manifest:
        """Return an object with this machine's addresses and permissions."""
        name = shipped["metadata"]["name"]
        if shipped["kind"] == "Namespace":
            return laid_over({"metadata": {"labels": _OPEN}}, shipped)
        if name == "dataplatform-settings":
            return laid_over({"data": dict(self.settings)}, shipped)
        if name == "dagster-workspace":
            [text] = shipped["data"].values()
            assert text.count(_GRPC_PORT) == 1
            own = text.replace(_GRPC_PORT, str(self.grpc_port))
            return shipped | {"data": dict.fromkeys(shipped["data"], own)}
        return shipped

    def _own_pod(self) -> dict[str, Any]:
        pod = pod_spec(self.node)
        [container] = pod["containers"]
        container |= {"name": "dagster", "image": oci.IMAGE}
        return pod

    def _at_loopback(self, container: Manifest) -> None:
        """Let a server listen at 127.0.0.1 on a port of its own, and be asked there."""
        command = [loopback.ADDRESS if part == _ANYWHERE else part for part in container["command"]]
        for port in container.get("ports", ()):
            if port["name"] == "grpc":
                port["containerPort"] = self.grpc_port
                command[command.index(_GRPC_PORT)] = str(self.grpc_port)
                command += ["--container-context", json.dumps(self.container_context())]
            else:
                port["containerPort"] = self.web_port
                command += ["--port", str(self.web_port)]
        container["command"] = command
        for variable in container["env"]:
            if variable["name"] == "DAGSTER_CURRENT_IMAGE":
                variable["value"] = oci.IMAGE
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe := container.get(kind):
                self._probed_at_loopback(probe)

    def _probed_at_loopback(self, probe: Manifest) -> None:
        if "httpGet" in probe:
            probe["httpGet"]["host"] = loopback.ADDRESS
        elif probe.pop("grpc", None):
            # Of gRPC, the kubelet can ask no other address than the pod's, which is on paper.
            probe["tcpSocket"] = {"host": loopback.ADDRESS, "port": self.grpc_port}


def _image_command() -> list[str]:
    """Return the command of the real image."""
    [line] = [one for one in _DOCKERFILE.read_text().splitlines() if one.startswith("CMD ")]
    return json.loads(line.removeprefix("CMD "))
