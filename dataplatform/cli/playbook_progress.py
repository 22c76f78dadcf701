"""What `dp infra kubernetes` shows while Ansible works: a line for each play, below it the task."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dataplatform.cli.console import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from infra.kubespray.events import Event, HostResult

_SHOWN = 200
"""Characters of a failure's message; the log has all of it."""


class PlaybookView:
    """Shows the events of playbooks; lines only where the screen is no terminal."""

    def __init__(self, screen: "Console") -> None:
        self.screen = screen
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._plays = 0
        self._play: tuple[int, str] | None = None
        self._began = time.monotonic()
        self._tasks = self._changed = 0

    @contextmanager
    def playbook(self, name: str) -> Generator[None]:
        """Show one playbook: what it is, its plays, and how long it took."""
        self.screen.print(f"[bold]{name}[/]")
        began = time.monotonic()
        with self._live():
            yield
            self._end_play()
        self.screen.print(f"[green]✓[/] {name} [dim]{_duration(time.monotonic() - began)}[/]")

    @contextmanager
    def _live(self) -> Generator[None]:
        if not self.screen.is_terminal:
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
        text = TextColumn("[dim]{task.description}[/]", table_column=rest)
        with Progress(*columns, text, console=self.screen, transient=True, expand=True) as progress:
            self._progress, self._bar = progress, progress.add_task("starting Ansible", total=None)
            try:
                yield
            finally:
                self._progress = self._bar = None

    def on_event(self, event: "Event") -> None:
        """Take in one event."""
        from infra.kubespray.events import HostResult, PlaybookStarted, PlayStarted

        if isinstance(event, PlaybookStarted):
            self._plays, self._play = event.plays, None
            self._update(total=event.plays)
        elif isinstance(event, PlayStarted):
            self._start_play((event.number, event.name))
        elif isinstance(event, HostResult):
            self._on_result(event)
        else:
            self._tasks += 1
            self._update(description=f"task {self._tasks}: {event.name}")

    def _start_play(self, play: tuple[int, str]) -> None:
        if play == self._play:  # The next batch of machines.
            return
        self._end_play()
        self._play, self._began = play, time.monotonic()
        self._tasks = self._changed = 0
        self._update(completed=play[0] - 1, description=play[1])

    def _end_play(self) -> None:
        if self._play is None:
            return
        from rich.markup import escape

        number, name = self._play
        self._play = None
        width = len(str(self._plays))
        did = [counted(self._tasks, "task"), f"{self._changed} changed"]
        did.append(_duration(time.monotonic() - self._began))
        line = f"  {number:>{width}}/{self._plays} {escape(name)} [dim]{', '.join(did)}[/]"
        self.screen.print(line)

    def _on_result(self, result: "HostResult") -> None:
        from rich.markup import escape

        if result.status == "changed":
            self._changed += 1
        elif result.status == "retry":
            self._update(description=f"{result.task}: {result.host} tries again, {result.message}")
        elif result.is_failure:
            said = " ".join(result.message.split())[:_SHOWN]
            what = f"{result.host}: {result.task}: {said}"
            self.screen.print(f"  [red]✗[/] {escape(what)}")

    def _update(self, **fields: object) -> None:
        if self._progress is not None and self._bar is not None:
            from rich.markup import escape

            if isinstance(text := fields.get("description"), str):
                fields["description"] = escape(text)
            self._progress.update(self._bar, **fields)  # ty: ignore[invalid-argument-type]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
