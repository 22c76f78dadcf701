"""What `dp run` shows while it works: a line for each asset, and below it what is at work."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final, TextIO

from dataplatform.cli.events import Built, Failed, Retried, RunFacts, interrupts

if TYPE_CHECKING:
    from dagster import EventLogEntry
    from rich.progress import Progress, TaskID

_NAME: Final = 32
_CHANGE: Final = 24
_WIDE: Final = 84
"""A terminal that a line in columns fits into; a narrower one gets it without."""


@contextmanager
def diverted(log: Path) -> Generator[TextIO]:
    """Send what Dagster, Spark and its JVM write to a file; yields the screen to write to.

    File descriptors are diverted, not `sys.stderr` alone: the JVM knows no Python. Where `sys.stderr`
    is no file, as in a test, it is Python's streams that are.
    """
    with log.open("a", encoding="utf-8", buffering=1) as sink:
        if not _is_file(sys.stderr):
            screen = sys.stderr
            with redirect_stdout(sink), redirect_stderr(sink):
                yield screen
            return
        with _descriptors(sink) as screen:
            yield screen


@contextmanager
def on_ctrl_c(told: Callable[[], None]) -> Generator[None]:
    """Call `told` the moment Ctrl-C is pressed; to end what is at work stays its handler's task.

    Python's handlers wait until the main thread is back from Spark; the descriptor that Python wakes
    does not.
    """
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = Thread(target=_await_interrupt, args=(ours, told), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()


def _await_interrupt(woken: socket.socket, told: Callable[[], None]) -> None:
    # Each byte is a signal's number; none are left where the other end is closed.
    while numbers := woken.recv(64):
        if signal.SIGINT in numbers:
            told()
            return


@contextmanager
def _descriptors(sink: TextIO) -> Generator[TextIO]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        with os.fdopen(os.dup(2), "w", encoding="utf-8") as screen:
            for descriptor, _ in saved:
                os.dup2(sink.fileno(), descriptor)
            yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)


def _is_file(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2  # noqa: PLR2004  standard error
    except OSError:
        return False


class ProgressView:
    """Shows a run's events on `screen`; lines only where it is no terminal."""

    def __init__(self, screen: TextIO, total: int) -> None:
        """Prepare for `total` assets."""
        from rich.console import Console

        self.facts = RunFacts()
        self.total = total
        self.interrupted = False
        self.console = Console(file=screen, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def live(self) -> Generator[None]:
        """Keep the line of what is at work on the screen meanwhile."""
        if not self.console.is_terminal:
            yield
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.table import Column

        columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        # The text gives way where the terminal is narrow, not the figures.
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        text = TextColumn("[dim]{task.description}[/]", markup=True, table_column=rest)
        # `redirect_stderr` would bring what `diverted` sends to the log back onto the screen.
        with Progress(
            *columns,
            text,
            console=self.console,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as progress:
            self._progress = progress
            self._task = progress.add_task("starting", total=self.total)
            yield

    def on_event(self, entry: "EventLogEntry") -> None:
        """Take in one event of the run.

        Raises:
            KeyboardInterrupt: the event says that Ctrl-C was pressed. Dagster would go by the retry
                policy of the step, and wait.
        """
        if interrupts(entry):
            self.interrupted = True
            raise KeyboardInterrupt
        found = self.facts.note(entry)
        if isinstance(found, Built):
            narrow = self.console.is_terminal and self.console.width < _WIDE
            self.console.print(_line(found, narrow=narrow))
            self._advance()
        elif isinstance(found, Failed | Retried):
            from rich.markup import escape

            mark = "[red]✗[/]" if isinstance(found, Failed) else "[yellow]↻[/]"
            first = found.cause.splitlines()[0] if found.cause else ""
            self.console.print(f"{mark} {found.step:{_NAME}} {escape(first)}")
        elif found:
            self._describe(found)

    def _advance(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def _describe(self, text: str) -> None:
        if self._progress is not None and self._task is not None:
            from rich.markup import escape

            shown = escape(text.splitlines()[0][:100])
            self._progress.update(self._task, description=shown)


def _line(built: Built, *, narrow: bool) -> str:
    rows = "" if built.rows is None else f"{built.rows:,} rows"
    name = f"{built.group}.{built.name}"
    if narrow:
        said = " · ".join(part for part in (rows, built.change) if part)
        return f"[green]✓[/] {name}: {said} [dim]{built.seconds:.1f} s[/]"
    return f"[green]✓[/] {name:{_NAME}} {rows:>15}  {built.change:{_CHANGE}} [dim]{built.seconds:6.1f} s[/]"
