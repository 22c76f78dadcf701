"""The manifests of `infra/kubernetes`, as kustomize puts them together, against a real API server."""

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dataplatform_tests.kubernetes.node import NodeError
from dataplatform_tests.kubernetes.oci import CHECKOUT

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

pytestmark = pytest.mark.kubernetes

Manifests = list[dict[str, Any]]


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
    return yaml.safe_load(
        cluster.kubectl("apply", "--server-side", *strict, "-f", "-", stdin=text)
    )["items"]


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
