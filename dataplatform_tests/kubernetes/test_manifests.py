"""The manifests of `infra/kubernetes`, as kustomize puts them together, against a real API server."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test
from dagster_k8s import K8sRunLauncher
from kubernetes import client
from kubernetes.config import new_client_from_config

from dataplatform_tests.kubernetes.deployment import CODE_ACCOUNT
from dataplatform_tests.kubernetes.node import NodeError
from dataplatform_tests.kubernetes.oci import CHECKOUT

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

pytestmark = pytest.mark.kubernetes

Manifests = list[dict[str, Any]]
IMAGE = "registry.example.org:30500/dataplatform-dagster:0.1.0"


class Jobs(client.BatchV1Api):
    """Has the API server try out a Job, and keeps it here only."""

    tried: "Manifests"

    def create_namespaced_job(self, namespace: str, body: Any, **options: Any) -> Any:
        described = self.api_client.sanitize_for_serialization(body)
        described["metadata"]["namespace"] = namespace
        self.tried = [{"apiVersion": "batch/v1", "kind": "Job"} | described]
        return super().create_namespaced_job(namespace, body, dry_run="All", **options)


class TryingLauncher(K8sRunLauncher):
    """The run launcher, whose Jobs are tried out."""

    def __init__(self, **config: Any) -> None:
        self.jobs = Jobs(new_client_from_config(config_file=config["kubeconfig_file"]))
        super().__init__(**config, k8s_client_batch_api=self.jobs)


@pytest.fixture(scope="module")
def built(cluster: "Node") -> Manifests:
    """Return what `kubectl apply -k .` sends; its namespaces are there."""
    made = list(yaml.safe_load_all(cluster.kubectl("kustomize", str(CHECKOUT))))
    spaces = [one for one in made if one["kind"] == "Namespace"]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(spaces))
    return made


def try_out(cluster: "Node", manifests: Manifests) -> Manifests:
    """Return what the API server would keep; a warning, such as of Pod Security, is an error."""
    strict = ("--dry-run=server", "--validate=strict", "--warnings-as-errors", "-o", "yaml")
    text = yaml.safe_dump_all(manifests)
    kept = yaml.safe_load(cluster.kubectl("apply", "--server-side", *strict, "-f", "-", stdin=text))
    return kept["items"] if kept["kind"] == "List" else [kept]


def deployments(manifests: Manifests) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Deployment"}


def test_one_command_applies_all_without_a_warning(cluster: "Node", built: Manifests) -> None:
    kept = try_out(cluster, built)

    assert len(kept) == len(built)
    (container,) = deployments(kept)["dataplatform-code"]["spec"]["template"]["spec"]["containers"]
    # Or the pods of runs would be of another image.
    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": container["image"]} in container["env"]
    assert container["image"].startswith("registry.example.org")
    maps = {one["metadata"]["name"]: one for one in kept if one["kind"] == "ConfigMap"}
    file = (CHECKOUT / "dagster.cluster.yaml").read_text()
    assert maps["dagster-instance"]["data"] == {"dagster.yaml": file}


@pytest.mark.parametrize("wrong", ["field", "root"])
def test_the_api_server_would_refuse_what_is_wrong(
    cluster: "Node", built: Manifests, wrong: str
) -> None:
    daemon = yaml.safe_load(yaml.safe_dump(deployments(built)["dagster-daemon"]))
    pod = daemon["spec"]["template"]["spec"]
    if wrong == "field":
        pod["containers"][0]["livenessprobe"] = {}
    else:
        pod["securityContext"]["runAsNonRoot"] = False

    with pytest.raises(NodeError, match="livenessprobe" if wrong == "field" else "runAsNonRoot"):
        try_out(cluster, [daemon, *built[:1]])


@pytest.fixture
def restricted(cluster: "Node", built: Manifests) -> Iterator[str]:
    """Return a namespace with the labels that Dagster's has; tests relabel that one."""
    [shipped] = [
        one for one in built if one["kind"] == "Namespace" and one["metadata"]["name"] == "dagster"
    ]
    name = f"restricted-{uuid4().hex[:8]}"
    made = shipped | {"metadata": shipped["metadata"] | {"name": name}}
    cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(made))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def job_of_a_run(cluster: "Node", folder: Path) -> dict[str, Any]:
    """Return what the launcher of `dagster.cluster.yaml` makes of a run."""
    config = yaml.safe_load((CHECKOUT / "dagster.cluster.yaml").read_text())["run_launcher"]
    api = {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig)}
    launcher = {"module": __name__, "class": "TryingLauncher", "config": config["config"] | api}
    pointer = ModuleCodePointer("dataplatform.definitions", "defs")
    origin = RepositoryPythonOrigin(sys.executable, pointer, container_image=IMAGE)
    with DagsterInstance.local_temp(str(folder), {"run_launcher": launcher}) as instance:
        job = JobPythonOrigin("tables_job", origin)
        run = create_run_for_test(instance, "tables_job", job_code_origin=job)
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
        assert isinstance(instance.run_launcher, TryingLauncher)
        [made] = instance.run_launcher.jobs.tried
    return made


def test_a_runs_job_is_admitted_where_only_restricted_pods_are(
    cluster: "Node", restricted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_DAGSTER_NAMESPACE", restricted)
    job = job_of_a_run(cluster, tmp_path)

    [kept] = try_out(cluster, [job])

    pod = kept["spec"]["template"]["spec"]
    assert (kept["metadata"]["namespace"], pod["serviceAccountName"]) == (restricted, CODE_ACCOUNT)
    assert [container["image"] for container in pod["containers"]] == [IMAGE]
    job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    # Of a Job the API server only warns; it is the pod that it would refuse.
    with pytest.raises(NodeError, match="runAsNonRoot"):
        try_out(cluster, [job])
