"""What Proxmox stores, in the forms that it is known to have, and what we ask for are one."""

import pytest

from dataplatform_tests.infra.proxmox.conftest import make_spec
from infra.proxmox.desired import configuration
from infra.proxmox.normalise import OWNED, canonical, disk_size, parse_size

SPEC = make_spec(pools__workers__floor_gib=12)
WORKER = SPEC.machines()[3]
STORED = {
    "agent": "1",
    "balloon": 12288,
    "boot": "order=scsi0",
    "ciupgrade": 0,
    "ciuser": "dp",
    "cores": 8,
    "cpu": "cputype=host",
    "digest": "0f343b0931126a20f133d67c2b018a3b",
    "ide2": "local-lvm:vm-9104-cloudinit,media=cdrom,size=4M",
    "ipconfig0": "gw=10.10.0.1,ip=10.10.0.104/24",
    "memory": "current=16384",
    "meta": "creation-qemu=10.0.2,ctime=1790000000",
    "name": "dp-worker-1",
    "nameserver": "9.9.9.9 1.1.1.1",
    "net0": "virtio=BC:24:11:2C:5A:01,bridge=dpnet,firewall=0",
    "numa": 0,
    "onboot": "1",
    "ostype": "l26",
    "protection": 1,
    "scsi0": "local-lvm:vm-9104-disk-0,discard=on,iothread=1,size=200G,ssd=1",
    "scsihw": "virtio-scsi-single",
    "serial0": "socket",
    "smbios1": "uuid=4ea6d3c8-a3c8-4ea6-d3c8-a3c84ea6d3c8",
    "sockets": 1,
    "sshkeys": "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIOMq9FMyA8H8M0%20me%40laptop%0A",
    "tags": "worker;image-a733e7d49442;dataplatform",
    "vga": "serial0",
    "vmgenid": "2f9a1b9e-0000-4000-8000-000000000000",
}


def test_what_proxmox_stores_is_what_was_asked_for() -> None:
    assert canonical(STORED) == canonical(configuration(SPEC, WORKER))


@pytest.mark.parametrize("key", [key for key in OWNED if key != "sockets"])
def test_each_key_of_ours_differs_where_it_is_taken_away(key: str) -> None:
    lacking = {name: value for name, value in STORED.items() if name != key}
    differing = {name for name in OWNED if canonical(lacking)[name] != canonical(STORED)[name]}
    assert differing == {key}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scsi0", "local-lvm:vm-9104-disk-0,iothread=1,size=200G,ssd=1"),
        ("scsi0", "other:vm-9104-disk-0,discard=on,iothread=1,size=200G,ssd=1"),
        ("net0", "virtio=BC:24:11:2C:5A:01,bridge=vmbr0"),
        ("net0", "e1000=BC:24:11:2C:5A:01,bridge=dpnet"),
        ("net0", "virtio=BC:24:11:2C:5A:01,bridge=dpnet,tag=5"),
        ("cpu", "cputype=host,flags=+aes"),
        ("sockets", "2"),
        ("ide2", "none,media=cdrom"),
    ],
)
def test_what_differs_is_not_normalised_away(key: str, value: str) -> None:
    assert canonical(STORED | {key: value})[key] != canonical(STORED)[key]


@pytest.mark.parametrize(
    ("text", "size"), [("200G", 200 << 30), ("2252M", 2252 << 20), ("1T", 1 << 40), ("512", 512)]
)
def test_sizes_are_read_in_all_units(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert disk_size({"scsi0": f"local-lvm:vm-1-disk-0,size={text}"}) == size


def test_no_size_is_no_number() -> None:
    assert disk_size({}) is None
    with pytest.raises(ValueError, match="is no size"):
        parse_size("large")
