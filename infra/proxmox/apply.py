"""A plan carried out: parts of the host in order, machines side by side, imports one at a time.

Nothing is remembered between runs. Every step leaves the host in a state from which a new plan leads
on, so whoever was interrupted plans and applies again.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, Literal

from infra.proxmox.api import Api, Task
from infra.proxmox.errors import (
    AlreadyError,
    ForeignMachineError,
    HostError,
    NotFoundError,
    ProxmoxError,
    UnreachableMachineError,
)
from infra.proxmox.observe import Observed, observe_machine
from infra.proxmox.plan import Plan, gib_text
from infra.proxmox.reach import Reach
from infra.proxmox.steps import Call, Operation, Step
from infra.spec.model import ClusterSpec, Machine

WORKERS: Final = 4
"""Machines at once: beside one import, the others boot; more only slows the host's disk."""
_OF_A_MACHINE: Final = frozenset({"destroy", "create", "update", "grow", "start", "restart"})
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Event:
    """Something to show.

    Attributes:
        target: what it is about.
        operation: what is done to it.
        state: how far it is.
        text: more about it.
    """

    target: str
    operation: Operation
    state: Literal["started", "done", "warned", "failed"]
    text: str = ""


@dataclass
class Applied:
    """What came of a plan.

    Attributes:
        done: steps that were carried out.
        left: steps that were not begun.
        warnings: what the host warned of.
        errors: what went wrong.
    """

    done: list[Step] = field(default_factory=list)
    left: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[ProxmoxError] = field(default_factory=list)


@dataclass(frozen=True)
class Waiting:
    """How long is waited for a machine's SSH server, in seconds.

    Attributes:
        deadline: in all; a first boot with cloud-init takes about a minute.
        pause: between two tries.
    """

    deadline: float = 300
    pause: float = 3


class Applier:
    """Carries out plans on one host.

    Args:
        api: of the host.
        spec: what is asked for.
        tell: is told what goes on.
        reach: tells whether a machine's SSH server answers; None: nothing is waited for.
        waiting: how long is waited for that.
    """

    def __init__(
        self,
        api: Api,
        spec: ClusterSpec,
        tell: Callable[[Event], None] = lambda _: None,
        reach: Reach | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        self._api = api
        self._spec = spec
        self._tell = tell
        self._reach = reach
        self._waiting = waiting or Waiting()
        self._machines: Mapping[int, Machine] = {m.vmid: m for m in spec.machines()}
        self._importing = threading.Lock()
        self._stop = threading.Event()

    def apply(self, plan: Plan, workers: int = WORKERS) -> Applied:
        """Carry out a plan; after an error nothing new is begun, what runs is ended.

        Args:
            plan: what is to be done.
            workers: how many machines at once.

        Returns:
            What came of it; errors are in it, not raised.
        """
        applied = Applied()
        before = [s for s in plan.steps if s.operation in ("network", "image")]
        machines = [s for s in plan.steps if s.operation in _OF_A_MACHINE]
        # Last: once it is on, a way in that was forgotten is closed.
        after = [s for s in plan.steps if s.operation == "firewall"]
        self._chain(before, applied)
        chains = [list(chain) for _, chain in groupby(machines, key=lambda step: step.vmid)]
        with ThreadPoolExecutor(max(1, workers)) as pool:
            try:
                list(pool.map(lambda chain: self._chain(chain, applied), chains))
            except BaseException:  # Ctrl-C: let what runs end, begin nothing.
                self._stop.set()
                raise
        self._chain(after, applied)
        applied.left = [step for step in plan.steps if step not in applied.done]
        return applied

    def _chain(self, steps: Iterable[Step], applied: Applied) -> None:
        """Carry out steps in order, until one fails here or elsewhere."""
        for step in steps:
            if self._stop.is_set():
                return
            self._tell(Event(step.target, step.operation, "started"))
            try:
                warnings = self._step(step)
            except ProxmoxError as error:
                self._stop.set()
                applied.errors.append(error)
                self._tell(Event(step.target, step.operation, "failed", str(error)))
                return
            for warning in warnings:
                applied.warnings.append(f"{step.target}: {warning}")
                self._tell(Event(step.target, step.operation, "warned", warning))
            applied.done.append(step)
            self._tell(Event(step.target, step.operation, "done"))

    def _step(self, step: Step) -> list[str]:
        if step.operation == "create":
            # Parallel imports time out on the storage's lock.
            with self._importing:
                warnings = self._calls(step)
            self._verify_ours(step)
            return warnings
        if step.operation == "destroy" and self._verify_ours(step) is None:
            return []
        warnings = self._calls(step)
        if step.operation == "grow":
            self._verify_size(step)
        if step.operation in ("start", "restart"):
            self._await_ssh(step)
        return warnings

    def _calls(self, step: Step) -> list[str]:
        warnings: list[str] = []
        for call in step.calls:
            try:
                warnings += self._call(call).warnings
            except (AlreadyError, NotFoundError):
                if not _done_already(step, call):
                    raise
        return warnings

    def _call(self, call: Call) -> Task:
        if call.task:
            return self._api.task(call.method, call.path, call.parameters, call.task, call.of)
        self._api.change(call.method, call.path, call.parameters)
        return Task()

    def _verify_ours(self, step: Step) -> Observed | None:
        """Make sure that the machine is the one that the plan means, right before or after."""
        vmid = step.vmid or 0
        machine = observe_machine(self._api, self._spec, vmid)
        if machine is not None and machine.name == step.target:
            return machine
        if machine is None and step.operation == "destroy":
            listed = self._api.get("cluster/resources", type="vm")
            if all(int(one["vmid"]) != vmid for one in listed):
                return None  # It is gone, as it was to be.
        raise ForeignMachineError(
            step.target,
            f"the machine with VMID {vmid} is not, or no longer, ours",
            "look at `dp infra plan` again; machines of others are never touched",
        )

    def _verify_size(self, step: Step) -> None:
        """A resize answers 200 and its task may end well without the disk having grown."""
        machine = observe_machine(self._api, self._spec, step.vmid or 0)
        wanted = self._machines[step.vmid or 0].disk_gib * _GIB
        if machine is None or machine.disk is None or machine.disk < wanted:
            has = gib_text(machine.disk) if machine and machine.disk else "nothing"
            cause = f"its disk has {has} after growing it to {gib_text(wanted)}"
            raise HostError(
                step.target, cause, "look at the task's log in the host's UI, run again"
            )

    def _await_ssh(self, step: Step) -> None:
        machine = self._machines.get(step.vmid or 0)
        if self._reach is None or machine is None:
            return
        deadline = time.monotonic() + self._waiting.deadline
        while reason := self._reach(machine):
            if time.monotonic() > deadline or reason.permanent:
                raise UnreachableMachineError(
                    f"{machine.name} ({machine.ip})",
                    f"its SSH is not reached: {reason}",
                    reason.remedy,
                )
            if self._stop.is_set():
                return
            time.sleep(self._waiting.pause)


def _done_already(step: Step, call: Call) -> bool:
    """Tell whether "already so" and "not there" are what a call was to bring about."""
    if step.operation == "destroy":
        return True
    return call.task in ("qmstart", "qmstop")
