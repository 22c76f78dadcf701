"""What goes wrong with a Proxmox host, one by one: each ends in an error that names the remedy.

The table in docs/infra.md is held to this list.
"""

import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from fakepve.model import TaskError
from requests.adapters import HTTPAdapter

from dataplatform_tests.infra.proxmox.conftest import make_spec
from dataplatform_tests.infra.proxmox.fake import GIB, NODE, SECRET, TOKEN, V2, Proxmox
from infra.proxmox import preflight
from infra.proxmox.api import Api, Endpoint, Patience, Token
from infra.proxmox.apply import Applier, Event, Waiting
from infra.proxmox.errors import PreflightError, ProxmoxError
from infra.proxmox.observe import observe
from infra.proxmox.plan import Plan, make_plan
from infra.proxmox.reach import Unreached
from infra.spec.errors import SpecError
from infra.spec.model import ClusterSpec

Connect = Callable[..., Api]
DOCS: Final = Path(__file__).parents[3] / "docs" / "infra.md"
SMALL: Final = make_spec(pools__masters__count=1, pools__workers__count=1)
QEMU: Final = f"/nodes/{NODE}/qemu"
ONE: Final = f"{QEMU}/9101"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: as the docs' table has it.
        error: the type that it ends in.
        remedy: a part of what the message says to do.
        inflict: does it to the host.
        spec: what is asked for.
        built: whether the machines are there before.
    """

    name: str
    error: str
    remedy: str
    inflict: Callable[[Proxmox], Any]
    spec: ClusterSpec = SMALL
    built: bool = False


def answers(method: str, path: str, status: int, text: str) -> Callable[[Proxmox], None]:
    return lambda host: host.fail(method, path, status, text)


def in_task(kind: str, text: str) -> Callable[[Proxmox], None]:
    """Let a call answer 200 and its task fail."""

    def inflict(host: Proxmox) -> None:
        async def fails() -> None:
            # As Proxmox does: nothing is left of a machine whose creation failed.
            host.vms[:] = [vm for vm in host.vms if vm.lock != "create"]
            raise TaskError(text)

        host.instead[kind] = fails

    return inflict


def without(privilege: str) -> Callable[[Proxmox], None]:
    """Give the token all privileges but one."""

    def inflict(host: Proxmox) -> None:
        every = {one for held in preflight.PRIVILEGES.values() for one in held}
        host.grant(TOKEN, "/", *(every - {privilege}))

    return inflict


def sets(**attributes: Any) -> Callable[[Proxmox], None]:
    return lambda host: host.__dict__.update(attributes)


def storage(name: str, **keys: Any) -> Callable[[Proxmox], None]:
    return lambda host: host.storages[name].update(keys)


def grows_nothing(host: Proxmox) -> None:
    host.fail("PUT", f"{ONE}/resize", 200, '{"data": null}', html=True)


def hangs(host: Proxmox) -> None:
    host.time_scale = 1
    host.slow["qmcreate"] = 2


def bring_up(api: Api, spec: ClusterSpec) -> None:
    """Do what `dp infra apply` does."""
    plan, state = make_plan(api, spec)
    found = preflight.checks(spec, preflight.read_facts(api, spec, state), state)
    preflight.require([*found, preflight.foreign_addresses(api, spec, state)])
    errors = Applier(api, spec).apply(plan).errors
    if errors:
        raise errors[0]


FAULTS: Final = (
    # Login and privileges
    Fault("wrong token", "LoginError", "TOKEN_ID", lambda h: h.apitokens.update({TOKEN: "x"})),
    Fault("unknown token", "LoginError", "make a token", lambda h: h.apitokens.clear()),
    Fault("privilege missing: VM.Allocate", "PreflightError", "the-token", without("VM.Allocate")),
    Fault("privilege missing: SDN.Allocate", "PreflightError", "role", without("SDN.Allocate")),
    Fault("privilege missing: Sys.Modify", "PreflightError", "role", without("Sys.Modify")),
    Fault(
        "privilege taken away while applying",
        "PrivilegeError",
        "token's role",
        answers("POST", QEMU, 403, "Permission check failed (/vms/9101, VM.Allocate)"),
    ),
    # The way to the host
    Fault(
        "595: no route to the node",
        "UnreachableError",
        "pveproxy",
        lambda h: h.set_node_offline(NODE),
    ),
    Fault(
        "596: TLS broke", "UnreachableError", "pveproxy", answers("GET", QEMU, 596, "broken pipe")
    ),
    Fault("599: garbled", "UnreachableError", "overloaded", answers("GET", QEMU, 599, "too large")),
    Fault(
        "502 of a proxy", "UnreachableError", "pveproxy", answers("GET", QEMU, 502, "Bad Gateway")
    ),
    Fault(
        "503 while restarting", "UnreachableError", "pveproxy", answers("GET", QEMU, 503, "busy")
    ),
    Fault(
        "429 too many requests", "UnreachableError", "overloaded", answers("GET", QEMU, 429, "slow")
    ),
    Fault(
        "connections dropped",
        "UnreachableError",
        "host.address",
        lambda h: h.flaky_network(drop_rate=1, seed=1),
    ),
    Fault(
        "501: Proxmox too old for a call",
        "HostError",
        "8.4",
        answers("POST", "/cluster/sdn/zones", 501, "Method not implemented"),
    ),
    Fault(
        "wrong node name",
        "NotFoundError",
        "`hostname` on the host",
        lambda _: None,
        spec=SMALL.model_copy(update={"host": SMALL.host.model_copy(update={"node": "other"})}),
    ),
    # Locks, quorum, other hands
    Fault(
        "storage lock time-out that stays",
        "TaskBusyError",
        "run again",
        in_task("qmcreate", "cfs-lock 'storage-local-lvm' error: got lock timeout"),
    ),
    Fault(
        "configuration lock time-out that stays",
        "LockTimeoutError",
        "running tasks",
        answers("POST", f"{ONE}/status/start", 500, "can't lock file '/x.conf' - got timeout"),
    ),
    Fault(
        "machine locked by a backup",
        "LockedError",
        "let the backup end",
        answers("PUT", f"{ONE}/resize", 500, "VM is locked (backup)"),
    ),
    Fault("no quorum", "QuorumError", "pvecm expected 1", lambda h: h.lose_quorum()),
    Fault(
        "configuration changed meanwhile",
        "ChangedError",
        "dp infra plan",
        lambda h: (
            h.find(NODE, 9101).config.update(protection="0"),
            h.fail("POST", f"{ONE}/config", 500, "checksum missmatch (file change by other user?)"),
        ),
        built=True,
    ),
    Fault(
        "VMID taken by someone else",
        "ForeignMachineError",
        "first_vmid",
        lambda h: h.add_vm(9101, "theirs", node=NODE),
    ),
    Fault(
        "machine in creation by someone",
        "ForeignMachineError",
        "wait for the task",
        lambda h: h.add_vm(9101, "", node=NODE, lock="create"),
    ),
    Fault(
        "VMID taken between plan and apply",
        "AlreadyError",
        "dp infra plan",
        answers(
            "POST", QEMU, 500, "unable to create VM 9101 - VM 9101 already exists on node 'pve'"
        ),
    ),
    Fault(
        "someone's SDN changes wait",
        "ForeignChangesError",
        "Datacenter → SDN",
        lambda h: h.sdn["zones"].update(x={"zone": "x", "type": "vlan", "state": "new"}),
    ),
    Fault(
        "bridge in another zone",
        "ForeignChangesError",
        "network.bridge",
        lambda h: h.sdn["vnets"].update(dpnet={"vnet": "dpnet", "zone": "theirs"}),
    ),
    Fault(
        "zone of another type",
        "ForeignChangesError",
        "network.zone",
        lambda h: h.sdn["zones"].update(dpzone={"zone": "dpzone", "type": "vxlan"}),
    ),
    # Tasks that fail after HTTP 200
    Fault(
        "download: checksum differs",
        "ChecksumError",
        "image.checksum",
        in_task("download", "checksum mismatch: got 'abc' != expect 'a73'"),
    ),
    Fault(
        "download: 404",
        "DownloadError",
        "image.url",
        in_task("download", "download failed: 404 Not Found"),
    ),
    Fault(
        "download: name not resolved",
        "DownloadError",
        "DNS",
        in_task("download", "wget: unable to resolve host address 'cloud.debian.org'"),
    ),
    Fault(
        "image gone before the import",
        "NotFoundError",
        "fetched anew",
        in_task("qmcreate", "unable to create VM 9101 - volume local:import/x does not exist"),
    ),
    Fault(
        "import: pool full",
        "NoSpaceError",
        "pvesm status",
        in_task("qmcreate", "lvcreate error: Insufficient free space: 1 extents needed"),
    ),
    Fault(
        "import: pool's metadata full",
        "NoSpaceError",
        "pool",
        in_task("qmcreate", "Thin pool pve/data metadata is full, no space left"),
    ),
    Fault(
        "resize: shrinking",
        "ShrinkError",
        "disk_gib",
        in_task("resize", "shrinking disks is not supported"),
    ),
    Fault(
        "resize: ends well but the disk has not grown",
        "HostError",
        "run again",
        grows_nothing,
    ),
    Fault(
        "start: no bridge",
        "StartError",
        "dp infra apply",
        in_task("qmstart", "bridge 'dpnet' does not exist"),
    ),
    Fault(
        "start: no virtualisation",
        "StartError",
        "firmware",
        in_task("qmstart", "KVM virtualisation configured, but not available."),
    ),
    Fault(
        "start: out of memory",
        "StartError",
        "fits-128",
        in_task("qmstart", "start failed: cannot set up guest memory: Cannot allocate memory"),
    ),
    Fault(
        "start: QEMU exits",
        "StartError",
        "cpu_type",
        in_task("qmstart", "start failed: QEMU exited with code 1"),
    ),
    Fault(
        "task stopped by hand",
        "HostError",
        "run again",
        in_task("qmcreate", "received interrupt"),
    ),
    Fault(
        "task never ends",
        "TaskTimeoutError",
        "watch it",
        hangs,
    ),
    # Answers that are none
    Fault(
        "a page in place of an answer",
        "UnreadableAnswerError",
        "pveproxy",
        lambda h: h.fail("GET", QEMU, 200, "<html>login</html>", html=True),
    ),
    Fault(
        "an error page of a proxy",
        "UnreachableError",
        "pveproxy",
        lambda h: h.fail("GET", QEMU, 504, "<html>timeout</html>", html=True),
    ),
    Fault(
        "a parameter that the host refuses",
        "InvalidRequestError",
        "specification",
        lambda h: h.fail("POST", QEMU, error="parameter_verification_failed"),
    ),
    # Preflight
    Fault("host too small", "PreflightError", "--profile fits-128", sets(memory=16 * GIB)),
    Fault(
        "promised memory above the overcommit",
        "PreflightError",
        "overcommit.memory",
        sets(memory=28 * GIB),
        spec=make_spec(
            pools__masters__count=1, pools__workers__count=1, pools__workers__floor_gib=8
        ),
    ),
    Fault("too few threads", "PreflightError", "at most 4 vCPU", sets(threads=4)),
    Fault(
        "storage too small",
        "PreflightError",
        "never shrink",
        storage("local-lvm", total=200 * GIB),
    ),
    Fault(
        "pool's metadata nearly full",
        "PreflightError",
        "poolmetadatasize",
        lambda h: h.thin_pool.update(metadata_used=8 * GIB),
    ),
    Fault("CPU below x86-64-v2", "PreflightError", "sse4_2", sets(flags="fpu cx16 lahf_lm")),
    Fault(
        "CPU type below x86-64-v2",
        "PreflightError",
        "cpu_type: host",
        lambda _: None,
        spec=make_spec(cpu_type="kvm64", pools__workers__count=0),
    ),
    Fault(
        "CPU type that Proxmox does not know",
        "PreflightError",
        "x86-64-v2-AES",
        lambda _: None,
        spec=make_spec(cpu_type="Cascade", pools__workers__count=0),
    ),
    Fault("Proxmox too old", "PreflightError", "8.4 or later", sets(version="7.4-3")),
    Fault(
        "storage takes no images to import",
        "PreflightError",
        "pvesm set local --content",
        storage("local", content="iso"),
    ),
    Fault(
        "storage absent",
        "PreflightError",
        "pvesm status",
        lambda h: h.storages.pop("local-lvm"),
    ),
    Fault(
        "network used by another bridge",
        "PreflightError",
        "network.cidr",
        lambda h: h.interfaces.append({"iface": "vmbr7", "type": "bridge", "cidr": "10.10.0.9/16"}),
    ),
    Fault(
        "bridge's name taken",
        "PreflightError",
        "network.bridge",
        lambda h: h.interfaces.append({"iface": "dpnet", "type": "bridge"}),
    ),
    Fault(
        "address used by another machine",
        "PreflightError",
        "first_ip",
        lambda h: h.add_vm(
            100, "theirs", node=NODE, config={"ipconfig0": "ip=10.10.0.101/24,gw=10.10.0.1"}
        ),
    ),
    Fault(
        "firewall would shut out SSH",
        "PreflightError",
        "open_ports",
        lambda _: None,
        spec=make_spec(network__firewall__open_ports=[443], pools__workers__count=0),
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_ends_in_an_error_that_names_the_remedy(
    host: Proxmox, connect: Connect, fault: Fault
) -> None:
    if fault.built:
        bring_up(connect(host), fault.spec)
    fault.inflict(host)
    patience = Patience(timeout=10, attempts=3, first_wait=0, longest_wait=0, poll=0, task=0.2)

    with pytest.raises(ProxmoxError) as caught:
        bring_up(connect(host, patience=patience), fault.spec)

    assert type(caught.value).__name__ == fault.error, caught.value
    said = str(caught.value)
    assert fault.remedy in said.partition("Remedy: ")[2], said
    assert SECRET not in said


def test_docs_list_every_fault_with_its_error() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert rows == [(fault.name, fault.error) for fault in FAULTS] + [
        (name, error) for name, error in BESIDE.items()
    ]
    assert len(FAULTS) >= 40


BESIDE: Final = {
    "host not there": "UnreachableError",
    "host silent": "UnreachableError",
    "certificate not trusted": "CertificateError",
    "certificate of another host": "CertificateError",
    "plan of an older state": "StalePlanError",
    "plan file unreadable": "StalePlanError",
    "machine's SSH never answers": "UnreachableMachineError",
}
"""Tested below, each by a test of its own."""


def test_host_not_there(connect: Connect, host: Proxmox) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = Endpoint("127.0.0.1", free.getsockname()[1])
        with pytest.raises(ProxmoxError, match=r"no connection to 127\.0\.0\.1.*reaching-the-api"):
            connect(host, endpoint=endpoint).get("version")


def test_host_silent(connect: Connect, host: Proxmox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("127.0.0.1", silent.getsockname()[1])
        patience = Patience(timeout=0.2, attempts=2, first_wait=0, longest_wait=0)
        with pytest.raises(ProxmoxError, match=r"did not answer within.*Remedy"):
            connect(host, endpoint=endpoint, patience=patience).get("version")


def test_certificate_not_trusted(connect: Connect, host: Proxmox) -> None:
    with pytest.raises(ProxmoxError, match=r"no known authority.*host\.fingerprint") as caught:
        connect(host, endpoint=Endpoint("127.0.0.1", host.port)).get("version")
    assert type(caught.value).__name__ == "CertificateError"


def test_authority_that_is_no_file_is_named(
    connect: Connect, host: Proxmox, tmp_path: Path
) -> None:
    endpoint = Endpoint("127.0.0.1", host.port, authority=str(tmp_path / "none.pem"))
    with pytest.raises(ProxmoxError, match=r"none\.pem, which is no file.*PEM"):
        connect(host, endpoint=endpoint).get("version")


def fingerprint_of(host: Proxmox, authority: str) -> str:
    import hashlib
    import ssl

    pem = Path(authority).read_text()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[n : n + 2] for n in range(0, 64, 2))


def test_certificate_is_known_by_its_fingerprint_and_by_no_other(
    connect: Connect, host: Proxmox, certificate: tuple[str, str]
) -> None:
    right = fingerprint_of(host, certificate[0])
    known = Endpoint("127.0.0.1", host.port, fingerprint=right)
    assert connect(host, endpoint=known).get("version")["version"] == host.version

    wrong = Endpoint("127.0.0.1", host.port, fingerprint="AB:" * 31 + "CD")
    requests_before = len(host.requests)
    with pytest.raises(ProxmoxError, match=r"another fingerprint.*pvenode cert info") as caught:
        connect(host, endpoint=wrong).get("version")
    assert type(caught.value).__name__ == "CertificateError"
    assert len(host.requests) == requests_before


def test_plan_file_unreadable(tmp_path: Path) -> None:
    for content in ("{", '{"version": 9}', ""):
        (tmp_path / "plan.json").write_text(content)
        with pytest.raises(ProxmoxError, match=r"is no plan.*dp infra plan --out"):
            Plan.read(tmp_path / "plan.json")
    with pytest.raises(ProxmoxError, match="can't be read"):
        Plan.read(tmp_path / "none.json")


def test_machines_ssh_never_answers(host: Proxmox, connect: Connect) -> None:
    api = connect(host)
    plan, _ = make_plan(api, SMALL)
    asked = []

    def reach(machine: Any) -> Unreached:
        asked.append(machine.name)
        return Unreached("Connection timed out")

    waiting = Waiting(deadline=0.05, pause=0.01)
    applied = Applier(api, SMALL, reach=reach, waiting=waiting).apply(plan)

    assert "its SSH is not reached: Connection timed out" in str(applied.errors[0])
    assert "console" in str(applied.errors[0])
    assert len(asked) > 1


# What passes by itself is waited for


@pytest.mark.parametrize("status", [500, 503, 595, 596, 599])
def test_trouble_that_passes_is_waited_for(host: Proxmox, connect: Connect, status: int) -> None:
    text = "can't lock file '/var/lock/x' - got timeout" if status == 500 else "busy"
    for method, path in (("GET", QEMU), ("POST", QEMU), ("PUT", f"{ONE}/resize")):
        host.fail(method, path, status, text, times=2)
    bring_up(connect(host), SMALL)
    assert make_plan(connect(host), SMALL)[0].empty


def test_task_that_ended_on_a_lock_is_started_anew(host: Proxmox, connect: Connect) -> None:
    left = [1, 2]

    async def busy() -> None:
        left.pop()
        if not left:
            del host.instead["resize"]
        raise TaskError("can't lock file '/var/lock/pve-manager/x' - got timeout")

    host.instead["resize"] = busy
    bring_up(connect(host), SMALL)
    assert make_plan(connect(host), SMALL)[0].empty


class Losing(HTTPAdapter):
    """Sends a request of a kind, and loses the first answers."""

    def __init__(self, method: str, ending: str, times: int) -> None:
        super().__init__()
        self._method, self._ending, self._left = method, ending, times

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        answer = super().send(request, *args, **options)
        path = str(request.url).partition("?")[0]
        if self._left and request.method == self._method and path.endswith(self._ending):
            self._left -= 1
            answer.close()
            raise requests.ConnectionError("connection reset by peer")
        return answer


@pytest.mark.parametrize(
    ("method", "ending", "kind"),
    [
        ("POST", "/qemu", "qmcreate"),
        ("POST", "/status/start", "qmstart"),
        ("POST", "/zones", ""),
        ("POST", "/vnets", ""),
        ("POST", "/subnets", ""),
    ],
)
def test_lost_answer_does_nothing_twice(
    host: Proxmox, connect: Connect, method: str, ending: str, kind: str
) -> None:
    spec = make_spec(pools__masters__count=1, pools__workers__count=0)
    losing = Losing(method, ending, 1)
    api = connect(host, adapter=lambda _: losing)
    bring_up(api, spec)
    assert make_plan(connect(host), spec)[0].empty
    ended_well = [t for t in host.tasklog if t["type"] == kind and t["exitstatus"] == "OK"]
    assert len(ended_well) == (1 if kind else 0)


def test_lost_answer_of_an_update_is_no_change_by_someone_else(
    host: Proxmox, connect: Connect
) -> None:
    bring_up(connect(host), SMALL)
    host.find(NODE, 9101).config["protection"] = "0"
    losing = Losing("POST", "/config", 1)
    bring_up(connect(host, adapter=lambda _: losing), SMALL)
    assert host.find(NODE, 9101).config["protection"] in (1, "1")


def test_interrupted_apply_returns_at_once_and_the_next_one_goes_on(
    host: Proxmox, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.time_scale, host.slow["qmcreate"] = 0.01, 100
    api, seen = connect(host), []

    def interrupted(event: Event) -> None:
        seen.append(event)
        if event.operation == "create":
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Applier(api, SMALL, interrupted).apply(make_plan(api, SMALL)[0], workers=1)
    assert time.monotonic() - started < 5
    assert host.vms == []
    host.time_scale = 0
    bring_up(connect(host), SMALL)


def test_lost_answer_of_a_task_that_still_runs_is_awaited_not_repeated(
    host: Proxmox, connect: Connect
) -> None:
    spec = make_spec(pools__masters__count=1, pools__workers__count=0)
    host.time_scale = 0.001
    host.slow["qmcreate"] = 300
    losing = Losing("POST", "/qemu", 1)
    api = connect(host, adapter=lambda _: losing)
    plan, _ = make_plan(api, spec)
    assert Applier(api, spec).apply(plan).errors == []
    creates = [r for r in host.requests if r[0] == "POST" and r[1].endswith("/qemu")]
    assert len(creates) == 1


def test_task_with_warnings_is_done_and_tells_them(host: Proxmox, connect: Connect) -> None:
    host.warns["resize"] = "WARN: Sum of all thin volume sizes exceeds the pool"
    api = connect(host)
    plan, _ = make_plan(api, SMALL)
    applied = Applier(api, SMALL).apply(plan)
    assert applied.errors == []
    assert "dp-master-1: WARN: Sum of all thin volume sizes exceeds the pool" in applied.warnings


def test_failed_task_tells_the_end_of_its_log(host: Proxmox, connect: Connect) -> None:
    in_task("qmcreate", "lvcreate failed: no space left on device")(host)
    api = connect(host)
    (error,) = Applier(api, SMALL).apply(make_plan(api, SMALL)[0]).errors[:1]
    assert "TASK ERROR: lvcreate failed" in str(error)


def test_after_a_failure_nothing_new_is_begun(host: Proxmox, connect: Connect) -> None:
    host.fail("POST", QEMU, 500, "No space left on device")
    api = connect(host)
    applied = Applier(api, make_spec()).apply(make_plan(api, make_spec())[0])
    creates = [r for r in host.requests if r[0] == "POST" and r[1].endswith("/qemu")]
    assert len(creates) <= 4
    assert not host.firewall_config("cluster")["options"].get("enable")
    assert {step.operation for step in applied.left} == {"create", "grow", "start", "firewall"}


def test_token_of_no_form_is_refused_without_being_told() -> None:
    with pytest.raises(ProxmoxError, match="USER@REALM!NAME") as caught:
        Token("root@pam", "hidden-secret")
    assert "hidden-secret" not in str(caught.value) + repr(Token(TOKEN, "hidden-secret"))


def test_preflight_only_warns_of_what_can_be_lived_with(host: Proxmox, connect: Connect) -> None:
    host.clock_skew = 300
    host.flags = V2
    api = connect(host)
    state = observe(api, SMALL)
    found = preflight.checks(SMALL, preflight.read_facts(api, SMALL, state), state)
    preflight.require(found)
    warned = {check.name: check.remedy for check in found if check.verdict == "warning"}
    assert set(warned) == {"clock", "firewall"} - (
        {"firewall"} if SMALL.host.api_address else set()
    )
    assert "chrony" in warned["clock"]


def test_refusals_are_told_all_at_once(host: Proxmox, connect: Connect) -> None:
    host.memory, host.threads = 16 * GIB, 4
    with pytest.raises(PreflightError) as caught:
        bring_up(connect(host), SMALL)
    assert "memory: needs" in str(caught.value)
    assert "vCPU: needs" in str(caught.value)


def test_machine_that_may_not_be_removed_yet_still_counts(host: Proxmox, connect: Connect) -> None:
    bring_up(connect(host), make_spec(pools__masters__count=1, pools__workers__count=2))
    host.memory = 40 * GIB  # 8 for the host, 8 and 16 asked for, 16 still there
    with pytest.raises(PreflightError, match="memory: needs 24 GiB, has 16 GiB"):
        bring_up(connect(host), SMALL)


def test_unreadable_key_file_stops_before_the_host_is_asked(
    host: Proxmox, connect: Connect, tmp_path: Path
) -> None:
    spec = make_spec(ssh__public_keys=[], ssh__public_key_files=[str(tmp_path / "none.pub")])
    with pytest.raises(SpecError, match="ssh-keygen"):
        bring_up(connect(host), spec)
    assert host.vms == []
