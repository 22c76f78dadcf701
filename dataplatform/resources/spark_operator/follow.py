"""Follow one application to its final state, within the deadline of each state.

Threads watch the application, look at its pods and ask Spark how far it is; all they find comes
through one queue, so that whoever follows wakes at once and is never blocked by a request.
"""

import contextlib
import json
import logging
import queue
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from . import errors
from .api import Clock, Stop, classify
from .client import Application, SparkApplicationClient
from .pods import (
    DRIVER,
    LogStream,
    PodInspector,
    Problem,
    ProblemKind,
    role,
    to_stdout,
)
from .progress import Progress, SparkUi
from .spec import Manifest
from .states import ApplicationState, Deadlines

TICK_SECONDS: Final = 1.0
LOG_SECONDS: Final = 5.0
"""The last lines of a log may come so late after the driver's end."""
UNTOUCHED_SECONDS: Final = 60.0
"""An operator with work for all of its workers takes longer; one that is absent is told of so late."""
_EXCERPT: Final = 2000
_SHORTEST: Final = 0.01
_DELETED: Final = re.compile(r"driver pod not found|ExitCode: (137|143), Reason: (Error)?$")
"""What the operator says of a driver whose pod was deleted: ended by SIGTERM, by SIGKILL, or gone."""
_NEW = ApplicationState.NEW
_RUNNING = ApplicationState.RUNNING
_QUOTA: Final = re.compile(r"\bpods\b.* is forbidden: exceeded quota")
"""What Spark's ExecutorPodsAllocator writes."""
_LAST_WORDS: Final = frozenset({ProblemKind.EVICTED, ProblemKind.OUT_OF_MEMORY})
"""Why a driver's pod may be gone before its application has failed."""

Log = logging.Logger | logging.LoggerAdapter
Write = Callable[[str], None]


@dataclass(frozen=True)
class Following:
    """How applications are followed.

    Attributes:
        deadlines: of their states.
        stream_log: whether the driver's log is followed.
        write: takes the lines of the driver's log; by default they go to standard output, which
            Dagster keeps as the step's compute log.
        progress_seconds: between two questions to Spark how far it is; None, it is not asked.
        poll_seconds: between two looks for messages.
        pod_seconds: between two looks at the pods.
    """

    deadlines: Deadlines = field(default_factory=Deadlines)
    stream_log: bool = True
    write: Write = to_stdout
    progress_seconds: float | None = 30
    poll_seconds: float = 1.0
    pod_seconds: float = 5.0


@dataclass(frozen=True)
class PodsSeen:
    """What one look at an application's pods found."""

    problems: Sequence[Problem]
    running_executors: int


@dataclass(frozen=True)
class Woken:
    """Something happened elsewhere that the follower's owner wants to look at."""


Signal = Application | PodsSeen | Progress | errors.SparkOperatorError | Woken


@dataclass
class Timeline:
    """When an application reached its states, in seconds since it was followed.

    Attributes:
        reached: the first time in each state.
        clock: of the present state.
    """

    reached: dict[ApplicationState, float] = field(default_factory=dict)
    clock: Clock = field(default_factory=lambda: Clock(None))
    total: Clock = field(default_factory=lambda: Clock(None))

    def enter(self, state: ApplicationState, limit: float | None) -> None:
        """Begin a state that may last `limit` seconds."""
        self.reached.setdefault(state, self.total.seconds)
        self.clock = Clock(limit)

    def metadata(self) -> dict[str, float]:
        """Return seconds until the driver ran and until the end, as metadata of Dagster."""
        found = {"spark/seconds": round(self.total.seconds, 1)}
        if _RUNNING in self.reached:
            found["spark/seconds_to_driver"] = round(self.reached[_RUNNING], 1)
        return found


class Follower:
    """Follows one application.

    Args:
        client: of the application's namespace.
        application: as it was when it was submitted or found.
        following: how.
        log: told of each change of state, problem and progress.
    """

    def __init__(
        self,
        client: SparkApplicationClient,
        application: Application,
        following: Following,
        log: Log,
    ) -> None:
        self.client = client
        self.application = application
        self.following = following
        self.deadlines = following.deadlines
        self.log = log
        self.progress: Progress | None = None
        self.timeline = Timeline()
        self._inspector = PodInspector(client.api, client.namespace)
        self._signals: queue.SimpleQueue[Signal] = queue.SimpleQueue()
        self._stop = Stop()
        self._stream: LogStream | None = None
        self._submission_of_stream = ""
        self._quota_line = ""
        self._last_words: Problem | None = None
        self._blocked: dict[tuple[str, ProblemKind], Clock] = {}
        self._told: set[tuple[str, ProblemKind]] = set()
        self._told_untouched = False
        self._progress_seconds = following.progress_seconds

    def __enter__(self) -> "Follower":
        """Begin to follow."""
        self.timeline.enter(self.application.state, self.deadlines.of(self.application.state))
        for run in (self._watch, self._scout):
            name = f"{run.__name__.strip('_')} of {self.application.name}"
            threading.Thread(target=run, name=name, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End all threads; waits for none."""
        self._stop.set()
        self._finish_log(0)

    def wake(self) -> None:
        """Let `step` return at once; callable from any thread."""
        self._signals.put(Woken())

    def step(self, seconds: float = TICK_SECONDS) -> Application:
        """Wait for the next thing to happen, at most so long; returns the application.

        Raises:
            OperatorNotRunningError: nothing happened to it at all.
            StateDeadlineError: it stayed in a state for too long.
            ImagePullError: its driver's image can't be pulled.
            PodStartError: its driver can't be started.
            UnschedulableError: no node takes its driver.
            NoExecutorsError: its driver is without executors for too long.
            QuotaExceededError: the namespace's quota has no room for them.
            ApplicationNotFoundError: it was deleted.
            KubernetesApiError: it can't be followed any more.
        """
        left = max(self.timeline.clock.left, _SHORTEST)
        # Empty: nothing happened; the deadlines go on.
        with contextlib.suppress(queue.Empty):
            self._take(self._signals.get(timeout=min(seconds, left)))
        self._check_deadlines()
        return self.application

    def finish_log(self) -> None:
        """Wait a bounded time for the last lines of the driver's log."""
        if not self._stream and self.application.attempts:
            self._start_log()
        self._finish_log(LOG_SECONDS)

    def failure(self) -> errors.SparkOperatorError:
        """Return why the application FAILED: the operator's reason, the pods', the last lines."""
        app = self.application
        what = f"{app.namespace}/{app.name}"
        if app.error_message.startswith("failed to submit") or not app.attempts:
            return _submission(what, app.error_message)
        problems, details = self.diagnosis()
        for problem in [each for each in problems if each.role == DRIVER] or self._of_lost_driver():
            if problem.kind is not ProblemKind.FAILED:
                return problem.error(what, details)
        return errors.ApplicationFailedError(
            what,
            f"the driver failed: {app.error_message or 'the operator gave no reason'}",
            "see the end of the driver's log; the whole log is the step's compute log",
            details,
        )

    def _of_lost_driver(self) -> list[Problem]:
        """Return why a driver failed whose pod is gone: what was seen last, or that it was deleted."""
        app = self.application
        if self._last_words:
            return [self._last_words]
        if not _DELETED.search(app.error_message):
            return []
        return [Problem(app.driver_pod, DRIVER, ProblemKind.EVICTED, "Deleted", "its pod is gone")]

    def diagnosis(self) -> tuple[list[Problem], list[str]]:
        """Return why pods don't run, and lines about it with the end of the driver's log."""
        app = self.application
        problems: list[Problem] = []
        lines = [f"Operator: {app.state.name}: {app.error_message}"] if app.error_message else []
        try:
            problems = self._inspector.problems(self.client.pods(app.name, patience=0))
            lines += [f"Pod: {problem}" for problem in problems]
            if app.attempts and not any(each.kind.is_blocking for each in problems):
                lines += ["End of the driver's log:", *self._inspector.log_tail(app.driver_pod)]
        except errors.SparkOperatorError as error:
            lines.append(f"Not to be learnt: {error}")
        return problems, lines

    def _watch(self) -> None:
        try:
            for application in self.client.watch(self.application.name, self._stop):
                self._signals.put(application)
                if application.state.is_final:
                    return
        except errors.SparkOperatorError as error:
            self._signals.put(error)

    def _scout(self) -> None:
        """Look at the pods, and ask Spark how far it is, until the end."""
        since_progress = Clock(self._progress_seconds)
        while not self._stop.wait(self.following.pod_seconds):
            try:
                self._signals.put(self._look_at_pods())
                if since_progress.is_over and self.application.state is _RUNNING:
                    since_progress = Clock(self._progress_seconds)
                    self._ask_progress()
            except errors.ForbiddenError as error:
                self.log.warning("Pods of %s can't be looked at. %s", self.application.name, error)
                return
            except errors.SparkOperatorError:
                # The watch holds the deadline for an API server that does not answer.
                continue

    def _look_at_pods(self) -> PodsSeen:
        pods = self.client.pods(self.application.name, patience=0)
        return PodsSeen(self._inspector.problems(pods), sum(map(_is_running_executor, pods)))

    def _ask_progress(self) -> None:
        app = self.application
        ui = SparkUi(self.client.api, app.namespace, app.ui_port)
        try:
            found = ui.progress(app.driver_pod, app.spark_id or "")
        except errors.ForbiddenError as error:
            self.log.info("Progress of %s is not shown. %s", app.name, error)
            self._progress_seconds = None
            return
        except (errors.SparkOperatorError, json.JSONDecodeError, KeyError):
            # The UI comes after the driver and goes before it; progress is only told, never relied on.
            return
        if found:
            self._signals.put(found)

    def _take(self, signal: Signal) -> None:
        if isinstance(signal, errors.SparkOperatorError):
            raise signal
        if isinstance(signal, Application):
            self._changed(signal)
        elif isinstance(signal, PodsSeen):
            self._judge(signal)
        elif isinstance(signal, Progress) and signal != self.progress:
            self.progress = signal
            self.log.info("%s: %s", self.application.name, signal)

    def _changed(self, now: Application) -> None:
        before, self.application = self.application, now
        if (before.state, before.submission) != (now.state, now.submission):
            lasted = self.timeline.clock.seconds
            self.timeline.enter(now.state, self.deadlines.of(now.state))
            self._blocked.clear()
            reason = f": {_excerpt(now.error_message)}" if now.error_message else ""
            self.log.info("%s: %s after %.1f s%s", now.name, now.state.name, lasted, reason)
        if before.submission != now.submission:
            self._quota_line, self._last_words = "", None
        if now.state is _RUNNING:
            self._start_log()

    def _start_log(self) -> None:
        app = self.application
        if not self.following.stream_log or self._submission_of_stream == app.submission:
            return
        self._finish_log(0)
        self._submission_of_stream = app.submission
        self._stream = LogStream(self._inspector, app.driver_pod, self._write_line)
        self._stream.start()

    def _write_line(self, line: str) -> None:
        # Executors are created by the driver: that the quota has no room, only its log tells.
        if _QUOTA.search(line):
            self._quota_line = line
        self.following.write(line)

    def _finish_log(self, seconds: float) -> None:
        stream, self._stream = self._stream, None
        if stream:
            stream.finish(seconds)
            if stream.failure:
                self.log.warning("The driver's log could not be followed. %s", stream.failure)

    def _judge(self, seen: PodsSeen) -> None:
        """Tell new problems, and give up on those that lasted too long."""
        for problem in seen.problems:
            if (problem.pod, problem.kind) not in self._told:
                self._told.add((problem.pod, problem.kind))
                self.log.warning("%s", problem)
            if problem.role == DRIVER and problem.kind in _LAST_WORDS:
                self._last_words = problem
        if seen.running_executors:
            self._quota_line = ""
        state = self.application.state
        waiting = state is ApplicationState.SUBMITTED
        starved = state is _RUNNING and not seen.running_executors
        blocking = [each for each in seen.problems if each.kind.is_blocking]
        if self._quota_line:
            blocking.append(_no_room(self.application.driver_pod, self._quota_line))
        relevant = [each for each in blocking if (waiting if each.role == DRIVER else starved)]
        self._age(relevant)

    def _age(self, problems: Iterable[Problem]) -> None:
        present = {(each.role, each.kind): each for each in problems}
        self._blocked = {
            key: self._blocked.get(key) or Clock(self._patience(problem))
            for key, problem in present.items()
        }
        for key, clock in self._blocked.items():
            if clock.is_over:
                raise self._given_up(present[key], clock)

    def _patience(self, problem: Problem) -> float:
        if problem.role != DRIVER:
            return self.deadlines.executors
        kinds = {
            ProblemKind.IMAGE: self.deadlines.image_pull,
            ProblemKind.START: self.deadlines.start,
        }
        return kinds.get(problem.kind, self.deadlines.unschedulable)

    def _given_up(self, problem: Problem, clock: Clock) -> errors.SparkOperatorError:
        app = self.application
        what = f"{app.namespace}/{app.name}"
        details = [f"Waited for {clock.seconds:.0f} s."]
        if problem.role == DRIVER:
            return problem.error(what, details)
        refused = classify(what, problem.message)
        if refused:
            return refused
        by_kind = problem.error(what)
        return errors.NoExecutorsError(
            what, f"no executor runs: {problem}", by_kind.remedy, details
        )

    def _check_deadlines(self) -> None:
        clock, app = self.timeline.clock, self.application
        if app.state is _NEW and clock.seconds > UNTOUCHED_SECONDS and not self._told_untouched:
            self._told_untouched = True
            self.log.warning(
                "%s: no operator has picked it up for %.0f s: it is busy, or does not watch the"
                " namespace %s; waiting for %.0f s more",
                *(app.name, clock.seconds, app.namespace, clock.left),
            )
        if app.state.is_final or not clock.is_over:
            return
        what = f"{app.namespace}/{app.name}"
        if app.state is _NEW:
            raise _no_operator(what, app.namespace, clock.seconds)
        _, details = self.diagnosis()
        raise errors.StateDeadlineError(
            what,
            f"{app.state.name} for {clock.seconds:.0f} s",
            _REMEDIES.get(app.state, "look at the operator's log")
            + f", or raise the deadline `{app.state.name.lower()}`",
            details,
        )


_REMEDIES: Final = {
    ApplicationState.SUBMITTED: "look at the driver's pod and its events",
    ApplicationState.RUNNING: "look at the stages in Spark's UI for the one that hangs",
    ApplicationState.SUSPENDED: "resume it, or make room in the queue that holds it back",
    ApplicationState.UNKNOWN: "look at the node of the driver's pod",
    ApplicationState.PENDING_RERUN: (
        "look for what keeps the old driver's pod or service from being deleted"
    ),
}


def _no_operator(what: str, namespace: str, seconds: float) -> errors.OperatorNotRunningError:
    return errors.OperatorNotRunningError(
        what,
        f"no Spark Operator picked it up within {seconds:.0f} s",
        f"look whether the operator's controller runs and watches the namespace {namespace}"
        f" (the chart's value `spark.jobNamespaces`): kubectl get deploy -A -l"
        " app.kubernetes.io/name=spark-operator",
    )


def _submission(what: str, message: str) -> errors.SparkOperatorError:
    """Return why `spark-submit` failed, out of the log that the operator hands on."""
    refused = classify(what, message)
    if refused:
        return refused
    return errors.SubmissionFailedError(
        what,
        f"spark-submit failed: {_cause(message)}",
        "correct the specification as the message says; the operator's log has the whole text",
        [f"Operator: {_excerpt(message)}"],
    )


def _cause(message: str) -> str:
    """Return the line that names the exception; the lines around it are Spark's start and stack."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for mark in ("Caused by:", "Exception in thread", "Error:"):
        found = [line for line in lines if mark in line]
        if found:
            return found[-1]
    return lines[-1] if lines else "no reason given"


def _excerpt(message: str) -> str:
    return message if len(message) <= _EXCERPT else f"{message[:_EXCERPT]} …"


def _no_room(driver_pod: str, line: str) -> Problem:
    of = f"of {driver_pod}"
    return Problem(of, "executor", ProblemKind.UNSCHEDULABLE, "QuotaExceeded", line)


def _is_running_executor(pod: Manifest) -> bool:
    return role(pod) != DRIVER and (pod.get("status") or {}).get("phase") == "Running"
