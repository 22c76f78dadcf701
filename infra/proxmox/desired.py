"""What the specification asks of Proxmox, as the parameters of its API."""

import hashlib
from typing import Final
from urllib.parse import quote

from infra.proxmox.normalise import CLOUD_INIT, DISK, NETWORK_CARD
from infra.spec.model import ClusterSpec, Machine

_ROLE_TAGS: Final = {"control_plane": "control-plane", "worker": "worker"}
_IMAGE_TAG: Final = "image-"
_DISK_OPTIONS: Final = "discard=on,iothread=1,ssd=1"


def image_tag(spec: ClusterSpec) -> str:
    """Return the tag that says which image a machine's disk was made from."""
    return f"{_IMAGE_TAG}{spec.image.checksum[:12]}"


def is_image_tag(tag: str) -> bool:
    """Tell whether a tag names an image."""
    return tag.startswith(_IMAGE_TAG)


def image_volume(spec: ClusterSpec) -> str:
    """Return the volume that holds the downloaded image."""
    return f"{spec.storage.images}:import/{spec.image.file_name}"


def configuration(spec: ClusterSpec, machine: Machine) -> dict[str, str]:
    """Return the configuration that a machine is to have, as Proxmox takes it."""
    return {
        "name": machine.name,
        "tags": ";".join(sorted((spec.name, _ROLE_TAGS[machine.role], image_tag(spec)))),
        "ostype": "l26",
        "onboot": "1",
        "protection": "1",
        "agent": "enabled=1",
        **_processor_and_memory(spec, machine),
        **_devices(spec),
        **_cloud_init(spec, machine),
    }


def _processor_and_memory(spec: ClusterSpec, machine: Machine) -> dict[str, str]:
    return {
        "cpu": spec.cpu_type,
        "cores": str(machine.vcpu),
        "memory": str(machine.memory_mib),
        # 0 switches ballooning off; without the key Proxmox balloons down to nothing in particular.
        "balloon": str(machine.floor_mib or 0),
    }


def _devices(spec: ClusterSpec) -> dict[str, str]:
    return {
        "scsihw": "virtio-scsi-single",
        DISK: f"{spec.storage.disks}:0,import-from={image_volume(spec)},{_DISK_OPTIONS}",
        CLOUD_INIT: f"{spec.storage.disks}:cloudinit",
        "boot": f"order={DISK}",
        NETWORK_CARD: f"virtio,bridge={spec.network.bridge}",
        # Cloud images write their console to the serial port; without it some do not boot.
        "serial0": "socket",
        "vga": "serial0",
    }


def _cloud_init(spec: ClusterSpec, machine: Machine) -> dict[str, str]:
    network = spec.network
    return {
        "ipconfig0": f"ip={machine.ip}/{network.cidr.prefixlen},gw={network.gateway}",
        "nameserver": " ".join(map(str, network.dns)),
        "ciuser": spec.ssh.user,
        # Proxmox wants them URL-encoded within the form's own encoding, blanks as %20.
        "sshkeys": quote("\n".join(spec.ssh.keys()), safe=""),
        # An upgrade at the first boot would leave machines of different content.
        "ciupgrade": "0",
    }


def spec_digest(spec: ClusterSpec) -> str:
    """Return the SHA-256 of all that is asked for, SSH keys included."""
    asked = spec.model_dump_json() + "\n".join(spec.ssh.keys())
    return hashlib.sha256(asked.encode()).hexdigest()
