"""What the driver told, and whether that is all: the errors of an application whose state is well."""

import contextlib
from collections.abc import Mapping
from typing import Any, Final

from . import errors
from .client import Application
from .messages import PipesFolder
from .states import ApplicationState as State

_RAN: Final = frozenset({State.RUNNING, State.SUCCEEDING, State.FAILING, State.COMPLETED})
AGAIN: Final = frozenset(
    {State.PENDING_RERUN, State.INVALIDATING, State.SUSPENDING, State.SUSPENDED, State.RESUMING}
)
"""A driver follows; another one may have been before."""


class OneDriver:
    """Sees to it that all messages of an application are of one driver.

    Each driver numbers its messages from 1: those of a second one overwrite, or seem to continue,
    those of the first. Which driver was seen to run is kept beside the messages, for whoever takes
    the application over.

    Args:
        folder: of the application's messages.
        is_new: whether the application was submitted just now.
    """

    def __init__(self, folder: PipesFolder, is_new: bool) -> None:
        self._folder = folder
        self._kept = None if is_new else folder.read_driver()
        self._known = self._kept

    def check(self, app: Application, has_opened: bool) -> None:
        """Look at an application as it is now.

        Args:
            app: as it was seen last.
            has_opened: whether a driver has opened Pipes.

        Raises:
            DriverRestartedError: its driver has run, and another one follows.
        """
        # A message may be newer than what was seen of the application: it tells nothing of a state
        # in which no driver is.
        ran = app.state in _RAN or (has_opened and app.state is State.SUBMITTED)
        if self._known and (app.state in AGAIN or app.submission != self._known):
            raise _restarted(app)
        if ran and self._kept is None:
            self._known = app.submission
            # A store that does not answer now is asked again at the next look.
            with contextlib.suppress(errors.MessagesUnreadableError):
                self._folder.write_driver(app.submission)
                self._kept = app.submission


def _restarted(app: Application) -> errors.DriverRestartedError:
    return errors.DriverRestartedError(
        f"{app.namespace}/{app.name}",
        f"its driver had run when others started it again or held it back ({app.state.name}), and"
        " the messages of two drivers can't be told apart",
        "try again, which submits a new application; leave restarts to Dagster's retries, and look"
        " who changed, suspended or preempted it: a person, or a queue such as Kueue",
    )


def unreadable(what: str, failure: Exception) -> errors.SparkOperatorError:
    """Return why messages could not be read or handled."""
    if isinstance(failure, errors.SparkOperatorError):
        return failure
    return errors.MessagesUnreadableError(
        what,
        f"a message of the driver could not be handled: {type(failure).__name__}: {failure}",
        "use the same release of dagster-pipes in the driver's image as here",
    )


def reported(what: str, exception: Mapping[str, Any]) -> errors.SparkOperatorError:
    """Return the exception by which the driver closed Pipes."""
    said, lines = _raised(exception)
    return errors.DriverReportedError(
        what,
        f"the driver ended with exit code 0 although it failed: {said}",
        "let the exception pass through the program, so that it ends with an exit code",
        lines,
    )


def raised(
    failure: errors.SparkOperatorError, exception: Mapping[str, Any] | None
) -> errors.SparkOperatorError:
    """Return why a driver failed, with the exception by which it closed Pipes.

    After the exception Spark still logs its own end, which may be longer than the lines that are shown.
    A failure that Kubernetes explains, such as a lack of memory, stays as it is.

    Args:
        failure: as operator and pods tell it.
        exception: None where Pipes was closed without one, or not at all.
    """
    if not exception or type(failure) is not errors.ApplicationFailedError:
        return failure
    said, lines = _raised(exception)
    return errors.ApplicationFailedError(
        failure.what,
        f"the driver failed: {said}",
        "correct the program, or what it reads, as the exception says; the whole log is the step's"
        " compute log",
        [*lines, *failure.details],
    )


def _raised(exception: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return an exception in a line, and the other lines with its stack.

    Pipes tells it as Python ends a stack: the type with its module, then the message.
    """
    said = str(exception.get("message") or "").strip() or str(exception.get("name"))
    first, *others = said.splitlines()
    if others and others[0].startswith(": "):
        # Py4J: "An error occurred while calling o12.parquet.", and Java's exception in the next line.
        first = first.rstrip(".") + others.pop(0)
    stack = [line.rstrip() for line in exception.get("stack") or ()]
    return first, [*others, *stack]


def incomplete(what: str, opened: bool, details: list[str]) -> errors.SparkOperatorError:
    """Return that the last message is missing, or all are."""
    if opened:
        cause = "the driver ended well but did not close Dagster Pipes: messages may be missing"
    else:
        cause = "the driver ended well but sent no Pipes message at all"
    return errors.MessagesIncompleteError(
        what,
        cause,
        "open Pipes in the driver by `with open_dagster_pipes(context_loader=PipesS3ContextLoader(s3),"
        " message_writer=PipesS3MessageWriter(s3))`, and let the block end before the process does",
        details,
    )
