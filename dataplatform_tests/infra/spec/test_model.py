from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.spec.errors import SpecError
from infra.spec.model import REFERENCE, load_spec, profiles

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq9FMyA8H8M0 me@laptop"


def changed(folder: Path, **keys: Any) -> Path:
    """Write the reference with some keys changed; a double underscore goes one level down."""
    content = yaml.safe_load(REFERENCE.read_text())
    for key, value in keys.items():
        *way, last = key.split("__")
        part = content
        for name in way:
            part = part[name]
        part[last] = value
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_reference_describes_the_ten_machines_of_the_architecture() -> None:
    machines = load_spec().machines()

    masters = [m for m in machines if m.role == "control_plane"]
    workers = [m for m in machines if m.role == "worker"]
    assert (len(masters), len(workers)) == (3, 7)
    assert {(m.vcpu, m.memory_mib, m.disk_gib) for m in masters} == {(4, 8192, 100)}
    assert {(m.vcpu, m.memory_mib, m.disk_gib) for m in workers} == {(8, 16384, 200)}
    assert machines[0].ip == IPv4Address("10.10.0.101")
    assert [m.ip for m in machines] == [IPv4Address("10.10.0.101") + n for n in range(10)]


@pytest.mark.parametrize("profile", profiles())
def test_every_profile_is_valid(profile: str) -> None:
    assert load_spec(profile=profile).machines()


def test_profile_that_fits_128_has_floors_below_what_the_host_can_give() -> None:
    spec = load_spec(profile="fits-128")
    machines = spec.machines()

    usable = spec.host.memory_gib - spec.host.reserved_gib
    assert sum(m.assured_mib for m in machines) == 108 * 1024 <= usable * 1024
    assert sum(m.memory_mib for m in machines) <= usable * 1024 * spec.overcommit.memory
    assert sum(m.disk_gib for m in machines) <= spec.host.disk_gib * 0.75
    assert {m.balloon_mib for m in machines} == {0, 4096}


def test_number_left_out_leaves_the_others_where_they_are(tmp_path: Path) -> None:
    whole = {m.name: m for m in load_spec().machines()}

    spec = load_spec(changed(tmp_path, pools__workers__without=[3]))

    del whole["dp-worker-3"]
    assert {m.name: m for m in spec.machines()} == whole


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pools__masters__first_ip": "10.10.0.104"}, "have the same ip 10.10.0.104"),
        ({"pools__masters__first_vmid": 9102}, "have the same vmid 9104"),
        ({"pools__workers__first_ip": "10.10.0.250"}, "dp-worker-6's address 10.10.0.255"),
        ({"pools__workers__first_ip": "10.11.0.1"}, "is no free one of 10.10.0.0/24"),
        ({"pools__workers__floor_gib": 17}, "pools.workers: floor_gib 17 is above memory_gib 16"),
        ({"pools__workers__without": [8]}, "pools.workers: without names [8]"),
        ({"pools__workers__memory": 16}, "pools.workers.memory: Extra inputs are not permitted"),
        ({"pools__workers__vcpu": "many"}, "pools.workers.vcpu: Input should be a valid integer"),
        ({"network__gateway": "10.11.0.1"}, "gateway 10.11.0.1 is not in 10.10.0.0/24"),
        ({"network__bridge": "much-too-long"}, "network.bridge: String should match"),
        ({"kubernetes__pod_cidr": "10.10.0.0/16"}, "overlap"),
        ({"kubernetes__load_balancer": "kube-vip"}, "virtual_ip"),
        ({"image__checksum": "ab" * 32}, "a sha512 checksum has 128 hex digits"),
        ({"host__fingerprint": "AB:CD"}, "host.fingerprint"),
        ({"tunnels": [{"name": "a", "local_port": 1, "port": 1, "node": "b"}]}, "no machine"),
        ({"tunnels": [{"name": n, "local_port": 1, "port": 1} for n in "ab"]}, "same local_port 1"),
        ({"pools": {}}, "pools"),
    ],
)
def test_what_can_not_be_is_said_with_file_key_and_remedy(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    file = changed(tmp_path, **keys)

    with pytest.raises(SpecError) as caught:
        load_spec(file)

    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert "Remedy: " in str(caught.value)


def test_virtual_ip_must_be_free(tmp_path: Path) -> None:
    taken = {"kubernetes__load_balancer": "kube-vip", "kubernetes__virtual_ip": "10.10.0.105"}
    with pytest.raises(SpecError, match=r"virtual_ip 10\.10\.0\.105 is not a free address"):
        load_spec(changed(tmp_path, **taken))

    free = taken | {"kubernetes__virtual_ip": "10.10.0.100"}
    assert load_spec(changed(tmp_path, **free)).kubernetes.virtual_ip == IPv4Address("10.10.0.100")


@pytest.mark.parametrize("text", ["- a list", "a: [", ""])
def test_file_that_is_no_specification_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)

    with pytest.raises(SpecError, match="Remedy"):
        load_spec(file)


def test_missing_file_and_unknown_profile_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="reference, fits-128, small"):
        load_spec(profile="large")


def test_keys_come_from_the_specification_and_from_files_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.pub"
    file.write_text(f"# of the team\n{KEY}\n{KEY} twice\n\n")
    keys = {"ssh__public_keys": [KEY], "ssh__public_key_files": [str(file)]}

    assert load_spec(changed(tmp_path, **keys)).ssh.keys() == (KEY, f"{KEY} twice")


def test_private_key_or_none_is_refused(tmp_path: Path) -> None:
    private = ["-----BEGIN OPENSSH PRIVATE KEY-----"]
    for keys, said in ((private, "no public key"), ([], "nobody gets in")):
        content = {"ssh__public_keys": keys, "ssh__public_key_files": []}
        with pytest.raises(SpecError, match=said):
            load_spec(changed(tmp_path, **content)).ssh.keys()


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    spec = load_spec(changed(tmp_path, ssh__public_key_files=[str(tmp_path / "none.pub")]))
    with pytest.raises(SpecError, match=r"none\.pub can't be read.*ssh-keygen"):
        spec.ssh.keys()


def test_image_has_the_name_that_proxmox_imports(tmp_path: Path) -> None:
    url = "https://cloud-images.ubuntu.com/noble-server-cloudimg-amd64.img"
    spec = load_spec(changed(tmp_path, image__url=url))
    assert spec.image.file_name == "noble-server-cloudimg-amd64.qcow2"
