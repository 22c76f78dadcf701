"""What a plan of 10 and of 500 unchanged machines costs, against reading them one by one.

The Proxmox API is the tests' fake, in a process of its own. The baseline is what a plain script on
proxmoxer does: configuration, pending changes and state of each machine, one call after the other.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import yaml

from benchmarks.report import Comparison, Result
from infra.proxmox.api import Api, Endpoint, Token
from infra.proxmox.desired import configuration
from infra.proxmox.plan import make_plan
from infra.spec.model import REFERENCE, ClusterSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMq9FMyA8H8M0 benchmark"


def run(*, quick: bool) -> Result:
    """Plan and read in turn, on hosts of both sizes."""
    sizes, rounds = ((10, 50), 2) if quick else ((10, 500), 7)
    comparisons: list[Comparison] = []
    for size in sizes:
        with _host(size) as api:
            comparisons += _measured(api, specification(size), size, rounds)
    return Result(
        "infra_plan",
        "dp infra plan of unchanged machines",
        comparisons,
        ("The API answers from memory on this machine: a real one adds its latency to each call.",),
    )


def _measured(api: Api, spec: ClusterSpec, size: int, rounds: int) -> list[Comparison]:
    planned: list[float] = []
    read: list[float] = []
    calls: list[float] = []
    for _ in range(rounds):
        before, started = api.calls, time.perf_counter()
        plan, _ = make_plan(api, spec)
        planned.append(time.perf_counter() - started)
        calls.append((api.calls - before) / size)
        assert plan.empty, plan.steps[:1]
        started = time.perf_counter()
        read_one_by_one(api, spec)
        read.append(time.perf_counter() - started)
    what = f"{size} machines"
    return [
        Comparison(what, "s", ("plan", planned), ("one by one", read), 1.0),
        Comparison(f"{what}: calls each", "", ("plan", calls), ("one call", [1.0]), 2.0),
    ]


def read_one_by_one(api: Api, spec: ClusterSpec) -> None:
    """Read all machines as a plain script does."""
    path = f"nodes/{spec.host.node}/qemu"
    for machine in spec.machines():
        for part in ("config", "pending", "status/current"):
            api.get(f"{path}/{machine.vmid}/{part}")


def specification(size: int) -> ClusterSpec:
    """Return the reference with `size` workers and nothing else."""
    content: dict[str, Any] = yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))
    content |= {"tunnels": [], "ssh": {"public_keys": [KEY]}}
    content["network"] |= {"cidr": "10.10.0.0/20", "firewall": {"enabled": False}}
    content["pools"] = {"workers": content["pools"]["workers"] | {"count": size}}
    return ClusterSpec.model_validate(content)


@contextmanager
def _host(size: int) -> Generator[Api]:
    """Start a host with the machines of the specification; yields a session with it."""
    from dataplatform_tests.infra.proxmox.fake import SECRET, TOKEN

    os.environ["NO_PROXY"] = "127.0.0.1"
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, size))
    process.start()
    try:
        port, authority = ours.recv()
        endpoint = Endpoint("127.0.0.1", port, authority=authority)
        with Api(endpoint, Token(TOKEN, SECRET)) as api:
            yield api
    finally:
        ours.send("stop")
        process.join()


def _serve(pipe: Connection, size: int) -> None:
    from fakepve.certs import make_cert

    from dataplatform_tests.infra.proxmox.fake import NODE, Proxmox, Serving

    host, spec = Proxmox(), specification(size)
    host.max_requests = 10
    for machine in spec.machines():
        stored = configuration(spec, machine)
        disk = f"local-lvm:vm-{machine.vmid}-disk-0,discard=on,iothread=1,ssd=1"
        stored["scsi0"] = f"{disk},size={machine.disk_gib}G"
        stored["ide2"] = f"local-lvm:vm-{machine.vmid}-cloudinit,media=cdrom"
        host.add_vm(machine.vmid, machine.name, node=NODE, status="running", config=stored)
    network = spec.network
    zone, vnet = {"zone": network.zone, "type": "simple"}, {"vnet": network.bridge}
    host.sdn["zones"][network.zone] = zone
    host.sdn["vnets"][network.bridge] = vnet | {"zone": network.zone}
    name = f"{network.zone}-10.10.0.0-20"
    subnet = {"subnet": name, "vnet": network.bridge, "gateway": "10.10.0.1", "snat": 1}
    host.sdn["subnets"][name] = subnet
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_cert(folder, hosts=("127.0.0.1",))[:2]
        serving = Serving(host, certificate)
        pipe.send((host.port, certificate[0]))
        pipe.recv()
        serving.stop()
