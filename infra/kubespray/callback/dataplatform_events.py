"""An Ansible callback: tells the runner what goes on, a line of JSON an event.

It runs in Ansible's own environment and imports nothing of this project.
"""

import json
import os
from typing import Any, Final

from ansible.plugins.callback import CallbackBase  # ty: ignore[import-not-found]

DOCUMENTATION = """
name: dataplatform_events
type: notification
short_description: tells the runner what goes on
description: Writes a line of JSON an event to the file descriptor that DP_EVENTS names.
"""
_KEPT: Final = 1500
"""Characters of a message."""
_ENOUGH: Final = 2


class CallbackModule(CallbackBase):
    """Writes events; what a task hides by `no_log`, Ansible has taken out before."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "dataplatform_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._descriptor = int(os.environ["DP_EVENTS"])
        self._plays: dict[str, int] = {}

    def _tell(self, event: str, **fields: object) -> None:
        line = json.dumps({"event": event, **fields}) + "\n"
        try:
            os.write(self._descriptor, line.encode())
        except BrokenPipeError:  # The runner was killed; the cluster is finished nevertheless.
            self.disabled = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Tell how many plays there are."""
        self._tell("playbook", plays=len(playbook.get_plays()))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Tell of a play; one that is done in batches starts several times."""
        number = self._plays.setdefault(play._uuid, len(self._plays) + 1)
        self._tell("play", name=play.get_name(), number=number)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Tell of a task."""
        self._tell("task", name=task.get_name())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Tell of a handler, which is a task too."""
        self._tell("task", name=task.get_name())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Tell that a machine has done a task."""
        changed = bool(result._result.get("changed"))
        self._result(result, "changed" if changed else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Tell that a task failed on a machine."""
        expected = ignore_errors or _is_rescued(result._task)
        self._result(result, "failed", _message(result._result), expected=expected)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Tell that a machine can't be reached."""
        expected = bool(result._task.ignore_unreachable)
        said = _message(result._result)
        self._result(result, "unreachable", said, expected=expected)

    def v2_runner_retry(self, result: Any) -> None:
        """Tell that a machine tries a task again."""
        found = result._result
        self._result(result, "retry", f"{found.get('attempts')} of {found.get('retries')}")

    def _result(
        self, result: Any, status: str, message: str = "", *, expected: bool = False
    ) -> None:
        self._tell(
            "result",
            host=result._host.get_name(),
            task=result._task.get_name(),
            status=status,
            message=message,
            expected=expected,
        )


def _is_rescued(task: Any) -> bool:
    """Return whether a playbook has an answer to the failure of a task."""
    block = task._parent
    while block is not None:
        if getattr(block, "rescue", None) and task not in block.rescue:
            return True
        block = getattr(block, "_parent", None)
    return False


def _message(result: dict[str, Any]) -> str:
    """Return what a failed task says: its message, and the end of what its command wrote."""
    failed = [item for item in result.get("results", ()) if item.get("failed")]
    if failed:
        return _message(failed[0])
    if "censored" in result:
        return "The playbook hides what this task says, as it may hold a secret"
    said = [result.get("msg"), *(result.get(key) for key in ("stderr", "module_stderr"))]
    written = [str(part).strip()[-_KEPT:] for part in said if part]
    if len(written) < _ENOUGH and result.get("stdout"):
        written.append(str(result["stdout"]).strip()[-_KEPT:])
    return "\n".join(dict.fromkeys(written))
