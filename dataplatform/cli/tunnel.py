"""`dp tunnel`: the web pages and APIs of the cluster on this machine's own ports."""

import asyncio
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import Heading, UserError, counted, show_lines, user_errors
from dataplatform.cli.home import load_settings
from dataplatform.lake.place import shown

if TYPE_CHECKING:
    from infra.tunnels.routes import Route
    from infra.tunnels.state import Snapshot, StateFolder
    from infra.tunnels.supervisor import Level, Supervisor

app: Final = typer.Typer(
    name="tunnel",
    help="The cluster's web pages and APIs on this machine's own ports, through SSH.",
    no_args_is_help=True,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_START_SECONDS: Final = 90.0
"""Connecting may take 30 s, and asking behind each tunnel 8."""


def _tunnel_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what is wrong with specification or tunnels end as one message."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            from infra.spec.errors import SpecError
            from infra.tunnels.errors import TunnelError
        except ModuleNotFoundError as error:
            raise UserError(
                "infra/ is not there: the package was installed without its repository."
                " Remedy: run dp from a checkout."
            ) from error

        try:
            return command(*args, **kwargs)
        except (SpecError, TunnelError) as error:
            raise UserError(str(error)) from error

    return user_errors(_guarded)


@app.command("up")
@_tunnel_errors
def up(
    names: Annotated[
        list[str] | None, typer.Argument(help="The tunnels wanted; all where none is named.")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="DATAPLATFORM_INFRA_SPEC", help="Else infra/spec/cluster.yaml."
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            envvar="DATAPLATFORM_INFRA_PROFILE",
            help="What is laid over it: reference (nothing), fits-128, small.",
        ),
    ] = "reference",
    identity: Annotated[
        Path | None,
        typer.Option("--identity", "-i", metavar="FILE", help="The private key to log in with."),
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PORT", help="Another local port for a tunnel; may be repeated."),
    ] = None,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take free ports in place of those that are taken.")
    ] = False,
    background: Annotated[
        bool, typer.Option("--background", "-b", help="Return as soon as the tunnels are up.")
    ] = False,
) -> None:
    """Open the tunnels and hold them until Ctrl-C; a broken connection is made anew."""
    from infra.spec.model import REFERENCE, load_spec
    from infra.tunnels.gateway import Gateway
    from infra.tunnels.ports import moved
    from infra.tunnels.routes import routes
    from infra.tunnels.supervisor import Supervisor

    wanted = load_spec(spec or REFERENCE, profile)
    chosen = routes(wanted, names or (), _ports(port or []))
    if not chosen:
        raise UserError("The specification has no tunnels. Remedy: name some under `tunnels`.")
    chosen = moved(chosen) if free_ports else chosen
    folder = _folder()
    if background:
        given = {"--profile": profile, "--spec": spec, "--identity": identity}
        same = [f"{option}={value}" for option, value in given.items() if value]
        _start_in_background(folder, [*same, *_as_options(chosen)])
        return
    host = wanted.host
    gateway = Gateway(host.address, host.ssh_port, host.ssh_user, identity)
    _hold(Supervisor(gateway, chosen, folder, _Screen()))


@app.command("status")
@_tunnel_errors
def status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show each tunnel's URL and whether something answers behind it; exit 1 unless all do."""
    folder = _folder()
    found = folder.read()
    held = folder.process() is not None
    if as_json:
        typer.echo(found.model_dump_json(indent=2) if found and held else "null")
    elif found is None or not held:
        ended = f" They ended: {found.detail}" if found and found.detail else ""
        raise UserError(f"No tunnels are up.{ended or ' Remedy: dp tunnel up.'}")
    else:
        _show(found)
    if found is None or not held or not found.healthy:
        raise typer.Exit(1)


@app.command("down")
@_tunnel_errors
def down() -> None:
    """Close the tunnels, wherever they are held."""
    ended = _folder().stop()
    console.err().print("The tunnels are closed." if ended else "No tunnels are up.")


def _folder() -> "StateFolder":
    from infra.tunnels.state import StateFolder

    return StateFolder(load_settings().home)


def _ports(options: list[str]) -> dict[str, int]:
    """Return the local ports that the user wants, by tunnel."""
    found: dict[str, int] = {}
    for option in options:
        name, _, number = option.partition("=")
        if not number.isdecimal() or not 0 < int(number) <= _LAST_PORT:
            raise UserError(
                f"--port {option} is no NAME=PORT. Remedy: such as --port grafana=3101."
            )
        found[name] = int(number)
    return found


_LAST_PORT: Final = 65_535


def _as_options(routes: "tuple[Route, ...]") -> list[str]:
    ports = [f"--port={route.name}={route.local_port}" for route in routes]
    return [*ports, *(route.name for route in routes)]


class _Screen:
    """Tells the terminal, or the log, how the tunnels are."""

    def ready(self, snapshot: "Snapshot") -> None:
        _show(snapshot)
        console.err().print("Ctrl-C closes the tunnels.", style="dim")

    def changed(self, what: str, level: "Level") -> None:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"
        console.err().print(f"{now}  {what}", style=_COLOUR_OF_LEVEL[level], markup=False)


_COLOUR_OF_LEVEL: Final = {"good": "green", "bad": "yellow", "note": "dim"}


def _hold(supervisor: "Supervisor") -> None:
    """Hold the tunnels until this process is told to end."""

    async def held() -> None:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(one, lambda: task and task.cancel())
        await supervisor.run()

    with suppress(asyncio.CancelledError):
        asyncio.run(held())
    console.err().print("The tunnels are closed.")


def _start_in_background(folder: "StateFolder", options: list[str]) -> None:
    """Start a process of its own that holds the tunnels, and show how they are."""
    from infra.tunnels.errors import AlreadyUpError

    if found := folder.process():
        raise AlreadyUpError(
            f"The tunnels are up already (pid {found.pid})."
            " Remedy: dp tunnel status shows them, dp tunnel down ends them."
        )
    folder.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:  # noqa: PTH123
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "dataplatform.cli", "tunnel", "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _BACKGROUND.append(process)
    try:
        _show(_await_ready(folder, process))
    except BaseException:
        process.terminate()
        raise
    console.err().print(
        f"The tunnels stay up in the background; what happens: {shown(folder.log)}."
        " dp tunnel status, dp tunnel down."
    )


_BACKGROUND: Final[list["subprocess.Popen[bytes]"]] = []
"""Python warns of a process that is forgotten while it runs."""


def _await_ready(folder: "StateFolder", process: "subprocess.Popen[bytes]") -> "Snapshot":
    """Wait until each tunnel of a starting process was asked."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        told = folder.read()
        if told and told.pid == process.pid:
            if told.connection == "failed":
                raise UserError(told.detail)
            if told.checked:
                return told
        if ended:
            raise UserError(
                f"The tunnels did not come up: {folder.log.read_text().strip().removeprefix('Error: ')}"
            )
        time.sleep(0.1)
    raise UserError(f"The tunnels did not come up. Remedy: see {folder.log}.")


def _show(snapshot: "Snapshot") -> None:
    """Print how the connection is, and each tunnel in a line."""
    why = f": {snapshot.detail}" if snapshot.detail else ""
    back = f", back {counted(snapshot.reconnects, 'time')}" if snapshot.reconnects else ""
    note = f"{snapshot.gateway}: {snapshot.connection} since {snapshot.since:%Y-%m-%d %H:%M:%S}Z{back}{why}"
    console.err().print(f"{note} (pid {snapshot.pid})", style="dim", markup=False)
    if snapshot.silent:
        console.err().print(
            f"That process has told nothing since {snapshot.written:%Y-%m-%d %H:%M:%S}Z."
            " Remedy: dp tunnel down, dp tunnel up.",
            style="yellow",
        )
    headings = [
        Heading("tunnel"),
        Heading("state"),
        Heading("URL"),
        Heading("leads to", from_width=90),
    ]
    show_lines(
        [*headings, Heading("why")],
        [(t.name, t.state, t.url, t.target, t.detail) for t in snapshot.tunnels],
    )
