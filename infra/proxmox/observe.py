"""What is on the host now, read in as few calls as will do: one a machine that is unchanged."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from infra.proxmox.api import Api
from infra.proxmox.desired import image_volume
from infra.proxmox.errors import UnreadableAnswerError
from infra.proxmox.network import NetworkState, observe_network
from infra.proxmox.normalise import OWNED, canonical, disk_size, tags_of
from infra.spec.model import ClusterSpec

READERS: Final = 8
"""Calls at once: pveproxy has three workers, more than twice as many callers gain nothing."""


@dataclass(frozen=True)
class Guest:
    """A machine of someone else, as far as it matters to us.

    Attributes:
        vmid: its number.
        name: its name.
        kind: qemu or lxc.
        node: where it is.
        running: whether it runs.
        memory: in bytes.
        vcpu: virtual CPUs.
        tags: what it is tagged with.
        lock: what holds it, such as `backup`; empty: nothing.
    """

    vmid: int
    name: str
    kind: str
    node: str
    running: bool
    memory: int
    vcpu: int
    tags: frozenset[str]
    lock: str


@dataclass(frozen=True)
class Observed:
    """A machine of ours.

    Attributes:
        vmid: its number.
        name: its name.
        status: running, stopped, paused …
        lock: what holds it, such as `backup`; empty: nothing.
        tags: all of its tags.
        raw: its configuration as stored, with what waits for a restart.
        config: the same in canonical form.
        waiting: keys whose new value waits for a restart.
        disk: size of its disk in bytes; None: it has none.
        uptime: in seconds.
        template: whether it is one.
    """

    vmid: int
    name: str
    status: str
    lock: str
    tags: frozenset[str]
    raw: Mapping[str, str]
    config: Mapping[str, str]
    waiting: tuple[str, ...]
    disk: int | None
    uptime: int = 0
    template: bool = False

    @property
    def running(self) -> bool:
        """Whether it runs, or would if it were not paused."""
        return self.status != "stopped"

    def digest(self) -> str:
        """Return the SHA-256 of what a plan is made from."""
        seen = [sorted(self.config.items()), sorted(self.tags), self.disk, self.running, self.lock]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@dataclass(frozen=True)
class State:
    """What is on the host.

    Attributes:
        machines: ours, by VMID.
        guests: those of others, by VMID.
        image: whether the image is on its storage.
        network: bridge, NAT and firewall.
    """

    machines: Mapping[int, Observed]
    guests: Mapping[int, Guest]
    image: bool
    network: NetworkState = field(default_factory=NetworkState)

    def digest(self) -> str:
        """Return the SHA-256 of all that a plan is made from."""
        machines = [(vmid, one.digest()) for vmid, one in sorted(self.machines.items())]
        taken = sorted((guest.vmid, guest.name) for guest in self.guests.values())
        seen = json.dumps([machines, taken, self.image, self.network.digest()])
        return hashlib.sha256(seen.encode()).hexdigest()


def observe(api: Api, spec: ClusterSpec) -> State:
    """Read the host.

    Raises:
        ProxmoxError: it can't be read.
    """
    node = spec.host.node
    guests = {guest.vmid: guest for guest in _guests(api)}
    live = {int(one["vmid"]): one for one in api.get(f"nodes/{node}/qemu")}
    ours = [vmid for vmid, one in live.items() if spec.name in tags_of(one.get("tags"))]
    with ThreadPoolExecutor(READERS) as pool:
        image = pool.submit(_has_image, api, spec)
        network = pool.submit(observe_network, api, spec)
        read = pool.map(lambda vmid: _observed(api, node, live[vmid]), ours)
        machines = {machine.vmid: machine for machine in read}
        others = {vmid: guest for vmid, guest in guests.items() if vmid not in machines}
        return State(machines, others, image.result(), network.result())


def observe_machine(api: Api, spec: ClusterSpec, vmid: int) -> Observed | None:
    """Read one machine of ours; None where there is none at that number."""
    for one in api.get(f"nodes/{spec.host.node}/qemu"):
        if int(one["vmid"]) == vmid and spec.name in tags_of(one.get("tags")):
            return _observed(api, spec.host.node, one)
    return None


def _guests(api: Api) -> Iterable[Guest]:
    listed = api.get("cluster/resources", type="vm")
    if not isinstance(listed, list):
        raise UnreadableAnswerError(
            "cluster/resources", f"{type(listed).__name__} in place of a list", "update the host"
        )
    for one in listed:
        yield Guest(
            vmid=int(one["vmid"]),
            name=str(one.get("name", "")),
            kind=str(one.get("type", "qemu")),
            node=str(one.get("node", "")),
            running=one.get("status") == "running",
            memory=int(one.get("maxmem") or 0),
            vcpu=int(one.get("maxcpu") or 0),
            tags=tags_of(one.get("tags")),
            lock=str(one.get("lock") or ""),
        )


def _has_image(api: Api, spec: ClusterSpec) -> bool:
    path = f"nodes/{spec.host.node}/storage/{spec.storage.images}/content"
    return any(one["volid"] == image_volume(spec) for one in api.get(path, content="import"))


def _observed(api: Api, node: str, live: Mapping[str, Any]) -> Observed:
    vmid = int(live["vmid"])
    items = api.get(f"nodes/{node}/qemu/{vmid}/pending")
    raw = dict(_with_pending(items))
    present = {str(i["key"]): str(i["value"]) for i in items if i.get("value") is not None}
    config, now = canonical(raw), canonical(present)
    return Observed(
        vmid=vmid,
        name=str(raw.get("name", live.get("name", ""))),
        status=str(live.get("status", "unknown")),
        lock=str(live.get("lock") or ""),
        tags=tags_of(raw.get("tags")),
        raw=raw,
        config=config,
        waiting=tuple(key for key in OWNED if config[key] != now[key]),
        disk=disk_size(raw),
        uptime=int(live.get("uptime") or 0),
        template=bool(live.get("template")),
    )


def _with_pending(items: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yield the configuration as it will be at the next start."""
    for item in items:
        value = item.get("pending", item.get("value"))
        if value is not None and not item.get("delete"):
            yield str(item["key"]), str(value)
