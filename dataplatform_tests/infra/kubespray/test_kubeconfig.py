"""The kubeconfig: renamed, pointed at the tunnel, merged into what is there."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplatform_tests.infra.kubespray.test_inventory import with_kube_vip
from infra.kubespray.errors import KubeconfigError
from infra.kubespray.kubeconfig import default_path, merge_kubeconfig, renamed, server_address
from infra.spec.model import load_spec

ADMIN = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [
        {
            "name": "cluster.local",
            "cluster": {"certificate-authority-data": "Q0E=", "server": "https://10.10.0.101:6443"},
        }
    ],
    "users": [{"name": "kubernetes-admin", "user": {"client-key-data": "S0VZ"}}],
    "contexts": [
        {
            "name": "kubernetes-admin@cluster.local",
            "context": {"cluster": "cluster.local", "user": "kubernetes-admin"},
        }
    ],
    "current-context": "kubernetes-admin@cluster.local",
}
TUNNEL = "https://127.0.0.1:6443"
OTHER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "work", "cluster": {"server": "https://k8s.example.org"}}],
    "users": [{"name": "me", "user": {"token": "t0ken"}}],
    "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me"}}],
    "current-context": "work",
    "extensions": [{"name": "kept", "extension": {}}],
}


def ours(server: str = TUNNEL) -> dict[str, Any]:
    return renamed(ADMIN, "lake", server)


def write(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def names(content: dict[str, Any]) -> dict[str, list[str]]:
    return {key: [one["name"] for one in content[key]] for key in ("clusters", "users", "contexts")}


def test_a_new_file_is_private_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "kube/config"
    merge_kubeconfig(path, ours())
    found = read(path)
    assert found["current-context"] == "lake"
    assert found["clusters"][0]["cluster"] == {
        "certificate-authority-data": "Q0E=",
        "server": TUNNEL,
    }
    assert found["contexts"][0]["context"] == {"cluster": "lake", "user": "lake-admin"}
    assert found["users"] == [{"name": "lake-admin", "user": {"client-key-data": "S0VZ"}}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_other_clusters_and_the_current_context_stay(tmp_path: Path) -> None:
    path = tmp_path / "config"
    write(path, OTHER)
    path.chmod(0o644)
    merge_kubeconfig(path, ours())
    found = read(path)
    assert names(found) == {
        "clusters": ["work", "lake"],
        "users": ["me", "lake-admin"],
        "contexts": ["work", "lake"],
    }
    assert found["current-context"] == "work"
    assert found["extensions"] == OTHER["extensions"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["config"]


def test_the_context_becomes_current_on_request(tmp_path: Path) -> None:
    path = tmp_path / "config"
    write(path, OTHER)
    merge_kubeconfig(path, ours(), use=True)
    assert read(path)["current-context"] == "lake"


def test_fetched_again_it_takes_the_place_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config"
    write(path, OTHER)
    merge_kubeconfig(path, ours())
    anew = ours()
    anew["users"][0]["user"] = {"client-key-data": "TkVX"}
    merge_kubeconfig(path, anew)
    found = read(path)
    assert names(found)["users"] == ["me", "lake-admin"]
    assert found["users"][1]["user"] == {"client-key-data": "TkVX"}


def test_another_cluster_of_that_name_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "config"
    merge_kubeconfig(path, ours("https://elsewhere.example.org:6443"))
    before = path.read_bytes()
    with pytest.raises(KubeconfigError, match=r"elsewhere\.example\.org.*--replace"):
        merge_kubeconfig(path, ours())
    assert path.read_bytes() == before
    merge_kubeconfig(path, ours(), replace=True)
    assert read(path)["clusters"][0]["cluster"]["server"] == TUNNEL


@pytest.mark.parametrize("content", ["not: [closed", "- a list", "clusters: [secret-text]"])
def test_a_file_that_is_no_kubeconfig_stays_and_is_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(KubeconfigError, match="is no kubeconfig") as caught:
        merge_kubeconfig(path, ours())
    assert "secret-text" not in str(caught.value)
    assert path.read_text() == content


def test_an_empty_file_is_filled_and_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "real", tmp_path / "config"
    target.touch()
    link.symlink_to(target)
    merge_kubeconfig(link, ours())
    assert link.is_symlink()
    assert read(target)["current-context"] == "lake"


def test_the_address_is_that_of_the_tunnel_or_of_the_balancer() -> None:
    assert server_address(load_spec()) == TUNNEL
    assert server_address(load_spec(), direct=True) == "https://10.10.0.101:6443"
    assert server_address(with_kube_vip(), direct=True) == "https://10.10.0.50:6443"
    without = load_spec().model_copy(update={"tunnels": ()})
    with pytest.raises(KubeconfigError, match="No tunnel leads to port 6443"):
        server_address(without)


def test_the_file_is_the_one_that_kubectl_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/a:{tmp_path}/b")
    assert default_path() == tmp_path / "a"
    monkeypatch.delenv("KUBECONFIG")
    assert default_path() == Path.home() / ".kube/config"
