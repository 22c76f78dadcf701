"""Plans carried out on a Proxmox API that checks every request against the official schema."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

from dataplatform_tests.infra.proxmox.conftest import make_spec
from dataplatform_tests.infra.proxmox.fake import GIB, Proxmox
from infra.proxmox.api import Api
from infra.proxmox.apply import Applied, Applier, Event
from infra.proxmox.errors import (
    ForeignChangesError,
    ForeignMachineError,
    NotAllowedError,
    StalePlanError,
)
from infra.proxmox.observe import observe
from infra.proxmox.plan import Plan, make_plan
from infra.spec.model import ClusterSpec

Connect = Callable[..., Api]


def bring_up(api: Api, spec: ClusterSpec, **options: Any) -> Applied:
    plan, _ = make_plan(api, spec, **options)
    return Applier(api, spec).apply(plan)


def operations(plan: Plan) -> list[tuple[str, str]]:
    return [(step.operation, step.target) for step in plan.steps]


def disks(host: Proxmox) -> dict[str, int]:
    volumes = host.storages["local-lvm"].get("volumes", {})
    return {name: volume["size"] for name, volume in volumes.items()}


def everything(host: Proxmox) -> dict[str, Any]:
    """Return what is on a host, without what Proxmox draws by lot."""
    own = ("vmgenid", "smbios1", "meta", "digest")
    machines = {
        vm.vmid: (vm.status, {k: v for k, v in vm.config.items() if k not in own})
        for vm in host.vms
    }
    for _, config in machines.values():
        config["net0"] = re.sub(r"=[0-9A-F:]{17}", "", config["net0"])
    firewall = host.firewall_config("cluster")
    rules = sorted(str(rule) for rule in firewall["rules"])
    options = {key: bool(value) for key, value in firewall["options"].items()}
    return {"machines": machines, "disks": disks(host), "sdn": host.sdn, "rules": (rules, options)}


def test_ten_machines_from_nothing_then_nothing_more(
    host: Proxmox, api: Api, reference: ClusterSpec
) -> None:
    applied = bring_up(api, reference)

    assert applied.errors == []
    assert {vm.name for vm in host.vms} == {machine.name for machine in reference.machines()}
    assert {vm.status for vm in host.vms} == {"running"}
    sizes = [size // GIB for name, size in sorted(disks(host).items()) if "cloudinit" not in name]
    assert sizes == [100] * 3 + [200] * 7
    second, _ = make_plan(api, reference)
    assert second.empty
    assert len(second.unchanged) == 10


def test_a_machine_is_made_as_cloud_init_and_the_cluster_need_it(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)

    config = host.find("pve", 9104).config
    assert config["ipconfig0"] == "gw=10.10.0.1,ip=10.10.0.104/24" or (
        config["ipconfig0"] == "ip=10.10.0.104/24,gw=10.10.0.1"
    )
    assert config["sshkeys"].startswith("ssh-ed25519%20AAAA")
    assert config["sshkeys"].endswith("%20me%40laptop")
    assert set(config["tags"].split(";")) == {"dataplatform", "worker", "image-a733e7d49442"}
    assert config["scsi0"].startswith("local-lvm:vm-9104-disk-0,")
    assert "import-from" not in config["scsi0"]
    wanted = {"cpu": "host", "protection": 1, "onboot": 1, "serial0": "socket", "ciuser": "dp"}
    assert {key: config[key] for key in wanted} == wanted


def test_network_is_made_before_the_machines_and_the_firewall_shut_last(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    seen: list[Event] = []
    plan, _ = make_plan(api, small)
    Applier(api, small, seen.append).apply(plan)

    done = [event.operation for event in seen if event.state == "done"]
    assert done[:5] == ["network"] * 4 + ["image"]
    assert done[-2:] == ["firewall"] * 2
    assert host.sdn["subnets"]["dpzone-10.10.0.0-24"]["snat"] == 1
    assert not [one for kind in host.sdn.values() for one in kind.values() if one.get("state")]
    firewall = host.firewall_config("cluster")
    assert [rule["dport"] for rule in firewall["rules"]] == ["22"]
    assert (firewall["options"]["enable"], firewall["options"]["policy_in"]) == (1, "DROP")


def test_imports_never_run_side_by_side(host: Proxmox, connect: Connect) -> None:
    running, most, lock = [0], [0], threading.Lock()

    class Watching(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
            creates = request.method == "POST" and str(request.url).endswith("/qemu")
            with lock:
                running[0] += creates
                most[0] = max(most[0], running[0])
            try:
                return super().send(request, *args, **options)
            finally:
                with lock:
                    running[0] -= creates

    spec = make_spec(pools__workers__count=3)
    assert bring_up(connect(host, adapter=lambda _: Watching()), spec).errors == []
    assert most[0] == 1


def test_more_memory_waits_for_the_restart_that_is_asked_for(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    larger = make_spec(
        pools__masters__count=1, pools__workers__count=1, pools__workers__memory_gib=24
    )

    plan, _ = make_plan(api, larger)
    assert operations(plan) == [("update", "dp-worker-1")]
    (change,) = plan.steps[0].changes
    assert (change.key, change.before, change.after) == ("memory", "16 GiB", "24 GiB")
    assert change.later
    assert Applier(api, larger).apply(plan).errors == []

    assert host.find("pve", 9104).config["memory"] == "16384"
    second, _ = make_plan(api, larger)
    assert second.empty
    assert second.waiting == {"dp-worker-1": ("memory",)}
    bring_up(api, larger, restart=["dp-worker-1"])
    assert host.find("pve", 9104).config["memory"] == "24576"
    third, _ = make_plan(api, larger)
    assert (third.empty, third.waiting) == (True, {})


def test_disk_grows(host: Proxmox, api: Api, small: ClusterSpec) -> None:
    bring_up(api, small)
    larger = make_spec(
        pools__masters__count=1, pools__workers__count=1, pools__workers__disk_gib=300
    )

    plan, _ = make_plan(api, larger)
    assert operations(plan) == [("grow", "dp-worker-1")]
    assert Applier(api, larger).apply(plan).errors == []
    assert disks(host)["vm-9104-disk-0"] == 300 * GIB


def test_worker_is_added_and_the_others_are_left_alone(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    before = everything(host)["machines"]
    more = make_spec(pools__masters__count=1, pools__workers__count=2)

    plan, _ = make_plan(api, more)
    assert {step.target for step in plan.steps} == {"dp-worker-2"}
    Applier(api, more).apply(plan)

    after = everything(host)["machines"]
    assert {vmid: after[vmid] for vmid in before} == before
    assert set(after) - set(before) == {9105}


def test_worker_leaves_only_by_name(host: Proxmox, api: Api) -> None:
    three = make_spec(pools__masters__count=1, pools__workers__count=3)
    bring_up(api, three)
    two = make_spec(pools__masters__count=1, pools__workers__count=3, pools__workers__without=[2])

    plan, _ = make_plan(api, two)
    assert plan.steps == ()
    assert [one.name for one in plan.withheld] == ["dp-worker-2"]
    Applier(api, two).apply(plan)
    assert len(host.vms) == 4

    assert bring_up(api, two, allow_destroy=["dp-worker-2"]).errors == []
    assert {vm.name for vm in host.vms} == {"dp-master-1", "dp-worker-1", "dp-worker-3"}
    assert not [name for name in disks(host) if "9105" in name]
    again, _ = make_plan(api, two)
    assert again.empty


def test_disk_that_would_shrink_is_withheld_until_its_machine_may_be_rebuilt(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    smaller = make_spec(
        pools__masters__count=1, pools__workers__count=1, pools__workers__disk_gib=150
    )

    plan, _ = make_plan(api, smaller)
    assert plan.steps == ()
    assert plan.withheld[0].reason == "its disk would shrink from 200 GiB to 150 GiB"
    assert bring_up(api, smaller, allow_destroy=["dp-worker-1"]).errors == []
    assert disks(host)["vm-9104-disk-0"] == 150 * GIB


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("cores", "2", ("cores", "2", "8")),
        ("cpu", "kvm64", ("cpu", "cputype=kvm64", "cputype=host")),
        ("protection", "0", ("protection", "0", "1")),
        ("tags", "dataplatform;mine", ("tags", "dataplatform mine", "dataplatform mine worker")),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0", None),
        ("sshkeys", "ssh-ed25519%20AAAAB%20eve", ("sshkeys", "eve", "me@laptop")),
        ("agent", None, ("agent", "enabled=0", "enabled=1")),
    ],
)
def test_drift_by_hand_is_found_shown_and_mended(
    host: Proxmox,
    api: Api,
    small: ClusterSpec,
    key: str,
    value: str | None,
    shown: tuple[str, str, str] | None,
) -> None:
    bring_up(api, small)
    machine = host.find("pve", 9104)
    mac = machine.config["net0"]
    if value is None:
        del machine.config[key]
    else:
        machine.config[key] = value

    plan, _ = make_plan(api, small)
    assert operations(plan) == [("update", "dp-worker-1")]
    change = plan.steps[0].changes[0]
    if shown is not None:
        assert (change.key, change.before, change.after) == shown
    assert Applier(api, small).apply(plan).errors == []
    second, _ = make_plan(api, small)
    assert second.empty
    if key == "net0":
        machine.apply_pending()
        assert machine.config["net0"] == "virtio=BC:24:11:00:00:01,bridge=dpnet"
    else:
        assert machine.config["net0"] == mac


def test_stopped_machine_is_started(host: Proxmox, api: Api, small: ClusterSpec) -> None:
    bring_up(api, small)
    host.find("pve", 9104).status = "stopped"

    plan, _ = make_plan(api, small)
    assert operations(plan) == [("start", "dp-worker-1")]
    Applier(api, small).apply(plan)
    assert host.find("pve", 9104).status == "running"


def test_drift_of_network_and_firewall_is_mended(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    firewall = host.firewall_config("cluster")
    firewall["options"]["enable"] = 0
    firewall["rules"][0]["dport"] = "23"
    host.sdn["subnets"]["dpzone-10.10.0.0-24"]["snat"] = 0

    plan, _ = make_plan(api, small)
    assert [step.operation for step in plan.steps] == ["network"] * 2 + ["firewall"] * 2
    assert Applier(api, small).apply(plan).errors == []
    second, _ = make_plan(api, small)
    assert second.empty


def test_network_that_was_written_and_not_applied_is_applied(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    host.sdn["vnets"]["dpnet"]["state"] = "new"

    plan, _ = make_plan(api, small)
    (change,) = plan.steps[0].changes
    assert (change.key, change.before, change.after) == ("SDN", "written", "applied")
    Applier(api, small).apply(plan)
    assert "state" not in host.sdn["vnets"]["dpnet"]


def test_rule_of_ours_that_is_no_longer_wanted_goes_and_those_of_others_stay(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    host.firewall_config("cluster")["rules"].append(
        {"type": "in", "action": "ACCEPT", "dport": "443", "proto": "tcp", "comment": "theirs"}
    )
    bring_up(api, make_spec(network__firewall__open_ports=[22, 80, 8080]))
    bring_up(api, make_spec(network__firewall__open_ports=[22]))

    ports = {rule["dport"] for rule in host.firewall_config("cluster")["rules"]}
    assert ports == {"443", "22"}


def test_machine_of_someone_else_is_never_touched(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    host.add_vm(100, "theirs", node="pve", status="running", config={"cores": 2})
    bring_up(api, small)
    assert host.find("pve", 100).config == {"cores": 2, "name": "theirs"}

    host.add_vm(9105, "squatter", node="pve", config={"tags": "other"})
    with pytest.raises(
        ForeignMachineError, match=r"squatter .* not tagged dataplatform.*first_vmid"
    ):
        make_plan(api, make_spec(pools__masters__count=1, pools__workers__count=2))
    with pytest.raises(NotAllowedError, match="theirs is no machine of dataplatform"):
        make_plan(api, small, allow_destroy=["theirs"])


def test_machine_that_changed_hands_between_plan_and_apply_is_not_destroyed(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    one = make_spec(pools__masters__count=1, pools__workers__count=0)
    plan, _ = make_plan(api, one, allow_destroy=["dp-worker-1"])
    host.find("pve", 9104).config["tags"] = "theirs"

    applied = Applier(api, one).apply(plan)

    assert isinstance(applied.errors[0], ForeignMachineError)
    assert host.find("pve", 9104).status == "running"


def test_changes_of_others_in_the_sdn_are_not_applied_with_ours(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    host.sdn["zones"]["theirs"] = {"zone": "theirs", "type": "vlan", "state": "new"}
    with pytest.raises(ForeignChangesError, match=r"theirs wait.*Datacenter → SDN"):
        make_plan(api, small)


def test_written_plan_is_applied_once(
    host: Proxmox, api: Api, small: ClusterSpec, tmp_path: Any
) -> None:
    made, _ = make_plan(api, small)
    made.write(tmp_path / "plan.json")
    plan = Plan.read(tmp_path / "plan.json")
    assert plan == made
    plan.check(small, observe(api, small))

    Applier(api, small).apply(plan)
    with pytest.raises(StalePlanError, match=r"the host changed.*dp infra plan"):
        plan.check(small, observe(api, small))
    with pytest.raises(StalePlanError, match="the specification changed"):
        plan.check(make_spec(), observe(api, small))


def test_plan_is_stale_after_any_change_that_it_did_not_see(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    plan, _ = make_plan(api, make_spec(pools__masters__count=1, pools__workers__count=2))
    host.find("pve", 9104).config["cores"] = "1"
    with pytest.raises(StalePlanError):
        plan.check(make_spec(pools__masters__count=1, pools__workers__count=2), observe(api, small))


def test_race_with_another_hand_is_seen_by_proxmox_digest(
    host: Proxmox, api: Api, small: ClusterSpec
) -> None:
    bring_up(api, small)
    machine = host.find("pve", 9104)
    machine.config["protection"] = "0"
    plan, _ = make_plan(api, small)
    machine.config["cores"] = "3"

    (error,) = Applier(api, small).apply(plan).errors

    assert type(error).__name__ == "ChangedError"
    assert machine.config["protection"] == "0"


def test_unchanged_machine_costs_one_call(
    host: Proxmox, api: Api, connect: Connect, reference: ClusterSpec
) -> None:
    bring_up(api, reference)
    one = make_spec(pools__masters__count=1, pools__workers__count=0)
    fresh, smaller = connect(host), connect(host)
    make_plan(fresh, reference)
    for vm in host.vms[5:]:
        vm.config["tags"] = "other"
    make_plan(smaller, one)
    assert fresh.calls - smaller.calls == 5


class Killed(BaseException):
    """The end of the process, as its threads see it."""


class Mortal(HTTPAdapter):
    """Dies at the n-th request of all, before or after it was sent, and stays dead."""

    def __init__(self, count: Iterator[int], last: int, *, after: bool) -> None:
        super().__init__()
        self._count, self._last, self._after = count, last, after

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        number = next(self._count)
        if number > self._last or (number == self._last and not self._after):
            raise Killed
        answer = super().send(request, *args, **options)
        if number == self._last:
            answer.close()
            raise Killed
        return answer


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call_and_run_again_ends_the_same(
    serve: Callable[[], Proxmox], connect: Connect, *, after: bool
) -> None:
    spec = make_spec(pools__masters__count=1, pools__workers__count=0)
    undisturbed = serve()
    api = connect(undisturbed)
    bring_up(api, spec)
    wanted, calls = everything(undisturbed), api.calls
    assert calls > 20

    for last in range(1, calls + 1):
        host, count = serve(), iter(range(1, 1000))
        mortal = connect(host, adapter=lambda _, c=count, n=last: Mortal(c, n, after=after))
        with suppress(Killed):
            bring_up(mortal, spec)
        assert bring_up(connect(host), spec).errors == [], last
        assert everything(host) == wanted, f"killed at call {last} of {calls}"


def test_killed_at_every_call_of_a_change_and_run_again_ends_the_same(
    serve: Callable[[], Proxmox], connect: Connect
) -> None:
    before = make_spec(pools__masters__count=0, pools__workers__count=2, tunnels=[])
    after = make_spec(
        pools__masters__count=0,
        pools__workers__count=2,
        pools__workers__without=[1],
        pools__workers__disk_gib=300,
        network__firewall__open_ports=[22, 443],
        tunnels=[],
    )

    def allowed(host: Proxmox) -> list[str]:
        return ["dp-worker-1"] if host.vm(9104) else []

    undisturbed = serve()
    bring_up(connect(undisturbed), before)
    api = connect(undisturbed)
    bring_up(api, after, allow_destroy=allowed(undisturbed))
    wanted = everything(undisturbed)
    assert [vm.name for vm in undisturbed.vms] == ["dp-worker-2"]

    for last in range(1, api.calls + 1):
        host, count = serve(), iter(range(1, 1000))
        bring_up(connect(host), before)
        mortal = connect(host, adapter=lambda _, c=count, n=last: Mortal(c, n, after=True))
        with suppress(Killed):
            bring_up(mortal, after, allow_destroy=allowed(host))
        assert bring_up(connect(host), after, allow_destroy=allowed(host)).errors == [], last
        assert everything(host) == wanted, f"killed at call {last} of {api.calls}"


@st.composite
def specs(draw: st.DrawFn) -> ClusterSpec:
    """Small clusters of any shape that the model allows."""
    memory = draw(st.integers(1, 64))
    return make_spec(
        cpu_type=draw(st.sampled_from(["host", "kvm64", "x86-64-v2-AES"])),
        network__nat=draw(st.booleans()),
        network__dns=draw(st.sampled_from([["1.1.1.1"], ["9.9.9.9", "1.1.1.1", "8.8.8.8"]])),
        network__firewall={
            "enabled": draw(st.booleans()),
            "open_ports": draw(st.lists(st.integers(1, 65535), max_size=3, unique=True)),
            "management": draw(st.sampled_from([[], ["198.51.100.0/24", "203.0.113.7/32"]])),
        },
        pools__masters__count=1,
        pools__workers__count=draw(st.integers(0, 2)),
        pools__workers__vcpu=draw(st.integers(1, 128)),
        pools__workers__memory_gib=memory,
        pools__workers__floor_gib=draw(st.none() | st.integers(1, memory)),
        pools__workers__disk_gib=draw(st.integers(3, 4000)),
        ssh__public_keys=draw(
            st.lists(
                st.from_regex(r"ssh-ed25519 [A-Za-z0-9+/]{20}( [ -~]{0,12}[!-~])?", fullmatch=True),
                min_size=1,
                max_size=3,
            )
        ),
    )


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(spec=specs(), other=specs())
def test_second_plan_is_empty_whatever_the_specification(
    serve: Callable[[], Proxmox], connect: Connect, spec: ClusterSpec, other: ClusterSpec
) -> None:
    host = serve()
    api = connect(host)
    for wanted in (spec, other):
        known = {vm.name for vm in host.vms}
        applied = bring_up(api, wanted, allow_destroy=sorted(known))
        assert applied.errors == []
        second, _ = make_plan(api, wanted)
        assert (second.steps, second.withheld) == ((), ())
