"""`dp stack`: the real servers on this machine, brought up, looked at and taken down."""

import functools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, add_row, grid, size_text, user_errors
from dataplatform.cli.home import load_settings, write_dagster_config
from dataplatform.lake.place import shown

if TYPE_CHECKING:
    from dataplatform.stack.runner import ServerStatus, Stack

app: Final = typer.Typer(
    name="stack",
    help="The real servers on this machine: Vault, PostgreSQL, MinIO, Iceberg REST, Trino.",
    no_args_is_help=True,
)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _stack_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what went wrong with a server end as one line."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from dataplatform.lake.jvm import JavaNotFoundError
        from dataplatform.lake.maven import JarError
        from dataplatform.lake.secrets import SecretError
        from dataplatform.lake.store.errors import ObjectStoreError
        from dataplatform.stack.layout import StackError

        foreseen = (StackError, SecretError, ObjectStoreError, JarError, JavaNotFoundError)
        try:
            return command(*args, **kwargs)
        except foreseen as error:
            raise UserError(str(error)) from error

    return user_errors(_guarded)


@app.command("up")
@_stack_errors
def up(
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take free ports, not the servers' usual ones.")
    ] = False,
) -> None:
    """Install, start and set up the servers; what runs already stays as it is.

    A server whose address is in the settings, such as DATAPLATFORM_TRINO_URL, is yours: it is used
    and not started.
    """
    started = time.monotonic()
    stack = _stack()
    _warn_root()
    stack.up(_progress(started), free_ports=free_ports)
    home = stack.layout.root / "dagster"
    write_dagster_config(home, servers=True)
    _show(stack.status())
    screen = console.err()
    screen.print(f"The stack is up ({time.monotonic() - started:.0f} s).", style="green")
    screen.print(_next_steps(_called_as(), home), style="dim", markup=False)


@app.command("install")
@_stack_errors
def install(
    mc: Annotated[bool, typer.Option("--mc", help="MinIO's client mc as well.")] = False,
) -> None:
    """Install the servers and start none; `up` does it too. The first time takes minutes."""
    started = time.monotonic()
    tell = _progress(started)
    _stack().install(tell)
    if mc:
        from dataplatform.stack.install import install_mc

        install_mc(functools.partial(tell, "mc"))
    console.err().print(f"Installed ({time.monotonic() - started:.0f} s).", style="green")


@app.command("status")
@_stack_errors
def status() -> None:
    """Show state, process, memory and uptime of each server; exit 1 unless all run."""
    found = _stack().status()
    if not found:
        raise UserError("There is no stack in this home. Remedy: dp stack up.")
    _show(found)
    if any(one.state not in ("running", "given") for one in found):
        raise typer.Exit(1)


@app.command("logs")
@_stack_errors
def logs(
    name: Annotated[str, typer.Argument(help="vault, postgres, minio, catalog or trino.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 50,
) -> None:
    """Show what a server says."""
    from dataplatform.stack import runner
    from dataplatform.stack.layout import SERVERS

    known = (*SERVERS, "supervisor")
    if name not in known:
        raise UserError(f"There is no server {name!r}. Remedy: one of {', '.join(known)}.")
    log = _stack().layout.log(name)
    if not log.exists():
        raise UserError(f"{name} has said nothing yet. Remedy: dp stack up.")
    if not follow:
        typer.echo(runner.log_tail(log, lines))
        return
    try:
        for line in runner.follow(log, lines):
            typer.echo(line)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command("env")
@_stack_errors
def env(
    inbox: Annotated[
        bool, typer.Option("--inbox", help="The keys that may put files into the inbox: a secret.")
    ] = False,
) -> None:
    """Print what lets a shell use the servers' own clients, bao and psql; mc and S3 with --inbox.

    Example: eval "$(dp stack env)"
    """
    from dataplatform.stack import environment
    from dataplatform.stack.layout import Plan

    layout = _stack().layout
    printed = environment.inbox if inbox else environment.administration
    typer.echo("\n".join(printed(layout, Plan.read(layout))))


@app.command("restart")
@_stack_errors
def restart(
    name: Annotated[str, typer.Argument(help="vault, postgres, minio, catalog or trino.")],
) -> None:
    """End a server and start it again, with the secrets that Vault holds now."""
    _stack().restart(name, _progress(time.monotonic()))


@app.command("down")
@_stack_errors
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove the data, the secrets and the logs as well.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a removal.")] = False,
) -> None:
    """End every server; the data stay unless they are purged."""
    stack = _stack()
    if purge and not yes:
        typer.confirm(f"Remove everything below {stack.layout.root}?", abort=True)
    if not stack.layout.root.exists():
        console.err().print("There is no stack in this home.")
        return
    stack.down(_progress(time.monotonic()), purge=purge)
    console.err().print("The stack is down." + (" Its data are removed." if purge else ""))


def _next_steps(dp: str, home: Path) -> str:
    """Return what can be pasted now."""
    return "\n".join(
        [
            "Next:",
            "  export DATAPLATFORM_PROFILE=stack",
            f"  {dp} run   # where the API can't be reached: {dp} run --origin recorded",
            f'  {dp} query "select * from analytics.latest_prices limit 5"',  # noqa: S608  is shown
            f"  {dp} ui",
            f"Dagster's own commands: export DAGSTER_HOME={shlex.quote(str(home))}",
            f"Later: {dp} stack status, {dp} stack logs NAME, {dp} stack down",
        ]
    )


def _called_as() -> str:
    """Return how this shell calls us: by name where that finds us, else by the path as it was typed."""
    called = sys.argv[0]
    name = Path(called).name
    found = shutil.which(name)
    if found and Path(found).resolve() == Path(called).resolve():
        return name
    # `python -m` gives the path of the module.
    return "dp" if name.endswith(".py") else shlex.quote(shown(Path(called).absolute()))


def _warn_root() -> None:
    if os.geteuid() == 0:
        console.err().print(
            "As root, a mistake of any of the servers is root's, and PostgreSQL may pass all files"
            " (ADR 12): do so on machines only that you throw away.",
            style="yellow",
        )


def _stack() -> "Stack":
    from dataplatform.stack.runner import Stack

    return Stack(load_settings().home)


def _progress(started: float) -> Callable[[str, str], None]:
    screen = console.err()

    def _tell(server: str, what: str) -> None:
        style = "green" if what in ("ready", "stopped") else "dim"
        screen.print(f"{time.monotonic() - started:6.1f} s  {server:<9} {what}", style=style)

    return _tell


_COLOUR: Final = {"given": "green", "starting": "yellow", "stopped": "dim", "dead": "red"}


def _show(found: "list[ServerStatus]") -> None:
    columns = ["server", "state", "version", "address", "pid", "memory", "uptime", "since"]
    right = [name in ("pid", "memory", "uptime") for name in columns]
    table = grid(columns, right, named=True)
    for one in found:
        memory = size_text(one.memory) if one.memory else ""
        since = f"{one.since:%Y-%m-%d %H:%M:%S}Z" if one.since else ""
        running = [one.pid, memory, _uptime(one.since), since]
        add_row(table, [one.name, one.state, one.version, one.address, *running])
        table.rows[-1].style = _COLOUR.get(one.state)
    screen = console.out()
    screen.print(table)
    total = sum(one.memory for one in found)
    if total:
        console.err().print(f"Memory of the servers: {size_text(total)}", style="dim")


def _uptime(since: datetime | None) -> str:
    if since is None:
        return ""
    return str(timedelta(seconds=int((datetime.now(UTC) - since).total_seconds())))
