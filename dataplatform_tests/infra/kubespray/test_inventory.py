"""The inventory that the specification makes: groups, variables, files."""

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.kubespray import operations, pins
from infra.kubespray.errors import InventoryError
from infra.kubespray.inventory import inventory_files, state_folder, write_inventory
from infra.kubespray.variables import connection
from infra.spec.model import ClusterSpec, load_spec, profiles

DATA = Path(__file__).with_name("data")
VIRTUAL_IP = "10.10.0.50"


def changed(**parts: dict[str, Any]) -> ClusterSpec:
    """Return the reference with keys of its parts changed."""
    content = load_spec().model_dump(mode="json")
    for part, keys in parts.items():
        content[part] |= keys
    return ClusterSpec.model_validate(content)


def with_kube_vip() -> ClusterSpec:
    return changed(kubernetes={"load_balancer": "kube-vip", "virtual_ip": VIRTUAL_IP})


def pools(**counts: int) -> ClusterSpec:
    content = load_spec().model_dump(mode="json")
    for name, count in counts.items():
        content["pools"][name]["count"] = count
    return ClusterSpec.model_validate(content | {"tunnels": []})


def read(spec: ClusterSpec, name: str) -> dict[str, Any]:
    return yaml.safe_load(inventory_files(spec)[name])


def cluster(spec: ClusterSpec) -> dict[str, Any]:
    return read(spec, "group_vars/k8s_cluster.yaml")


@pytest.mark.parametrize("profile", profiles())
def test_each_machine_is_in_the_groups_of_its_role(profile: str) -> None:
    spec = load_spec(profile=profile)
    everything = read(spec, "hosts.yaml")["all"]
    groups = everything["children"]
    of = {
        role: [m.name for m in spec.machines() if m.role == role]
        for role in ("control_plane", "worker")
    }
    assert list(everything["hosts"]) == [m.name for m in spec.machines()]
    assert list(groups["kube_control_plane"]["hosts"]) == of["control_plane"]
    assert list(groups["kube_node"]["hosts"]) == of["worker"]
    assert groups["etcd"] == {"children": {"kube_control_plane": {}}}
    assert groups["k8s_cluster"] == {"children": {"kube_control_plane": {}, "kube_node": {}}}
    first = spec.machines()[0]
    assert everything["hosts"][first.name] == {
        "ansible_host": str(first.ip),
        "ip": str(first.ip),
        "etcd_member_name": first.name,
    }


def test_the_cluster_has_what_the_specification_says() -> None:
    spec = changed(
        kubernetes={
            "version": "1.34.7",
            "pod_cidr": "10.100.0.0/16",
            "service_cidr": "10.101.0.0/16",
            "storage_path": "/data",
            "system_reserved_mib": 700,
        },
        network={"dns": ["9.9.9.9"]},
    )
    found = cluster(spec)
    assert found["kube_version"] == "1.34.7"
    assert found["kube_pods_subnet"] == "10.100.0.0/16"
    assert found["kube_service_addresses"] == "10.101.0.0/16"
    assert found["local_path_provisioner_claim_root"] == "/data"
    assert found["system_memory_reserved"] == "700Mi"
    assert found["upstream_dns_servers"] == ["9.9.9.9"]


def test_secrets_are_encrypted_and_requests_are_logged() -> None:
    found = cluster(load_spec())
    assert found["kube_encrypt_secret_data"] is True
    assert found["kubernetes_audit"] is True
    assert found["local_path_provisioner_is_default_storageclass"] == "true"


def test_ballooning_is_kept_out_of_what_kubernetes_hands_out() -> None:
    """Kubelets see 16 GiB; pods may have what is left at the floor of 12, less the reserves."""
    spec = load_spec(profile="fits-128")
    worker = next(m for m in spec.machines() if m.role == "worker")
    kube = _mib(read(spec, "group_vars/pool_workers.yaml")["kube_memory_reserved"])
    system = _mib(cluster(spec)["system_memory_reserved"])
    assert (
        worker.memory_mib - kube - system == 12 * 1024 - 256 - spec.kubernetes.system_reserved_mib
    )
    assert read(spec, "group_vars/pool_masters.yaml") == {"kube_memory_reserved": "256Mi"}
    assert read(load_spec(), "group_vars/pool_workers.yaml") == {"kube_memory_reserved": "256Mi"}


def _mib(text: str) -> int:
    return int(text.removesuffix("Mi"))


def test_images_are_pulled_under_the_names_they_are_pushed_under() -> None:
    mirrors = {m["prefix"]: m for m in cluster(load_spec())["containerd_registries_mirrors"]}
    assert {"localhost:30500", "localhost:5050", "127.0.0.1:5050", "10.10.0.101:30500"} <= set(
        mirrors
    )
    assert {m["server"] for m in mirrors.values()} == {"http://127.0.0.1:30500"}
    assert {m["mirrors"][0]["host"] for m in mirrors.values()} == {"http://127.0.0.1:30500"}
    assert "docker.io" not in mirrors
    elsewhere = cluster(changed(kubernetes={"registry_node_port": 31500}))
    assert elsewhere["containerd_registries_mirrors"][0]["prefix"] == "localhost:31500"


def test_the_registry_is_asked_where_kube_proxy_answers() -> None:
    # Of kube-proxy's modes only iptables serves NodePorts on 127.0.0.1.
    assert cluster(load_spec())["kube_proxy_mode"] == "iptables"


def test_either_each_node_has_a_balancer_or_kube_vip_carries_one_address() -> None:
    local, vip = cluster(load_spec()), cluster(with_kube_vip())
    assert local["loadbalancer_apiserver_localhost"] is True
    assert not [name for name in local if name.startswith("kube_vip")]
    assert vip["loadbalancer_apiserver"] == {"address": VIRTUAL_IP, "port": 6443}
    assert vip["kube_vip_address"] == VIRTUAL_IP
    assert vip["loadbalancer_apiserver_localhost"] is False


def test_machines_are_reached_through_the_host_unless_directly() -> None:
    spec = changed(host={"address": "proxmox.example.org", "ssh_user": "admin", "ssh_port": 2222})
    through = connection(spec)
    assert through["ansible_ssh_common_args"] == "-o ProxyJump=admin@proxmox.example.org:2222"
    assert through["ansible_user"] == spec.ssh.user
    assert "ansible_ssh_common_args" not in connection(spec, direct=True)


@pytest.mark.parametrize(
    ("counts", "cause"),
    [
        ({"masters": 2}, "2 control-plane machines.*odd.*Remedy"),
        ({"masters": 0}, "0 control-plane machines"),
        ({"workers": 0}, "No machine is a worker"),
    ],
)
def test_machines_of_which_no_cluster_can_be_made_are_refused(
    counts: dict[str, int], cause: str
) -> None:
    with pytest.raises(InventoryError, match=cause):
        inventory_files(pools(**counts))


@pytest.mark.parametrize("profile", [*profiles(), "kube-vip"])
def test_every_variable_is_one_that_kubespray_has(profile: str) -> None:
    spec = with_kube_vip() if profile == "kube-vip" else load_spec(profile=profile)
    listed = yaml.safe_load((DATA / "variables.yaml").read_text())
    files = {name: yaml.safe_load(text) for name, text in inventory_files(spec).items()}
    hosts = files.pop("hosts.yaml")["all"]["hosts"].values()
    ours = {key for content in (*files.values(), *hosts) for key in content}
    unknown = {key for key in ours if not key.startswith("ansible_")} - set(listed["variables"])
    assert not unknown
    assert listed["commit"] == pins.COMMIT


def test_the_variables_of_commands_are_ones_that_kubespray_has() -> None:
    listed = yaml.safe_load((DATA / "variables.yaml").read_text())["variables"]
    spec, source = load_spec(), Path("kubespray")
    steps = [
        *operations.upgrade(source, 2),
        *operations.remove_node(source, spec, "dp-worker-7", lost=True),
        *operations.reset(source),
    ]
    ours = {key for _, playbook in steps for key in playbook.extra_vars}
    assert ours <= set(listed)
    assert {"node", "serial", "reset_confirmation", "allow_ungraceful_removal"} <= ours


def test_the_inventory_is_private_and_keeps_what_kubespray_keeps_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    write_inventory(folder, inventory_files(load_spec()))
    token = folder / "credentials/kube_encrypt_token.creds"
    token.parent.mkdir()
    token.write_text("made by Kubespray")
    (folder / "group_vars/pool_gone.yaml").write_text("kube_memory_reserved: 1Mi")
    gone = write_inventory(folder, inventory_files(pools(workers=6)))
    assert gone == ("dp-worker-7",)
    assert token.read_text() == "made by Kubespray"
    assert not (folder / "group_vars/pool_gone.yaml").exists()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.yaml")}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not list(folder.glob(".hosts*"))


def test_the_same_specification_makes_the_same_inventory() -> None:
    assert inventory_files(load_spec()) == inventory_files(load_spec())


def test_the_state_is_where_the_user_keeps_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder("lake") == tmp_path / "dataplatform/kubespray/lake"
