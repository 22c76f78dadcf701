"""From what is there to what is asked for: the plan, and the file that holds it."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.proxmox.api import Api
from infra.proxmox.desired import (
    configuration,
    image_tag,
    image_volume,
    is_image_tag,
    spec_digest,
)
from infra.proxmox.errors import ForeignMachineError, NotAllowedError, StalePlanError
from infra.proxmox.network import firewall_steps, network_steps
from infra.proxmox.normalise import DISK, NETWORK_CARD, OWNED, canonical, parse_properties
from infra.proxmox.observe import Observed, State, observe
from infra.proxmox.steps import Call, Change, Operation, Step
from infra.spec.model import ClusterSpec, Machine

_GIB: Final = 1 << 30
_AT_ONCE: Final = frozenset({"name", "tags", "onboot", "protection", "agent"})
"""Keys that a running machine takes at once; others wait for its next start."""
_VERSION: Final = 1


class Withheld(BaseModel):
    """Something that would destroy, and was not allowed.

    Attributes:
        name: of the machine.
        reason: why it would be destroyed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    reason: str


class Plan(BaseModel):
    """What is to be done.

    Attributes:
        version: of this form.
        cluster: name of the cluster.
        spec_digest: of the specification that it was made from.
        state_digest: of the host's state that it was made from.
        unchanged: names of machines that stay as they are.
        steps: what is to be done, in order.
        withheld: what is not done until it is named.
        waiting: machine to the keys that wait for its next start.
        notes: what else is worth knowing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int = _VERSION
    cluster: str
    spec_digest: str
    state_digest: str
    unchanged: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    waiting: dict[str, tuple[str, ...]] = {}
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is to be done and nothing is withheld."""
        return not (self.steps or self.withheld)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one that was written.

        Raises:
            StalePlanError: it can't be read, or is of another version.
        """
        again = "make it anew by `dp infra plan --out FILE`"
        try:
            plan = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StalePlanError(str(path), f"can't be read ({error.strerror})", again) from error
        except ValidationError as error:
            raise StalePlanError(str(path), "is no plan of this version", again) from error
        if plan.version != _VERSION:
            raise StalePlanError(str(path), f"is of version {plan.version}", again)
        return plan

    def check(self, spec: ClusterSpec, state: State) -> None:
        """Make sure that it still is what its maker looked at.

        Raises:
            StalePlanError: specification or host changed since.
        """
        again = "look at `dp infra plan` again and apply that"
        if self.spec_digest != spec_digest(spec):
            raise StalePlanError("plan", "the specification changed since it was made", again)
        if self.state_digest != state.digest():
            raise StalePlanError("plan", "the host changed since it was made", again)


class _Draft:
    """A plan in the making."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.withheld: list[Withheld] = []
        self.unchanged: list[str] = []
        self.waiting: dict[str, tuple[str, ...]] = {}
        self.notes: list[str] = []


def make_plan(
    api: Api,
    spec: ClusterSpec,
    *,
    allow_destroy: Collection[str] = (),
    restart: Collection[str] = (),
) -> tuple[Plan, State]:
    """Compare the host with the specification.

    Args:
        api: of the host.
        spec: what is asked for.
        allow_destroy: machines that may be removed or rebuilt.
        restart: machines that may be restarted, so that what waits takes effect.

    Returns:
        The plan, and the state that it was made from.

    Raises:
        ProxmoxError: the host can't be read, or a machine of someone else is in the way.
    """
    state = observe(api, spec)
    return plan_from(spec, state, digest_of(api, spec), allow_destroy, restart), state


def digest_of(api: Api, spec: ClusterSpec) -> Callable[[int], str]:
    """Return what asks for the digest of a stored configuration, by which Proxmox sees a race."""
    path = f"nodes/{spec.host.node}/qemu"
    return lambda vmid: str(api.get(f"{path}/{vmid}/config", current=1)["digest"])


def plan_from(
    spec: ClusterSpec,
    state: State,
    digest: Callable[[int], str],
    allow_destroy: Collection[str] = (),
    restart: Collection[str] = (),
) -> Plan:
    """Return the plan for a state that was read; see `make_plan`."""
    draft, wanted = _Draft(), {machine.vmid: machine for machine in spec.machines()}
    known = {*(m.name for m in wanted.values()), *(o.name for o in state.machines.values())}
    if unknown := {*allow_destroy, *restart} - known:
        cause = f"{', '.join(sorted(unknown))} is no machine of {spec.name}"
        raise NotAllowedError("plan", cause, "name machines as `dp infra status` lists them")
    draft.steps += network_steps(spec, state.network)
    image_at = len(draft.steps)
    _plan_surplus(draft, spec, state, wanted, allow_destroy)
    for machine in wanted.values():
        _check_place(spec, state, machine)
        _plan_machine(draft, spec, state, machine, digest, allow_destroy, restart)
    creates = any(step.operation == "create" for step in draft.steps)
    if creates and not state.image:
        draft.steps.insert(image_at, _image_step(spec))
    draft.steps += firewall_steps(spec, state.network)
    return _finished(draft, spec, state)


def _finished(draft: _Draft, spec: ClusterSpec, state: State) -> Plan:
    return Plan(
        cluster=spec.name,
        spec_digest=spec_digest(spec),
        state_digest=state.digest(),
        unchanged=tuple(draft.unchanged),
        steps=tuple(draft.steps),
        withheld=tuple(draft.withheld),
        waiting=draft.waiting,
        notes=tuple(draft.notes),
    )


def _image_step(spec: ClusterSpec) -> Step:
    image = spec.image
    call = Call(
        method="POST",
        path=f"nodes/{spec.host.node}/storage/{spec.storage.images}/download-url",
        parameters={
            "content": "import",
            "filename": image.file_name,
            "url": image.url,
            "checksum": image.checksum,
            "checksum-algorithm": image.checksum_algorithm,
        },
        task="download",
        of=image.file_name,
    )
    changes = (
        Change(key="from", after=image.url),
        Change(key=image.checksum_algorithm, after=f"{image.checksum[:16]}…"),
    )
    return Step(
        operation="image", target=f"image {image_volume(spec)}", changes=changes, calls=(call,)
    )


def _check_place(spec: ClusterSpec, state: State, machine: Machine) -> None:
    """Refuse a number that someone else's machine has."""
    guest = state.guests.get(machine.vmid)
    if guest is None:
        return
    if guest.lock == "create" and not guest.tags:
        raise ForeignMachineError(
            f"VMID {machine.vmid}",
            f"a machine is being created there, and nothing says that it will be {machine.name}",
            "wait for the task and run again; if none runs, the host stopped in the middle of it:"
            f" `qm unlock {machine.vmid} && qm destroy {machine.vmid}` on the host",
        )
    raise ForeignMachineError(
        f"VMID {machine.vmid}",
        f"{guest.name or 'a machine'} ({guest.kind} on {guest.node}) has it and is not tagged {spec.name}",
        f"set pools.{machine.pool}.first_vmid to a free range; machines of others are never touched",
    )


def _plan_surplus(
    draft: _Draft,
    spec: ClusterSpec,
    state: State,
    wanted: Mapping[int, Machine],
    allowed: Collection[str],
) -> None:
    """Plan the removal of machines that are ours but no longer asked for."""
    for vmid, machine in state.machines.items():
        if vmid in wanted:
            continue
        if machine.name in allowed:
            draft.steps.append(destroy_step(spec, machine, "not in the specification"))
        else:
            reason = "it is no longer in the specification"
            draft.withheld.append(Withheld(name=machine.name, reason=reason))


def _plan_machine(
    draft: _Draft,
    spec: ClusterSpec,
    state: State,
    machine: Machine,
    digest: Callable[[int], str],
    allowed: Collection[str],
    restart: Collection[str],
) -> None:
    """Plan one machine: made, rebuilt, changed, or left as it is."""
    present = state.machines.get(machine.vmid)
    if present is None:
        draft.steps += _new(spec, machine)
        return
    reason, other_image = _rebuild_reason(spec, machine, present), _other_image(spec, present)
    if (reason or other_image) and machine.name in allowed:
        draft.steps += [destroy_step(spec, present, reason or other_image), *_new(spec, machine)]
        return
    if reason:
        draft.withheld.append(Withheld(name=present.name, reason=reason))
    if other_image:
        draft.notes.append(
            f"{present.name}: {other_image}; --allow-destroy {present.name} rebuilds it"
        )
    steps = [*_changed(spec, machine, present, digest, withheld=bool(reason))]
    waiting = _will_wait(present, steps)
    if waiting and machine.name in restart:
        steps.append(_power_step(spec, machine, "restart", "reboot", "qmreboot"))
    elif waiting:
        draft.waiting[machine.name] = waiting
    draft.steps += steps
    if not steps and not reason:
        draft.unchanged.append(machine.name)


def _rebuild_reason(spec: ClusterSpec, machine: Machine, present: Observed) -> str:
    """Return why a machine can't become what is asked for; empty: it can."""
    if present.template:
        return "it was made a template"
    if present.disk is None:
        return "it has no disk"
    if present.disk > machine.disk_gib * _GIB:
        return f"its disk would shrink from {gib_text(present.disk)} to {machine.disk_gib} GiB"
    storage = present.config[DISK].partition(" ")[0]
    if storage != spec.storage.disks:
        return f"its disk would move from {storage} to {spec.storage.disks}"
    return ""


def _other_image(spec: ClusterSpec, present: Observed) -> str:
    """Return what to say of a machine that was made from another image; empty: it was not."""
    made_from = next(filter(is_image_tag, present.tags), None)
    return "" if made_from in (None, image_tag(spec)) else f"it was made from {made_from}"


def _new(spec: ClusterSpec, machine: Machine) -> Iterator[Step]:
    node, vmid = spec.host.node, str(machine.vmid)
    parameters = {"vmid": vmid, **configuration(spec, machine)}
    create = Call(
        method="POST", path=f"nodes/{node}/qemu", parameters=parameters, task="qmcreate", of=vmid
    )
    floor = f", floor {machine.floor_mib // 1024} GiB" if machine.floor_mib else ""
    summary = (
        f"{machine.ip}  {machine.vcpu} vCPU  {machine.memory_mib // 1024} GiB{floor}"
        f"  {machine.disk_gib} GiB disk"
    )
    yield _machine_step("create", machine, create, summary=summary)
    yield _grow_step(spec, machine, None)
    yield _power_step(spec, machine, "start", "start", "qmstart")


def _machine_step(
    operation: Operation,
    machine: Machine,
    call: Call,
    changes: Iterable[Change] = (),
    summary: str = "",
) -> Step:
    return Step(
        operation=operation,
        target=machine.name,
        summary=summary,
        changes=tuple(changes),
        calls=(call,),
        vmid=machine.vmid,
    )


def _power_step(
    spec: ClusterSpec, machine: Machine, operation: Operation, action: str, task: str
) -> Step:
    path = f"nodes/{spec.host.node}/qemu/{machine.vmid}/status/{action}"
    call = Call(method="POST", path=path, task=task, of=str(machine.vmid))
    after = "running" if operation == "start" else "restarted"
    return _machine_step(operation, machine, call, (Change(key="power", after=after),))


def _grow_step(spec: ClusterSpec, machine: Machine, before: int | None) -> Step:
    call = Call(
        method="PUT",
        path=f"nodes/{spec.host.node}/qemu/{machine.vmid}/resize",
        parameters={"disk": DISK, "size": f"{machine.disk_gib}G"},
        task="resize",
        of=str(machine.vmid),
    )
    was = "" if before is None else gib_text(before)
    change = Change(key="disk", before=was, after=f"{machine.disk_gib} GiB")
    return _machine_step("grow", machine, call, (change,))


def _changed(
    spec: ClusterSpec,
    machine: Machine,
    present: Observed,
    digest: Callable[[int], str],
    *,
    withheld: bool,
) -> Iterator[Step]:
    """Yield what a machine that is there needs."""
    parameters = _for_present(configuration(spec, machine), present)
    wanted = canonical(parameters)
    keys = [key for key in OWNED if wanted[key] != present.config[key]]
    if withheld:
        keys = [key for key in keys if key != DISK]
    if keys:
        yield _update_step(spec, machine, present, digest, {key: parameters[key] for key in keys})
    if not withheld and present.disk is not None and present.disk < machine.disk_gib * _GIB:
        yield _grow_step(spec, machine, present.disk)
    if not present.running and not present.template:
        yield _power_step(spec, machine, "start", "start", "qmstart")


def _for_present(parameters: dict[str, str], present: Observed) -> dict[str, str]:
    """Return parameters that keep what a machine has of its own: volumes, MAC, image, other tags."""
    kept = {tag for tag in present.tags if not is_image_tag(tag)}
    made_from = {tag for tag in present.tags if is_image_tag(tag)}
    ours = {tag for tag in parameters["tags"].split(";") if not is_image_tag(tag)}
    volume = present.raw.get(DISK, "").partition(",")[0]
    options = parameters[DISK].split(",")[2:]
    result = parameters | {
        "tags": ";".join(sorted(ours | kept | made_from)),
        DISK: ",".join([volume, *options]),
    }
    card = parse_properties(present.raw.get(NETWORK_CARD, ""), "model")
    if mac := card.get("virtio"):
        result[NETWORK_CARD] = parameters[NETWORK_CARD].replace("virtio", f"virtio={mac}", 1)
    return result


def _update_step(
    spec: ClusterSpec,
    machine: Machine,
    present: Observed,
    digest: Callable[[int], str],
    parameters: dict[str, str],
) -> Step:
    wanted = canonical(parameters)
    changes = (
        Change(
            key=key,
            before=shown(key, present.config[key]),
            after=shown(key, wanted[key]),
            later=present.running and key not in _AT_ONCE,
        )
        for key in parameters
    )
    stored = present.raw.get("digest") or digest(machine.vmid)
    call = Call(
        method="POST",
        path=f"nodes/{spec.host.node}/qemu/{machine.vmid}/config",
        parameters={**parameters, "digest": stored},
        task="qmconfig",
        of=str(machine.vmid),
    )
    return _machine_step("update", machine, call, changes)


def _will_wait(present: Observed, steps: Iterable[Step]) -> tuple[str, ...]:
    """Return the keys that will wait for the machine's next start."""
    if not present.running:
        return ()
    later = (change.key for step in steps for change in step.changes if change.later)
    return tuple(dict.fromkeys((*present.waiting, *later)))


def destroy_step(spec: ClusterSpec, machine: Observed, reason: str) -> Step:
    """Return the removal of a machine, with all of its disks."""
    of = str(machine.vmid)
    path = f"nodes/{spec.host.node}/qemu/{of}"
    calls = [
        Call(
            method="POST",
            path=f"{path}/config",
            parameters={"protection": "0"},
            task="qmconfig",
            of=of,
        ),
        Call(
            method="DELETE",
            path=path,
            parameters={"purge": "1", "destroy-unreferenced-disks": "1"},
            task="qmdestroy",
            of=of,
        ),
    ]
    if machine.running:
        stop = Call(method="POST", path=f"{path}/status/stop", task="qmstop", of=of)
        calls.insert(0, stop)
    disk = "" if machine.disk is None else gib_text(machine.disk)
    return Step(
        operation="destroy",
        target=machine.name,
        summary=reason,
        changes=(Change(key="disk", before=disk),),
        calls=tuple(calls),
        vmid=machine.vmid,
    )


def gib_text(size: int) -> str:
    """Return bytes in GiB, without a fraction where there is none."""
    return f"{size / _GIB:g} GiB"


def shown(key: str, value: str) -> str:
    """Return a canonical value as people read it."""
    if key == "memory":
        return f"{int(value) / 1024:g} GiB"
    if key == "balloon":
        return f"{int(value) / 1024:g} GiB" if value not in ("", "0") else "none"
    if key == "sshkeys":
        names = [line.split(" ", 2)[-1] for line in value.splitlines()]
        return ", ".join(names)
    return value or "–"


def canonical_json(plan: Plan) -> str:
    """Return a plan as JSON with sorted keys, to compare and to print."""
    return json.dumps(plan.model_dump(mode="json"), indent=2, sort_keys=True)
