"""`dp backup` and `dp restore`: what the servers of the stack hold, saved and brought back."""

import functools
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, counted, size_text, user_errors
from dataplatform.cli.home import load_settings

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from dataplatform.profiles import Settings

_P = ParamSpec("_P")
_R = TypeVar("_R")
_SHOWN = 10
"""Of what is missing, so many lines are shown."""


def _backup_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let what went wrong with a backup or a server end as one line."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        import psycopg2

        from dataplatform.backup.folder import BackupError
        from dataplatform.stack.layout import StackError

        try:
            return command(*args, **kwargs)
        except (BackupError, StackError) as error:
            raise UserError(str(error)) from error
        except psycopg2.OperationalError as error:
            # Its own text may repeat the connection string.
            raise UserError(
                "PostgreSQL does not answer. Remedy: dp stack status, dp stack logs postgres."
            ) from error

    return user_errors(_guarded)


@_backup_errors
def backup(
    target: Annotated[
        str, typer.Argument(metavar="FOLDER", help="New folder or s3://bucket/path.")
    ],
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Copy the objects of the lake as well.")
    ] = False,
) -> None:
    """Back up the stack: Iceberg's catalog, Dagster, Vault, and the list of the lake's objects.

    Runs may go on meanwhile. An s3:// target takes AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY. Vault's seal key and root token are not in it: keep them elsewhere.
    Example: dp backup /backups/2026-01-31 --with-data
    """
    from dataplatform.backup.create import back_up
    from dataplatform.backup.folder import open_backup
    from dataplatform.backup.servers import open_servers

    home = _stack_settings().home
    os.umask(0o077)  # What is written is for nobody else.
    with open_servers(home) as servers, _steps() as steps:
        folder = open_backup(target, os.environ, new=True)
        manifest, missing = back_up(servers, folder, steps, with_data=with_data)
        layout = servers.layout
    objects, size = sum(b.objects for b in manifest.buckets), sum(b.size for b in manifest.buckets)
    screen = console.err()
    how = "copied" if with_data else "listed"
    objects_text = f"{counted(objects, 'object')} {how} ({size_text(size)})"
    relations = counted(len(manifest.tables), "relation")
    screen.print(f"{folder}: {relations}, {objects_text}.", style="green")
    if manifest.vault:
        keys = f"{layout.seal_key.name} and {layout.root_token.name} of {layout.root}"
        screen.print(f"Vault's snapshot is of no use without {keys}: keep them elsewhere.")
    _report("files that tables need are missing in the lake", missing)


@_backup_errors
def restore(
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder or s3://bucket/path.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what the stack holds.")] = False,
    vault_token_file: Annotated[
        Path | None,
        typer.Option(
            help="vault-root-token of the stack that was backed up, if another.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only read the backup to its end.")
    ] = False,
    despite_daemon: Annotated[
        bool, typer.Option("--despite-daemon", help="Also where Dagster's daemon seems to run.")
    ] = False,
) -> None:
    """Bring a backup back into a stack that is up; end `dp ui` and all runs first.

    The backup is checked first, and the tables' files afterwards: what is missing is listed, and
    the exit code is 1. Example: dp restore /backups/2026-01-31
    """
    from dataplatform.backup.folder import open_backup
    from dataplatform.backup.restore import restore as bring_back
    from dataplatform.backup.restore import verify
    from dataplatform.backup.servers import open_servers

    folder = open_backup(source, os.environ)
    if check:
        with _steps() as steps:
            manifest = verify(folder, steps)
        console.err().print(f"{folder} of {manifest.created_at:%F %T}Z is whole.", style="green")
        return
    settings = _stack_settings()
    with open_servers(settings.home) as servers, _steps() as steps:
        done = bring_back(
            servers,
            folder,
            steps,
            force=force,
            token=vault_token_file,
            despite_daemon=despite_daemon,
        )
        if done.manifest.vault:
            _restart(settings.home, steps)
    text = f"Restored the backup of {done.manifest.created_at:%F %T}Z."
    console.err().print(text, style="green")
    _report("objects are neither in the backup nor in the buckets", done.lost)
    _report("files that tables need are missing", done.missing)


def _restart(home: Path, steps: "_Steps") -> None:
    """Restart the servers that hold secrets of the Vault before."""
    from dataplatform.stack.runner import Stack

    stack = Stack(home)
    for server in ("catalog", "trino"):
        if any(one.name == server and one.state != "given" for one in stack.status()):
            stack.restart(server, lambda name, what: steps.step(f"{name}: {what}"))


def _stack_settings() -> "Settings":
    settings = load_settings()
    if settings.profile != "stack":
        raise UserError(
            f"The profile is {settings.profile}; a backup is of the profile stack. Remedy: export"
            " DATAPLATFORM_PROFILE=stack; a local lake is a folder, to be copied (docs/backup.md)."
        )
    return settings


def _report(what: str, found: Sequence[str]) -> None:
    if not found:
        return
    screen = console.err()
    for line in found[:_SHOWN]:
        screen.print(line, markup=False)
    more = f" ({len(found) - _SHOWN:,} more)" if len(found) > _SHOWN else ""
    raise UserError(f"{len(found):,} {what}{more}. Remedy: docs/backup.md, what is missing.")


class _Steps:
    """Shows each step as a bar."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def step(self, what: str) -> None:
        """Complete the bar of the step before and begin the next."""
        self.end()
        self._task = self._bars.add_task(what, total=None)

    def expect(self, total: int) -> None:
        """Give the bar its length."""
        if self._task is not None:
            self._bars.update(self._task, total=total)

    def advance(self, count: int) -> None:
        """Move the bar on."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def end(self) -> None:
        """Complete the last bar."""
        if self._task is not None:
            total = self._bars.tasks[-1].total or 1
            self._bars.update(self._task, total=total, completed=total)

    def discard(self) -> None:
        """Remove the last bar: of a step that failed, the error says what there is to say."""
        if self._task is not None:
            self._bars.remove_task(self._task)


@contextmanager
def _steps() -> "Generator[_Steps]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console.err()) as bars:
        steps = _Steps(bars)
        try:
            yield steps
        except BaseException:
            steps.discard()
            raise
        steps.end()
