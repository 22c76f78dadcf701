"""Whether the host can carry what the specification asks for, before anything is changed.

Every check is a row: what is needed, the least that will do, what is usable, their ratio, a verdict
and a remedy. Nothing is promised twice unless the specification's `overcommit` says so.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, Final, Literal

from infra.proxmox import isa
from infra.proxmox.api import API_VERSION, Api
from infra.proxmox.errors import PreflightError, ProxmoxError
from infra.proxmox.normalise import parse_properties
from infra.proxmox.observe import State
from infra.spec.model import ClusterSpec

Verdict = Literal["ok", "warning", "refused"]
_GIB: Final = 1 << 30
_SKEW: Final = 30
_METADATA_FULL: Final = 0.75
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

PRIVILEGES: Final[Mapping[str, tuple[str, ...]]] = {
    "/": ("Sys.Audit", "Sys.Modify"),
    "/vms": (
        "VM.Allocate",
        "VM.Audit",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Cloudinit",
        "VM.Config.Disk",
        "VM.Config.HWType",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.PowerMgmt",
    ),
    "/storage/{disks}": ("Datastore.AllocateSpace", "Datastore.Audit"),
    "/storage/{images}": ("Datastore.AllocateTemplate", "Datastore.Audit"),
    "/sdn": ("SDN.Allocate", "SDN.Audit", "SDN.Use"),
}
"""What the token needs, by path."""


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        name: what was looked at.
        need: what the specification asks for.
        usable: what the host has for it.
        verdict: whether that will do.
        floor: the least that will do, where that is less than `need`.
        ratio: promised / usable, where both are quantities.
        remedy: what to do, where it will not do.
    """

    name: str
    need: str
    usable: str
    verdict: Verdict = "ok"
    floor: str = ""
    ratio: float | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Facts:
    """What the host has, as far as the checks ask.

    Attributes:
        version: of Proxmox; empty: the host was not asked.
        memory: in bytes.
        threads: of its CPU; None: not known.
        flags: of its CPU; empty: only `level` is known.
        level: of x86-64.
        cpu_types: what Proxmox knows; empty: not asked.
        skew: of its clock to ours, in seconds.
        storages: what each holds and has, by name.
        volumes: disks of others on the storage of ours, in bytes as promised.
        thin_pool: of the disks' storage; empty: it is none.
        interfaces: of the host.
        privileges: of the token, by path.
    """

    memory: int
    threads: int | None
    level: str
    version: str = ""
    flags: frozenset[str] = frozenset()
    cpu_types: frozenset[str] = frozenset()
    skew: float = 0
    storages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    volumes: int = 0
    thin_pool: Mapping[str, Any] = field(default_factory=dict)
    interfaces: tuple[Mapping[str, Any], ...] = ()
    privileges: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def stated_facts(spec: ClusterSpec) -> Facts:
    """Return what the specification says of the host, for planning without it."""
    host = spec.host
    disks = {"total": host.disk_gib * _GIB, "content": "images", "active": 1}
    return Facts(
        memory=host.memory_gib * _GIB,
        threads=host.threads,
        level=host.cpu_level,
        storages={spec.storage.disks: disks},
    )


def read_facts(api: Api, spec: ClusterSpec, state: State) -> Facts:
    """Ask the host.

    Raises:
        ProxmoxError: it can't be asked.
    """
    node = f"nodes/{spec.host.node}"
    # First of all: without privileges the other questions have misleading answers.
    privileges = api.get("access/permissions")
    status = api.get(f"{node}/status")
    flags = frozenset(str(status["cpuinfo"].get("flags", "")).split())
    storages = {str(one["storage"]): one for one in api.get(f"{node}/storage")}
    now = time.time()
    return Facts(
        version=str(api.get("version")["version"]),
        memory=int(status["memory"]["total"]),
        threads=int(status["cpuinfo"]["cpus"]),
        flags=flags,
        level=isa.level_of_flags(flags),
        cpu_types=frozenset(str(one["name"]) for one in api.get(f"{node}/capabilities/qemu/cpu")),
        skew=float(api.get(f"{node}/time")["time"]) - now,
        storages=storages,
        volumes=_foreign_volumes(api, spec, state, storages),
        thin_pool=_thin_pool(api, spec, storages),
        interfaces=tuple(api.get(f"{node}/network")),
        privileges=privileges,
    )


def _foreign_volumes(
    api: Api, spec: ClusterSpec, state: State, storages: Mapping[str, object]
) -> int:
    if spec.storage.disks not in storages:
        return 0
    path = f"nodes/{spec.host.node}/storage/{spec.storage.disks}/content"
    ours = {*state.machines, *(machine.vmid for machine in spec.machines())}
    return sum(int(v.get("size") or 0) for v in api.get(path) if v.get("vmid") not in ours)


def _thin_pool(
    api: Api, spec: ClusterSpec, storages: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    name = spec.storage.disks
    if storages.get(name, {}).get("type") != "lvmthin":
        return {}
    storage = api.get(f"storage/{name}")
    for pool in api.get(f"nodes/{spec.host.node}/disks/lvmthin"):
        if (pool.get("vg"), pool.get("lv")) == (storage.get("vgname"), storage.get("thinpool")):
            return dict(pool)
    return {}


def checks(spec: ClusterSpec, facts: Facts, state: State | None) -> list[Check]:
    """Return all rows; those that need the host are left out where it was not asked.

    Args:
        spec: what is asked for.
        facts: what the host has.
        state: what is on it; None: it was not asked.
    """
    guests = [g for g in state.guests.values() if g.running] if state else []
    found = [
        _memory(spec, facts, sum(g.memory for g in guests if g.node == spec.host.node)),
        _vcpu(spec, facts, sum(g.vcpu for g in guests if g.node == spec.host.node)),
        _disk(spec, facts),
        *_cpu(spec, facts),
    ]
    if state is None:
        return found
    of_the_host: Iterable[Callable[[ClusterSpec, Facts], Iterator[Check]]] = (
        _version,
        _clock,
        _privileges,
        _storages,
        _thin_pool_fill,
        _bridge,
    )
    found += [check for one in of_the_host for check in one(spec, facts)]
    return [*found, *_vmids(spec, state), *_way_in(spec, state)]


def require(found: Iterable[Check]) -> None:
    """Refuse what the host can't carry.

    Raises:
        PreflightError: a check refuses; it names all of these.
    """
    refused = [check for check in found if check.verdict == "refused"]
    if refused:
        cause = "; ".join(f"{c.name}: needs {c.need}, has {c.usable}" for c in refused)
        remedy = "; ".join(dict.fromkeys(c.remedy for c in refused))
        raise PreflightError("preflight", cause, remedy)


def _memory(spec: ClusterSpec, facts: Facts, others: int) -> Check:
    machines = spec.machines()
    need = sum(m.memory_mib for m in machines) << 20
    floor = sum(m.assured_mib for m in machines) << 20
    usable = facts.memory - spec.host.reserved_gib * _GIB - others
    ratio = need / usable if usable > 0 else float("inf")
    allowed = spec.overcommit.memory
    remedy = ""
    if floor > usable:
        remedy = (
            "give the pools floors below their memory (floor_gib), smaller memory or fewer machines:"
            " --profile fits-128 has such for a host of 128 GB"
        )
    elif ratio > allowed:
        remedy = (
            f"set overcommit.memory to {ratio:.2f} or more, if ballooning to the floors is meant"
        )
    return Check(
        name="memory",
        need=_gib(need),
        floor=_gib(floor),
        usable=_gib(usable),
        ratio=ratio,
        verdict="refused" if remedy else "ok",
        remedy=remedy,
    )


def _vcpu(spec: ClusterSpec, facts: Facts, others: int) -> Check:
    need = sum(machine.vcpu for machine in spec.machines())
    largest = max((machine.vcpu for machine in spec.machines()), default=0)
    if facts.threads is None:
        return Check("vCPU", str(need), "not known", "warning", remedy="state host.threads")
    ratio = (need + others) / facts.threads
    remedy = ""
    if largest > facts.threads:
        remedy = f"give each machine at most {facts.threads} vCPU: Proxmox starts none with more"
    elif ratio > spec.overcommit.vcpu:
        remedy = f"set overcommit.vcpu to {ratio:.1f} or more, or give fewer vCPU"
    return Check(
        name="vCPU",
        need=str(need),
        floor=str(largest),
        usable=f"{facts.threads} threads",
        ratio=ratio,
        verdict="refused" if remedy else "ok",
        remedy=remedy,
    )


def _disk(spec: ClusterSpec, facts: Facts) -> Check:
    need = sum(machine.disk_gib for machine in spec.machines()) * _GIB
    storage = facts.storages.get(spec.storage.disks, {})
    usable = int(storage.get("total") or 0) - facts.volumes
    ratio = need / usable if usable > 0 else float("inf")
    fits = ratio <= spec.overcommit.disk
    remedy = (
        "choose smaller disks (they can grow later, never shrink; --profile fits-128 has such), or set"
        f" overcommit.disk to {ratio:.2f} or more and watch the pool: when it is full, every machine stops"
    )
    return Check(
        name=f"disk ({spec.storage.disks})",
        need=_gib(need),
        usable=_gib(usable),
        ratio=ratio,
        verdict="ok" if fits else "refused",
        remedy="" if fits else remedy,
    )


def _cpu(spec: ClusterSpec, facts: Facts) -> Iterator[Check]:
    kind = spec.cpu_type
    if facts.cpu_types and kind not in facts.cpu_types:
        remedy = "use `host` on a single host, or x86-64-v2-AES; x86-64-v1 is no type, kvm64 is that level"
        yield Check("CPU type", kind, "unknown to Proxmox", "refused", remedy=remedy)
        return
    level = isa.level_of_type(kind, facts.level)
    if level is None:
        yield Check(
            "CPU type", kind, "level not known", "warning", remedy="use host, or a level's name"
        )
        return
    needed = isa.needed()
    highest = max((one.level for one in needed), key=isa.LEVELS.index)
    lacking = [one.image for one in needed if isa.LEVELS.index(one.level) > isa.LEVELS.index(level)]
    usable = f"{level} ({kind})"
    if not lacking:
        yield Check("CPU level", highest, usable)
        return
    missing = ", ".join(isa.missing_flags(facts.flags, highest)) if facts.flags else ""
    # Offline the level is stated, not read: the word of the host counts.
    verdict: Verdict = "refused" if facts.version else "warning"
    if kind not in ("host", "max") and isa.LEVELS.index(facts.level) >= isa.LEVELS.index(highest):
        remedy = f"set cpu_type: host; the host's own CPU has {facts.level}"
    elif facts.version:
        remedy = (
            f"another host: this CPU lacks {missing}, and {', '.join(lacking)} do not start on it"
        )
    else:
        remedy = "run `dp infra preflight` with the host: it reads the CPU's flags"
    yield Check("CPU level", highest, usable, verdict, remedy=remedy)


def _version(_: ClusterSpec, facts: Facts) -> Iterator[Check]:
    has = tuple(int(part) for part in facts.version.split("-")[0].split(".")[:2])
    old = has < API_VERSION
    wanted = ".".join(map(str, API_VERSION))
    remedy = (
        f"upgrade Proxmox VE to {wanted} or later: content type import and SDN's NAT" if old else ""
    )
    verdict: Verdict = "refused" if old else "ok"
    yield Check("Proxmox VE", f"≥ {wanted}", facts.version, verdict, remedy=remedy)


def _clock(_: ClusterSpec, facts: Facts) -> Iterator[Check]:
    off = abs(facts.skew) > _SKEW
    remedy = "let chrony set the host's clock (`chronyc tracking`): certificates and etcd need it"
    verdict: Verdict = "warning" if off else "ok"
    yield Check(
        "clock", f"± {_SKEW} s", f"{facts.skew:+.0f} s", verdict, remedy=remedy if off else ""
    )


def missing_privileges(spec: ClusterSpec, held: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return what the token lacks, as `PATH PRIVILEGE`."""
    names = {"disks": spec.storage.disks, "images": spec.storage.images}
    missing = []
    for template, privileges in PRIVILEGES.items():
        path = template.format_map(names)
        missing += [f"{path} {one}" for one in privileges if not _held(held, path, one)]
    return missing


def _held(held: Mapping[str, Mapping[str, int]], path: str, privilege: str) -> bool:
    """Tell whether a privilege is held on a path, or above it where it is handed down."""
    if privilege in held.get(path, {}):
        return True
    above = [p for p in held if path.startswith(p.rstrip("/") + "/")]
    # The nearest entry above counts: Proxmox lets a deeper one replace those further up.
    nearest = max(above, key=len, default=None)
    return nearest is not None and bool(held[nearest].get(privilege))


def _privileges(spec: ClusterSpec, facts: Facts) -> Iterator[Check]:
    missing = missing_privileges(spec, facts.privileges)
    count = sum(map(len, PRIVILEGES.values()))
    remedy = "give the role what is missing, to user and token (docs/infra.md#the-token)"
    yield Check(
        "privileges",
        str(count),
        "all" if not missing else f"without {', '.join(missing)}",
        "refused" if missing else "ok",
        remedy=remedy if missing else "",
    )


def _storages(spec: ClusterSpec, facts: Facts) -> Iterator[Check]:
    for name, content in ((spec.storage.disks, "images"), (spec.storage.images, "import")):
        storage = facts.storages.get(name)
        label = f"storage {name}"
        if storage is None:
            has = ", ".join(sorted(facts.storages)) or "none"
            remedy = "name one of the host's storages in storage.*, as `pvesm status` lists them"
            yield Check(label, content, f"absent; there are {has}", "refused", remedy=remedy)
        elif not storage.get("active"):
            remedy = f"activate it: `pvesm set {name} --disable 0`, and look at `pvesm status`"
            yield Check(label, content, "not active", "refused", remedy=remedy)
        elif content not in str(storage.get("content", "")).split(","):
            remedy = f"pvesm set {name} --content {storage.get('content')},{content}"
            yield Check(label, content, str(storage.get("content")), "refused", remedy=remedy)
        else:
            yield Check(label, content, str(storage.get("content")))


def _thin_pool_fill(_: ClusterSpec, facts: Facts) -> Iterator[Check]:
    pool = facts.thin_pool
    if not pool.get("metadata_size"):
        return
    used = int(pool["metadata_used"]) / int(pool["metadata_size"])
    full = used > _METADATA_FULL
    name = f"{pool['vg']}/{pool['lv']}"
    remedy = f"lvextend --poolmetadatasize +1G {name}: full metadata makes the pool read-only"
    yield Check(
        "thin pool's metadata",
        f"≤ {_METADATA_FULL:.0%}",
        f"{used:.0%} of {_gib(int(pool['metadata_size']))}",
        "refused" if full else "ok",
        remedy=remedy if full else "",
    )


def _bridge(spec: ClusterSpec, facts: Facts) -> Iterator[Check]:
    network = spec.network
    for interface in facts.interfaces:
        cidr, name = interface.get("cidr"), str(interface.get("iface"))
        if name == network.bridge and interface.get("type") != "vnet":
            remedy = "choose another network.bridge: that one was not made by the SDN"
            yield Check(
                "bridge",
                network.bridge,
                f"taken ({interface.get('type')})",
                "refused",
                remedy=remedy,
            )
            return
        if name != network.bridge and cidr and _overlaps(str(cidr), network.cidr):
            remedy = "choose a network.cidr that nothing else on the host uses"
            yield Check(
                "network", str(network.cidr), f"{name} has {cidr}", "refused", remedy=remedy
            )
            return
    yield Check("network", f"{network.bridge} {network.cidr}", "free or ours")


def _overlaps(cidr: str, network: IPv4Network) -> bool:
    return IPv4Interface(cidr).network.overlaps(network)


def _vmids(spec: ClusterSpec, state: State) -> Iterator[Check]:
    wanted = {machine.vmid: machine for machine in spec.machines()}
    taken = [
        f"{vmid} ({state.guests[vmid].name})" for vmid in sorted(wanted) if vmid in state.guests
    ]
    span = f"{min(wanted, default=0)}–{max(wanted, default=0)}"
    remedy = "set pools.*.first_vmid to a free range; machines of others are never touched"
    yield Check(
        "VMIDs",
        span,
        f"taken: {', '.join(taken)}" if taken else "free or ours",
        "refused" if taken else "ok",
        remedy=remedy if taken else "",
    )


def foreign_addresses(api: Api, spec: ClusterSpec, state: State) -> Check:
    """Return whether a machine of someone else has an address that is to be ours.

    Costs a call for each machine of others on the host, so it is asked only before applying.
    """
    wanted, taken = {str(machine.ip) for machine in spec.machines()}, []
    for guest in state.guests.values():
        if guest.kind != "qemu" or guest.node != spec.host.node:
            continue
        try:
            config = api.get(f"nodes/{guest.node}/qemu/{guest.vmid}/config")
        except ProxmoxError:
            continue  # It was removed meanwhile, or is not ours to see.
        for key, value in config.items():
            ip = parse_properties(str(value), "ip").get("ip", "").partition("/")[0]
            if key.startswith("ipconfig") and ip in wanted:
                taken.append(f"{ip} ({guest.name})")
    return Check(
        "addresses",
        str(len(wanted)),
        f"taken: {', '.join(taken)}" if taken else "free or ours",
        "refused" if taken else "ok",
        remedy="set pools.*.first_ip to free addresses" if taken else "",
    )


def _way_in(spec: ClusterSpec, state: State) -> Iterator[Check]:
    """Warn of a firewall that would shut out whoever switches it on."""
    firewall = spec.network.firewall
    if not firewall.enabled:
        yield Check("firewall", "not asked for", "as it is")
        return
    tunnelled = (spec.host.api_address or spec.host.address) in _LOOPBACK
    shut = spec.host.ssh_port not in firewall.open_ports
    if shut:
        remedy = f"add {spec.host.ssh_port} to network.firewall.open_ports, or nobody gets in again"
        yield Check("firewall", "SSH open", "SSH closed", "refused", remedy=remedy)
    elif not firewall.management and not tunnelled and not state.network.firewall_on:
        remedy = (
            "once it is on, only SSH is open: name your network in network.firewall.management, or go on"
            " through an SSH tunnel (docs/infra.md#reaching-the-api)"
        )
        yield Check(
            "firewall", "API open to you", "API closed after apply", "warning", remedy=remedy
        )
    else:
        yield Check("firewall", "a way in", "SSH" if tunnelled else "SSH and API")


def _gib(size: int) -> str:
    return f"{size / _GIB:,.0f} GiB"
