"""`dp ui`: Dagster's UI and daemon for this lake, on this machine only."""

import os
import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, user_errors
from dataplatform.cli.home import load_settings, prepare_dagster_home
from dataplatform.resources.servers import require_servers

if TYPE_CHECKING:
    from pathlib import Path

    from dataplatform.profiles import Settings

HOST: Final = "127.0.0.1"
GRACE_SECONDS: Final = 60.0
"""Dagster gives each of its services 45 s; whatever is left then is killed."""


@user_errors
def ui(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the UI.")] = 3000,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="The code servers' debug logs as well.")
    ] = False,
) -> None:
    """Open Dagster's UI, with the daemon that runs schedules and sensors.

    It works on the lake that `dp run` used last. Ctrl-C ends it and all that it started.
    """
    settings = load_settings()
    require_servers(settings)
    _refuse_taken(port)
    home = prepare_dagster_home(settings)
    if settings.profile != "local":
        _reach_storage(settings)
    screen = console.err()
    screen.print(f"Dagster's UI: http://{HOST}:{port} (in about 20 s; Ctrl-C ends it)")
    screen.print(runs_place(settings, home), style="dim", markup=False)
    level = "debug" if verbose else "warning"
    raise typer.Exit(_serve(dagster_command(port, level)))


def runs_place(settings: "Settings", home: "Path") -> str:
    """Say where runs are kept, and what configures that."""
    where = home if settings.profile == "local" else f"PostgreSQL ({settings.postgres_url})"
    return f"Runs are kept in {where}, configured by {home / 'dagster.yaml'}"


def _reach_storage(settings: "Settings") -> None:
    """Log in to Dagster's database once: where it can't be, Dagster would show a traceback."""
    import psycopg2

    from dataplatform.resources.servers import find_servers

    try:
        psycopg2.connect(find_servers(settings).lock_dsn()).close()
    except psycopg2.OperationalError as error:
        look = "dp stack status, dp stack logs postgres; " if settings.profile == "stack" else ""
        # Its own text may repeat the connection string.
        raise UserError(
            f"PostgreSQL at {settings.postgres_url} does not answer, or refuses the login that Vault"
            f" has at postgres/dagster. Remedy: {look}check DATAPLATFORM_POSTGRES_URL."
        ) from error


def dagster_command(port: int, level: str) -> list[str]:
    """Return the command that serves the UI of this code location."""
    return [
        *(sys.executable, "-m", "dataplatform.cli.dagster_dev", "dev"),
        *("--module-name", "dataplatform.definitions"),
        *("--host", HOST, "--port", str(port)),
        *("--log-level", level, "--code-server-log-level", level),
    ]


def _refuse_taken(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"Port {port} can't be had ({error.strerror}): perhaps a UI runs already."
                f" Remedy: open http://{HOST}:{port}, or dp ui --port {port + 1}."
            ) from None


def _serve(command: list[str]) -> int:
    """Run `command` until it ends or this process is told to end; returns the exit code.

    The handlers are set before the start, since a child inherits ignored signals: a script that
    starts `dp ui &` ignores SIGINT, and Dagster would then leave its services behind. The session
    is its own so that Ctrl-C reaches Dagster once, from here.
    """
    told: list[int] = []

    def _end(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        process.terminate()

    previous = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603  our own command
    for number in previous:
        signal.signal(number, _end)
    try:
        code = _wait(process, told)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0 if told else code


def _wait(process: "subprocess.Popen[bytes]", told: list[int]) -> int:
    while process.poll() is None:
        try:
            # A signal's handler runs, then the wait goes on: so it is cut into pieces.
            process.wait(GRACE_SECONDS if told else 1.0)
        except subprocess.TimeoutExpired:
            if told:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode
