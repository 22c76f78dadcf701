"""A Proxmox host to test against: fakepve, which checks every request against the official schema.

fakepve stores what it is given; the overlay below adds what a provisioner reads back: imported and
resized disks, the SDN with its pending changes, the node's hardware. It is AGPL-licensed and used by
tests alone.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from fakepve import FakePve
from fakepve.model import PveError, TaskError
from fakepve.qemu import join_drive, split_drive

from infra.proxmox.normalise import parse_size

NODE: Final = "pve"
TOKEN: Final = "automation@pve!dp"
GIB: Final = 1 << 30
IMAGE_SIZE: Final = 3 * GIB
_T = TypeVar("_T")
V2: Final = "fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3: Final = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"


class Proxmox(FakePve):
    """One host named `pve`, with 128 GB, 32 threads, a thin pool of 1 TB and an API token."""

    def __init__(self) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.storages: dict[str, dict[str, Any]] = self.storages
        self.apitokens[TOKEN] = "sesame-open-1234"
        self.nodes = {NODE: {"online": True}}
        self.storages["local"].update(content="iso,vztmpl,backup,import", total=100 * GIB)
        self.storages["local-lvm"].update(total=900 * GIB, avail=900 * GIB)
        self.memory = 128 * GIB
        self.flags = V3
        self.threads = 32
        self.clock_skew = 0.0
        self.thin_pool = {"lv": "data", "vg": "pve", "lv_size": 900 * GIB, "used": 9 * GIB}
        self.thin_pool |= {"metadata_size": 9 * GIB, "metadata_used": GIB // 10}
        self.interfaces: list[dict[str, Any]] = [
            {"iface": "vmbr0", "type": "bridge", "cidr": "135.181.211.227/26", "active": 1}
        ]
        self.sdn: dict[str, dict[str, dict[str, Any]]] = {"zones": {}, "vnets": {}, "subnets": {}}

    def _routes_overlay(self) -> list[tuple[str, str, Any]]:
        node, sdn = "/nodes/{node}", "/cluster/sdn"
        return [
            ("PUT", node + "/qemu/{vmid}/resize", self._resize),
            ("GET", node + "/status", self._node_status),
            ("GET", node + "/time", self._time),
            ("GET", node + "/network", self._interfaces_list),
            ("GET", node + "/disks/lvmthin", self._lvmthin),
            ("GET", node + "/capabilities/qemu/cpu", self._cpu_types),
            ("GET", sdn + "/zones", self._zones_get),
            ("POST", sdn + "/zones", self._zones_post),
            ("GET", sdn + "/vnets", self._vnets_get),
            ("POST", sdn + "/vnets", self._vnets_post),
            ("GET", sdn + "/vnets/{vnet}/subnets", self._subnets_get),
            ("POST", sdn + "/vnets/{vnet}/subnets", self._subnets_post),
            ("PUT", sdn + "/vnets/{vnet}/subnets/{subnet}", self._subnets_put),
            ("PUT", sdn, self._sdn_apply),
        ]

    # Disks

    def _qm_new_drive(self, vmid: int, key: str, value: str, default: str) -> tuple[str, list[str]]:
        volume, properties = split_drive(value)
        source = properties.pop("import-from", None)
        if source is None and not volume.endswith(":cloudinit"):
            return super()._qm_new_drive(vmid, key, value, default)
        storage = volume.partition(":")[0]
        if source is None:
            made, _ = self._qm_alloc(storage, vmid, None, 4 << 20)
            name = f"vm-{vmid}-cloudinit"
            volumes = self.storages[storage]["volumes"]
            volumes[name] = volumes.pop(made.partition(":")[2])
            return join_drive(f"{storage}:{name}", {"media": "cdrom"}), [f"{storage}:{name}"]
        source_storage, _, file = source.partition(":")
        if file not in self.storages[source_storage].get("volumes", {}):
            raise PveError(500, f"volume {source} does not exist")
        made, _ = self._qm_alloc(storage, vmid, None, IMAGE_SIZE)
        return join_drive(made, properties | {"size": "3G"}), [made]

    async def _resize(self, values: dict[str, Any], user: str) -> str:
        vm = self.find(values["node"], values["vmid"])
        self._check_lock(vm)

        async def body() -> None:
            volume, properties = split_drive(vm.config[values["disk"]])
            wanted, present = parse_size(values["size"]), parse_size(properties["size"])
            if wanted < present:
                raise TaskError("shrinking disks is not supported")
            storage, _, name = volume.partition(":")
            self.storages[storage]["volumes"][name]["size"] = wanted
            vm.config[values["disk"]] = join_drive(volume, properties | {"size": values["size"]})

        return await self.task(vm.node, "resize", vm.vmid, user, body, vm=vm)

    # The node

    async def _node_status(self, values: dict[str, Any], user: str) -> dict[str, Any]:
        cpu = {"cpus": self.threads, "flags": self.flags, "model": "AMD Ryzen", "sockets": 1}
        memory = {"total": self.memory, "used": 4 * GIB, "free": self.memory - 4 * GIB}
        return {"cpuinfo": cpu, "memory": memory, "pveversion": f"pve-manager/{self.version}/x"}

    async def _time(self, values: dict[str, Any], user: str) -> dict[str, Any]:
        return {"time": int(time.time() + self.clock_skew), "timezone": "UTC", "localtime": 0}

    async def _interfaces_list(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return self.interfaces

    async def _lvmthin(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return [self.thin_pool]

    async def _cpu_types(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        names = ("host", "kvm64", "x86-64-v2", "x86-64-v2-AES", "x86-64-v3", "Haswell")
        return [{"name": name, "custom": 0, "vendor": "default"} for name in names]

    # The SDN: what is written is pending until it is applied

    async def _zones_get(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return list(self.sdn["zones"].values())

    async def _zones_post(self, values: dict[str, Any], user: str) -> None:
        self._declare("zones", values["zone"], values)

    async def _vnets_get(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        return list(self.sdn["vnets"].values())

    async def _vnets_post(self, values: dict[str, Any], user: str) -> None:
        if values["zone"] not in self.sdn["zones"]:
            raise PveError(500, f"sdn zone {values['zone']} does not exist")
        self._declare("vnets", values["vnet"], values)

    async def _subnets_get(self, values: dict[str, Any], user: str) -> list[dict[str, Any]]:
        if values["vnet"] not in self.sdn["vnets"]:
            raise PveError(500, f"sdn vnet '{values['vnet']}' does not exist")
        return [s for s in self.sdn["subnets"].values() if s["vnet"] == values["vnet"]]

    async def _subnets_post(self, values: dict[str, Any], user: str) -> None:
        zone = self.sdn["vnets"][values["vnet"]]["zone"]
        name = f"{zone}-{values['subnet'].replace('/', '-')}"
        self._declare("subnets", name, values | {"cidr": values["subnet"], "subnet": name})

    async def _subnets_put(self, values: dict[str, Any], user: str) -> None:
        subnet = self.sdn["subnets"][values["subnet"]]
        subnet.setdefault("state", "changed")
        subnet |= {"pending": {key: values[key] for key in ("gateway", "snat") if key in values}}

    def _declare(self, kind: str, name: str, values: dict[str, Any]) -> None:
        if name in self.sdn[kind]:
            raise PveError(500, f"sdn {kind[:-1]} object ID '{name}' already defined")
        self.sdn[kind][name] = values | {"state": "new"}

    async def _sdn_apply(self, values: dict[str, Any], user: str) -> str:
        async def body() -> None:
            for kind in self.sdn.values():
                for one in kind.values():
                    one.update(one.pop("pending", {}))
                    one.pop("state", None)

        return await self.task(NODE, "reloadnetworkall", "", user, body)


class Serving:
    """A fake on its own event loop in a thread.

    Args:
        fake: what is served.
        certificate: files of certificate and key.
    """

    def __init__(self, fake: FakePve, certificate: tuple[str, str]) -> None:
        self.loop = asyncio.new_event_loop()
        self._fake = fake
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._run(fake.start(*certificate))

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        self._run(self._fake.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()
