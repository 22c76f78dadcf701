"""`dp infra`: one Proxmox host and the machines on it, by plan and apply."""

import functools
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, add_row, grid, user_errors

if TYPE_CHECKING:
    from infra.proxmox.api import Api
    from infra.proxmox.apply import Applied, Event
    from infra.proxmox.observe import State
    from infra.proxmox.plan import Plan
    from infra.spec.model import ClusterSpec

app: Final = typer.Typer(
    name="infra",
    help="From a bare Proxmox host to the machines of a Kubernetes cluster, by plan and apply.",
    no_args_is_help=True,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_CHANGES: Final = 2
"""Exit code of a plan that is not empty."""

SpecFile = Annotated[
    Path | None,
    typer.Option("--spec", envvar="DATAPLATFORM_INFRA_SPEC", help="Else infra/spec/cluster.yaml."),
]
Profile = Annotated[
    str,
    typer.Option(
        envvar="DATAPLATFORM_INFRA_PROFILE",
        help="What is laid over the specification: reference, fits-128, small.",
    ),
]
AllowDestroy = Annotated[
    list[str] | None,
    typer.Option("--allow-destroy", metavar="NAME", help="A machine to be removed or rebuilt."),
]
Restart = Annotated[
    list[str] | None,
    typer.Option("--restart", metavar="NAME", help="A machine that may restart, to take changes."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _infra_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what went wrong with host or specification end as one message."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            from infra.proxmox.errors import ProxmoxError
            from infra.spec.errors import SpecError
        except ModuleNotFoundError as error:
            raise UserError(
                "infra/ is not there: the package was installed without its repository."
                " Remedy: run dp from a checkout."
            ) from error

        try:
            return command(*args, **kwargs)
        except (ProxmoxError, SpecError) as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            raise UserError(
                "Interrupted: tasks that the host has begun go on there."
                " Remedy: `dp infra apply` goes on from what is there then."
            ) from None

    return user_errors(_guarded)


@app.command("preflight")
@_infra_errors
def preflight(
    spec_file: SpecFile = None,
    profile: Profile = "reference",
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask only the specification, not the host.")
    ] = False,
) -> None:
    """Show whether the host can carry the specification; exit code 1 where it can't."""
    from infra.proxmox import preflight as checking
    from infra.proxmox.observe import observe
    from infra.proxmox.show import preflight_view

    spec = _spec(spec_file, profile)
    if offline:
        found = checking.checks(spec, checking.stated_facts(spec), None)
    else:
        with _api(spec) as api:
            state = observe(api, spec)
            facts = checking.read_facts(api, spec, state)
            found = checking.checks(spec, facts, state)
            found.append(checking.foreign_addresses(api, spec, state))
    console.out().print(preflight_view(found))
    if any(check.verdict == "refused" for check in found):
        raise typer.Exit(1)


@app.command("plan")
@_infra_errors
def plan(
    spec_file: SpecFile = None,
    profile: Profile = "reference",
    allow_destroy: AllowDestroy = None,
    restart: Restart = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it, to be applied.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what apply would do; exit code 0: nothing, 2: something, 1: it can't be told."""
    from infra.proxmox.plan import canonical_json, make_plan
    from infra.proxmox.show import plan_view

    spec = _spec(spec_file, profile)
    with _api(spec) as api:
        made, _ = make_plan(api, spec, allow_destroy=allow_destroy or (), restart=restart or ())
    if out is not None:
        made.write(out)
    if as_json:
        sys.stdout.write(canonical_json(made) + "\n")
    else:
        console.out().print(plan_view(made, spec))
    raise typer.Exit(0 if made.empty else _CHANGES)


@app.command("apply")
@_infra_errors
def apply(
    plan_file: Annotated[
        Path | None, typer.Argument(help="A plan that was written; else one is made and shown.")
    ] = None,
    spec_file: SpecFile = None,
    profile: Profile = "reference",
    allow_destroy: AllowDestroy = None,
    restart: Restart = None,
    yes: Yes = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until each machine's SSH answers.")
    ] = True,
) -> None:
    """Make the host what the specification says; may be run again after any interruption."""
    from infra.proxmox.apply import Applier
    from infra.proxmox.reach import through_host

    spec = _spec(spec_file, profile)
    with _api(spec) as api:
        made, state = _plan_to_apply(api, spec, plan_file, allow_destroy, restart)
        _show(made, spec)
        if not made.steps:
            return
        _check_host(api, spec, state)
        if not (yes or plan_file or typer.confirm("Apply this plan?")):
            raise UserError("Nothing was changed.")
        with _told(made) as tell:
            reach = through_host(spec) if wait else None
            applied = Applier(api, spec, tell, reach).apply(made)
    _end(applied)


@app.command("status")
@_infra_errors
def status(spec_file: SpecFile = None, profile: Profile = "reference") -> None:
    """Show the machines: what runs, what waits for a restart, what is missing."""
    from infra.proxmox.observe import observe

    spec = _spec(spec_file, profile)
    with _api(spec) as api:
        state = observe(api, spec)
    table = grid(["machine", "VMID", "address", "state", "up", "vCPU", "memory", "disk", "note"])
    for row in _status_rows(spec, state):
        add_row(table, row)
    console.out().print(table)


@app.command("destroy")
@_infra_errors
def destroy(
    name: Annotated[str, typer.Argument(help="The machine.")],
    spec_file: SpecFile = None,
    profile: Profile = "reference",
    yes: Yes = False,
) -> None:
    """Remove one machine with its disks, by name; its data is lost."""
    from infra.proxmox.apply import Applier
    from infra.proxmox.observe import observe

    spec = _spec(spec_file, profile)
    with _api(spec) as api:
        made = _plan_of_destruction(spec, observe(api, spec), name)
        _show(made, spec)
        if not yes and typer.prompt(f"Type {name} to remove it") != name:
            raise UserError("Nothing was changed.")
        with _told(made) as tell:
            applied = Applier(api, spec, tell).apply(made)
    _end(applied)
    if any(machine.name == name for machine in spec.machines()):
        number = name.rpartition("-")[2]
        text = f"{name} is still asked for: the next apply makes it anew, unless its pool has `without: [{number}]`."
        console.err().print(text, style="yellow", markup=False)


def _spec(path: Path | None, profile: str) -> "ClusterSpec":
    from infra.spec.model import REFERENCE, load_spec

    return load_spec(path or REFERENCE, profile)


@contextmanager
def _api(spec: "ClusterSpec") -> "Generator[Api]":
    """Open a session; the token comes from the environment, else from the profile's secrets."""
    from infra.proxmox.api import Api, Endpoint, Token

    values = _token()
    host = spec.host
    endpoint = Endpoint(
        address=host.api_address or host.address,
        port=host.api_port,
        fingerprint=host.fingerprint,
        authority=host.authority and str(Path(host.authority).expanduser()),
    )
    with Api(endpoint, Token(values["token_id"], values["token_secret"])) as api:
        yield api


def _token() -> dict[str, str]:
    from dataplatform.lake.secrets import EnvironmentSecrets, SecretNotFoundError

    try:
        return dict(EnvironmentSecrets(os.environ).read("proxmox"))
    except SecretNotFoundError:
        from dataplatform.profiles import Settings
        from dataplatform.resources.vault import open_secrets

        return dict(open_secrets(Settings()).read("proxmox"))


def _plan_to_apply(
    api: "Api",
    spec: "ClusterSpec",
    file: Path | None,
    allow_destroy: list[str] | None,
    restart: list[str] | None,
) -> "tuple[Plan, State]":
    from infra.proxmox.observe import observe
    from infra.proxmox.plan import Plan, make_plan

    if file is None:
        return make_plan(api, spec, allow_destroy=allow_destroy or (), restart=restart or ())
    if allow_destroy or restart:
        raise UserError(
            "A written plan says itself what it destroys and restarts."
            " Remedy: give --allow-destroy and --restart to `dp infra plan --out FILE`."
        )
    made, state = Plan.read(file), observe(api, spec)
    made.check(spec, state)
    return made, state


def _plan_of_destruction(spec: "ClusterSpec", state: "State", name: str) -> "Plan":
    from infra.proxmox.desired import spec_digest
    from infra.proxmox.errors import NotAllowedError
    from infra.proxmox.plan import Plan, destroy_step

    found = [machine for machine in state.machines.values() if machine.name == name]
    if len(found) != 1:
        names = ", ".join(machine.name for machine in state.machines.values()) or "none"
        cause = (
            f"there are {len(found)} machines of that name tagged {spec.name}; there are {names}"
        )
        raise NotAllowedError(name, cause, "name one of them; machines of others are never touched")
    return Plan(
        cluster=spec.name,
        spec_digest=spec_digest(spec),
        state_digest=state.digest(),
        steps=(destroy_step(spec, found[0], "asked for"),),
    )


def _check_host(api: "Api", spec: "ClusterSpec", state: "State") -> None:
    from infra.proxmox import preflight as checking
    from infra.proxmox.show import preflight_view

    found = checking.checks(spec, checking.read_facts(api, spec, state), state)
    found.append(checking.foreign_addresses(api, spec, state))
    if any(check.verdict != "ok" for check in found):
        failing = [check for check in found if check.verdict != "ok"]
        refused = any(check.verdict == "refused" for check in failing)
        # What refuses is an error, which says the remedies.
        console.out().print(preflight_view(failing, remedies=not refused))
    checking.require(found)


def _show(made: "Plan", spec: "ClusterSpec") -> None:
    from infra.proxmox.show import plan_view

    console.out().print(plan_view(made, spec))


def _status_rows(spec: "ClusterSpec", state: "State") -> Generator[list[object]]:
    from infra.proxmox.plan import gib_text

    wanted = {machine.vmid: machine for machine in spec.machines()}
    for vmid in sorted({*wanted, *state.machines}):
        asked, present = wanted.get(vmid), state.machines.get(vmid)
        address = asked.ip if asked else ""
        if present is None:
            name = asked.name if asked else ""
            yield [name, vmid, address, "absent", "", "", "", "", _taken(state, vmid)]
            continue
        config, disk = present.config, "" if present.disk is None else gib_text(present.disk)
        memory = f"{int(config['memory']) // 1024} GiB"
        note = "" if asked else "not in the specification"
        if present.waiting:
            note = f"restart for {', '.join(present.waiting)}"
        if present.lock:
            note = f"locked ({present.lock})"
        up = f"{present.uptime // 3600} h" if present.uptime else ""
        facts = [present.status, up, config["cores"], memory, disk, note]
        yield [present.name, vmid, address, *facts]


def _taken(state: "State", vmid: int) -> str:
    guest = state.guests.get(vmid)
    return f"VMID taken by {guest.name}" if guest else "dp infra apply makes it"


@contextmanager
def _told(made: "Plan") -> "Generator[Callable[[Event], None]]":
    """Show progress: a line for each step that ended, and below them a bar and what is at work."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console.err()
    columns = (
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(made.steps))
        at_work: dict[str, str] = {}

        def tell(event: "Event") -> None:
            if event.state == "started":
                at_work[event.target] = event.operation
            else:
                _tell_end(bar, event)
            if event.state in ("done", "failed"):
                at_work.pop(event.target, None)
                bar.advance(task)
            shown = ", ".join(f"{verb} {name}" for name, verb in at_work.items())
            bar.update(task, description=shown.replace("[", "\\["))

        yield tell


def _tell_end(bar: object, event: "Event") -> None:
    from rich.progress import Progress
    from rich.text import Text

    assert isinstance(bar, Progress)  # noqa: S101  rich is imported where it is used
    sign, style = {"done": ("✓", "green"), "warned": ("!", "yellow"), "failed": ("✗", "red")}[
        event.state
    ]
    named = event.target.startswith(event.operation)
    text = event.target if named else f"{event.operation:<7} {event.target}"
    line = Text.assemble((f"{sign} ", style), text)
    if event.text and event.state == "warned":
        line.append(f"  {event.text}", "yellow")
    bar.console.print(line)


def _end(applied: "Applied") -> None:
    """Say what came of it; exit code 1 where something went wrong."""
    done = console.counted(len(applied.done), "step")
    if not applied.errors:
        console.out().print(f"Applied: {done}.", style="green")
        return
    left = console.counted(len(applied.left), "step")
    said = "\n".join(map(str, applied.errors))
    raise UserError(
        f"{said}\n{done} done, {left} left. Mend it, then `dp infra apply` goes on from there."
    )
