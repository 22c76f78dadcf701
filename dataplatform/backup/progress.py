"""Who is told how far a backup or a restoration is."""

from typing import Protocol


class Progress(Protocol):
    """Shows steps, one after the other."""

    def step(self, what: str) -> None:
        """Take note that a step begins, and that the one before is done."""

    def expect(self, total: int) -> None:
        """Take note of how many objects this step has."""

    def advance(self, count: int) -> None:
        """Take note that so many more are done; called from several threads."""
