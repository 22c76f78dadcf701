"""Plans and preflights as they are printed."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infra.proxmox.plan import Plan
from infra.proxmox.preflight import Check
from infra.proxmox.steps import Change, Step
from infra.spec.model import ClusterSpec, Machine

_SIGNS: Final = {"add": ("+", "green"), "change": ("~", "yellow"), "destroy": ("-", "red")}
_REBUILD: Final = ("-/+", "red")
_WITHHELD: Final = ("!", "magenta")
_VERDICTS: Final = {"ok": "green", "warning": "yellow", "refused": "bold red"}


def plan_view(plan: Plan, spec: ClusterSpec) -> RenderableType:
    """Return a plan as it is printed."""
    parts: list[RenderableType] = [_heading(plan, spec), Text()]
    body = [*_parts(plan, spec), *_withheld(plan)]
    if body:
        table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for sign, style, line in body:
            table.add_row(Text(sign, style), line)
        parts += [table, Text()]
    parts += [_totals(plan), *_remarks(plan)]
    return Group(*parts)


def _heading(plan: Plan, spec: ClusterSpec) -> Text:
    where = f" on {spec.host.node} ({spec.host.address})"
    return Text.assemble((plan.cluster, "bold"), where)


def _parts(plan: Plan, spec: ClusterSpec) -> Iterator[tuple[str, str, Text]]:
    machines = {machine.name: machine for machine in spec.machines()}
    widths = _widths(machines.values())
    for target, group in groupby(plan.steps, key=lambda step: step.target):
        steps = list(group)
        sign, style = _sign(steps)
        yield sign, style, _title(target, steps, machines.get(target), widths)
        if not any(step.operation == "create" for step in steps):
            for change in _told(steps):
                yield "", "", _change(change, _key_width(steps))


def _told(steps: Iterable[Step]) -> Iterator[Change]:
    return (change for step in steps for change in step.changes if step.operation != "destroy")


def _key_width(steps: Iterable[Step]) -> int:
    return max((len(change.key) for change in _told(steps)), default=0)


def kind_of(steps: Iterable[Step]) -> str:
    """Return add, change, destroy or rebuild: what steps with one target come to."""
    operations = {step.operation for step in steps}
    if {"create", "destroy"} <= operations:
        return "rebuild"
    if "destroy" in operations:
        return "destroy"
    if operations & {"create", "image"}:
        return "add"
    fresh = all(not change.before for step in steps for change in step.changes)
    return (
        "add" if fresh and operations == {"network"} and any(s.changes for s in steps) else "change"
    )


def _sign(steps: list[Step]) -> tuple[str, str]:
    kind = kind_of(steps)
    return _REBUILD if kind == "rebuild" else _SIGNS[kind]


def _widths(machines: Iterable[Machine]) -> tuple[int, int, int]:
    listed = list(machines)
    return (
        max((len(m.name) for m in listed), default=0),
        max((len(str(m.vmid)) for m in listed), default=0),
        max((len(str(m.ip)) for m in listed), default=0),
    )


def _title(
    target: str, steps: list[Step], machine: Machine | None, widths: tuple[int, int, int]
) -> Text:
    vmid = next((step.vmid for step in steps if step.vmid), None)
    line = Text(f"{target:<{widths[0]}}" if vmid else target, "bold")
    if vmid:
        line.append(f"  {vmid:<{widths[1]}}", "dim")
    kind = kind_of(steps)
    if kind in ("add", "rebuild") and machine:
        line.append(f"  {machine.ip!s:<{widths[2]}}{_size(machine)}")
    if kind in ("destroy", "rebuild"):
        gone = next(step for step in steps if step.operation == "destroy")
        disk = next((change.before for change in gone.changes), "")
        line.append(f"  {gone.summary}; its disk ({disk}) and all data on it are lost", "red")
    return line


def _size(machine: Machine) -> str:
    floor = f" (floor {machine.floor_mib // 1024})" if machine.floor_mib else ""
    return f"{machine.vcpu:>4} vCPU{machine.memory_mib // 1024:>5} GiB{floor}{machine.disk_gib:>6} GiB disk"


def _change(change: Change, width: int) -> Text:
    line = Text(f"    {change.key:<{width}}  ")
    if change.before and change.after:
        line.append(change.before, "red").append(" → ").append(change.after, "green")
    elif change.after:
        line.append(change.after, "green")
    else:
        line.append(change.before, "red").append(" → none")
    if change.later:
        line.append("  at the next start", "dim")
    return line


def _withheld(plan: Plan) -> Iterator[tuple[str, str, Text]]:
    for one in plan.withheld:
        text = f"  {one.reason}; not done without --allow-destroy {one.name}"
        yield *_WITHHELD, Text.assemble((one.name, "bold"), text)


def _totals(plan: Plan) -> Text:
    if plan.empty:
        count = len(plan.unchanged)
        return Text(f"No changes: {count} machines are as the specification says.", "green")
    groups = groupby(plan.steps, key=lambda step: step.target)
    kinds = [kind_of(list(steps)) for _, steps in groups]
    add = sum(kind in ("add", "rebuild") for kind in kinds)
    destroy = sum(kind in ("destroy", "rebuild") for kind in kinds)
    line = Text.assemble(("Plan: ", "bold"), f"{add} to add, {kinds.count('change')} to change, ")
    line.append(f"{destroy} to destroy", "bold red" if destroy else "")
    if plan.unchanged:
        line.append(f"; {len(plan.unchanged)} as they should be")
    return line.append(".")


def _remarks(plan: Plan) -> Iterator[Text]:
    for name, keys in plan.waiting.items():
        text = f"{name} has to restart for {', '.join(keys)}: drain it, then --restart {name}"
        yield Text(text, "yellow")
    for note in plan.notes:
        yield Text(note, "dim")


def preflight_view(found: Iterable[Check]) -> RenderableType:
    """Return the table of checks, and below it what to do about those that fail."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    listed = list(found)
    for name, right in (("check", 0), ("need", 1), ("floor", 1), ("usable", 1), ("ratio", 1)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    table.add_column("verdict")
    for one in listed:
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        row = (one.name, one.need, one.floor, one.usable, ratio)
        table.add_row(*map(Text, row), Text(one.verdict, _VERDICTS[one.verdict]))
    remedies = [
        Text.assemble((f"{one.name}: ", _VERDICTS[one.verdict]), one.remedy)
        for one in listed
        if one.remedy
    ]
    return Group(table, *remedies)
