"""What the runner is told while Ansible works."""

import json
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "changed", "failed", "unreachable", "retry"]


@dataclass(frozen=True)
class PlaybookStarted:
    """Ansible has read the playbook.

    Attributes:
        plays: that it has.
    """

    plays: int


@dataclass(frozen=True)
class PlayStarted:
    """A play began; one that is done in batches of machines begins several times.

    Attributes:
        name: its name.
        number: from 1.
    """

    name: str
    number: int


@dataclass(frozen=True)
class TaskStarted:
    """A task began.

    Attributes:
        name: role and task.
    """

    name: str


@dataclass(frozen=True)
class HostResult:
    """What became of a task on a machine.

    Attributes:
        host: the machine.
        task: role and task.
        status: what became of it.
        message: of a failure; of a retry, which of how many.
        expected: the playbook goes on nevertheless.
    """

    host: str
    task: str
    status: Status
    message: str = ""
    expected: bool = False

    @property
    def is_failure(self) -> bool:
        """Whether the run fails by it."""
        return self.status in ("failed", "unreachable") and not self.expected


Event = PlaybookStarted | PlayStarted | TaskStarted | HostResult
_KINDS: dict[str, type[Event]] = {
    "playbook": PlaybookStarted,
    "play": PlayStarted,
    "task": TaskStarted,
    "result": HostResult,
}


def read_event(line: str) -> Event:
    """Return the event of a line that the callback wrote."""
    fields = json.loads(line)
    return _KINDS[fields.pop("event")](**fields)
