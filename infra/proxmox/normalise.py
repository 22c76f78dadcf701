"""One form for what we ask of Proxmox and for what it stores, so that the two compare.

Proxmox stores what it was given, sorted, completed and in strings: a network card gets a MAC, a disk
its volume and size, tags are sorted, SSH keys stay URL-encoded, what equals the default may be absent.
`canonical` gives both sides one readable text a key, and leaves out what only Proxmox knows.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote

Config = Mapping[str, str]
"""A machine's configuration in canonical form."""

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TRUE: Final = {"on": "1", "yes": "1", "true": "1", "off": "0", "no": "0", "false": "0"}
_NETWORK_MODELS: Final = frozenset({"virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"})
_OF_THE_VOLUME: Final = frozenset({"import-from", "size", "format", "file"})
DISK: Final = "scsi0"
CLOUD_INIT: Final = "ide2"
NETWORK_CARD: Final = "net0"


def parse_properties(text: str, default: str) -> dict[str, str]:
    """Return a property string such as `host,flags=+aes` as a mapping.

    Args:
        text: as Proxmox writes it.
        default: the key of a value that stands without one.
    """
    properties: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, sign, value = part.partition("=")
        if not sign:
            key, value = default, part
        properties[key.strip()] = _TRUE.get(value.strip(), value.strip())
    return properties


def parse_size(text: str | int) -> int:
    """Return a size such as `100G` in bytes.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", str(text))
    if not found:
        raise ValueError(f"{text!r} is no size")
    return int(float(found[1]) * _UNITS[found[2]])


def disk_size(config: Mapping[str, Any]) -> int | None:
    """Return the size of a machine's disk in bytes, or None where there is no disk."""
    size = parse_properties(str(config.get(DISK, "")), "file").get("size")
    return parse_size(size) if size else None


def canonical(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that are ours, of parameters or of a stored configuration, in one form."""
    return {
        key: form(str(config[key]) if config.get(key) is not None else default)
        for key, (default, form) in _FORMS.items()
    }


def tags_of(value: object) -> frozenset[str]:
    """Return tags, which Proxmox separates by semicolons, commas or blanks."""
    return frozenset(filter(None, re.split(r"[;,\s]+", str(value or "").lower())))


def _plain(text: str) -> str:
    return " ".join(text.split())


def _number(text: str) -> str:
    return str(int(float(text))) if text else ""


def _flag(text: str) -> str:
    return _TRUE.get(text.lower(), text)


def _memory(text: str) -> str:
    return _number(parse_properties(text, "current").get("current", ""))


def _properties(default: str) -> Callable[[str], str]:
    return lambda text: _joined(parse_properties(text, default))


def _joined(properties: Mapping[str, str]) -> str:
    return " ".join(f"{key}={properties[key]}" for key in sorted(properties))


def _disk(text: str) -> str:
    if not text:
        return "none"
    properties = parse_properties(text, "file")
    storage = properties.get("file", "").partition(":")[0]
    kept = {key: value for key, value in properties.items() if key not in _OF_THE_VOLUME}
    return f"{storage} {_joined(kept)}".strip()


def _cloud_init(text: str) -> str:
    volume = parse_properties(text, "file").get("file", "")
    return volume.partition(":")[0] if "cloudinit" in volume else f"none ({volume})"


def _network_card(text: str) -> str:
    properties = parse_properties(text, "model")
    for model in _NETWORK_MODELS & set(properties):
        del properties[model]  # Its value is the MAC.
        properties["model"] = model
    properties.pop("macaddr", None)
    if properties.get("firewall") == "0":
        del properties["firewall"]
    return _joined(properties)


def _keys(text: str) -> str:
    return "\n".join(sorted(filter(None, map(_plain, unquote(text).splitlines()))))


def _words(text: str) -> str:
    return " ".join(sorted(tags_of(text)))


_FORMS: Final[Mapping[str, tuple[str, Callable[[str], str]]]] = {
    "name": ("", _plain),
    "tags": ("", _words),
    "cores": ("1", _number),
    "sockets": ("1", _number),
    "cpu": ("kvm64", _properties("cputype")),
    "memory": ("512", _memory),
    "balloon": ("", _number),
    "ostype": ("other", _plain),
    "scsihw": ("lsi", _plain),
    DISK: ("", _disk),
    CLOUD_INIT: ("", _cloud_init),
    "boot": ("", _properties("legacy")),
    NETWORK_CARD: ("", _network_card),
    "ipconfig0": ("", _properties("ip")),
    "nameserver": ("", _words),
    "ciuser": ("", _plain),
    "ciupgrade": ("1", _flag),
    "sshkeys": ("", _keys),
    "agent": ("0", _properties("enabled")),
    "serial0": ("", _plain),
    "vga": ("std", _properties("type")),
    "onboot": ("0", _flag),
    "protection": ("0", _flag),
}
"""The keys that are ours: what stands for an absent one, and the form that compares."""
OWNED: Final = tuple(_FORMS)
