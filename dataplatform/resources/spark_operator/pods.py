"""Why pods of a Spark application don't run, and what its driver says.

Reasons come from the pods' status, and from their events where the status has none. Kubernetes'
words for them: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from . import errors
from .api import KubernetesApi, Stop, Target
from .spec import (
    DRIVER_CONTAINER,
    EXECUTOR_CONTAINER,
    Manifest,
)

ROLE_LABEL: Final = "spark-role"
DRIVER: Final = "driver"
TAIL_LINES: Final = 50

_FOLLOW_SECONDS: Final = 300.0
"""A log that says nothing for so long is asked for again."""
_PAUSE: Final = 1.0
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class ProblemKind(StrEnum):
    """What keeps a pod from running, or ended it."""

    OUT_OF_MEMORY = "OutOfMemory"
    EVICTED = "Evicted"
    IMAGE = "Image"
    START = "Start"
    UNSCHEDULABLE = "Unschedulable"
    FAILED = "Failed"

    @property
    def is_blocking(self) -> bool:
        """Whether the pod has not run yet and may never."""
        return self in (ProblemKind.IMAGE, ProblemKind.START, ProblemKind.UNSCHEDULABLE)


@dataclass(frozen=True)
class Problem:
    """Why one pod does not run.

    Attributes:
        pod: its name.
        role: driver or executor.
        kind: of the reason.
        reason: Kubernetes' word, such as `ImagePullBackOff`.
        message: Kubernetes' sentence.
    """

    pod: str
    role: str
    kind: ProblemKind
    reason: str
    message: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        said = " ".join(self.message.split())
        return f"{self.role} {self.pod}: {self.reason}{f' - {said}' if said else ''}"

    def error(self, what: str, details: Iterable[str] = ()) -> errors.ApplicationFailedError:
        """Return it as the typed error of the application `what`."""
        kind, remedy = _ERRORS[self.kind]
        return kind(what, str(self), remedy, tuple(details))


_ERRORS: Final[Mapping[ProblemKind, tuple[type[errors.ApplicationFailedError], str]]] = {
    ProblemKind.OUT_OF_MEMORY: (
        errors.OutOfMemoryError,
        (
            "raise `memory_overhead` (Python and network buffers live there) or `memory`, or read less"
            " at a time"
        ),
    ),
    ProblemKind.EVICTED: (
        errors.EvictedError,
        (
            "try again; if it comes back, look at the node's memory and disk, or give the driver a"
            " priority class"
        ),
    ),
    ProblemKind.IMAGE: (
        errors.ImagePullError,
        (
            "look whether the image and its tag are in the registry, and whether `image_pull_secrets`"
            " names a secret that may read it"
        ),
    ),
    ProblemKind.START: (
        errors.PodStartError,
        (
            "look whether the secrets, keys, config maps and volumes it names exist in the namespace,"
            " and the image's user and program"
        ),
    ),
    ProblemKind.UNSCHEDULABLE: (
        errors.UnschedulableError,
        (
            "ask for fewer cores or less memory, relax node_selector, affinity and tolerations, or add"
            " nodes"
        ),
    ),
    ProblemKind.FAILED: (
        errors.ApplicationFailedError,
        "see the end of the driver's log",
    ),
}

_IMAGE: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
    }
)
_START: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"}
)
_START_CODES: Final = frozenset({"ContainerCannotRun", "StartError"})
_STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})
_NOT_MADE: Final = frozenset(
    {
        "FailedAttachVolume",
        "FailedCreatePodContainer",
        "FailedCreatePodSandBox",
        "FailedMapVolume",
        "FailedMount",
        "FailedPrepareDynamicResources",
        "NetworkNotReady",
    }
)
"""Events of a node that can't make a container, such as one without the volume's secret."""
_PULLS: Final = frozenset({"Pulling", "Pulled"})
"""Events of a node that has mounted all volumes and made the sandbox."""
_RECENT: Final = timedelta(seconds=150)
"""The kubelet tries again, and says so again, at least every 122 s."""
_SPARKS_FILES: Final = re.compile(r'configmap "[^"]+-conf-map" not found')
_SPARKS_FILES_COME: Final = timedelta(seconds=30)
"""Spark makes a driver before the config maps that it mounts; the kubelet may be there between them."""
_EVICTIONS: Final = frozenset(
    {"Evicted", "Preempting", "NodeLost", "NodeAffinity", "NodeShutdown", "Terminated", "Shutdown"}
)
_JVM_OUT_OF_MEMORY: Final = 52
"""Spark's exit code after an OutOfMemoryError (`SparkExitCode.OOM`)."""


def diagnose(pod: Manifest) -> Problem | None:
    """Return why a pod does not run, from its own status; None where it runs or ended well.

    Args:
        pod: as the API server has it.
    """
    status = pod.get("status") or {}
    return _evicted(pod, status) or _container(pod, status) or _unscheduled(pod, status)


def role(pod: Manifest) -> str:
    """Return `driver` or `executor`."""
    return (pod["metadata"].get("labels") or {}).get(ROLE_LABEL, DRIVER)


def is_waiting_to_start(pod: Manifest) -> bool:
    """Return whether a node has the pod and its container does not exist yet."""
    waiting = (_state(pod, "waiting") or {}).get("reason")
    return (pod.get("status") or {}).get("phase") == "Pending" and waiting in _STARTING


def _evicted(pod: Manifest, status: Mapping[str, Any]) -> Problem | None:
    if status.get("reason") in _EVICTIONS:
        return _problem(pod, ProblemKind.EVICTED, status["reason"], status.get("message"))
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            said = condition.get("message")
            return _problem(pod, ProblemKind.EVICTED, condition.get("reason", "Evicted"), said)
    return None


def _container(pod: Manifest, status: Mapping[str, Any]) -> Problem | None:
    waiting, ended = _state(pod, "waiting"), _state(pod, "terminated")
    if waiting and waiting.get("reason") in _IMAGE | _START:
        kind = ProblemKind.IMAGE if waiting["reason"] in _IMAGE else ProblemKind.START
        return _problem(pod, kind, waiting["reason"], waiting.get("message"))
    if ended and ended.get("exitCode") != 0:
        return _ended(pod, ended)
    if not ended and status.get("phase") == "Failed":
        return _problem(
            pod, ProblemKind.FAILED, status.get("reason") or "Failed", status.get("message")
        )
    return None


def _ended(pod: Manifest, ended: Mapping[str, Any]) -> Problem:
    reason, code = ended.get("reason") or "Error", ended.get("exitCode")
    said = f"exit code {code}. {ended.get('message') or ''}"
    if reason == "OOMKilled" or code == _JVM_OUT_OF_MEMORY:
        return _problem(pod, ProblemKind.OUT_OF_MEMORY, reason, said)
    if role(pod) == DRIVER and "deletionTimestamp" in pod["metadata"]:
        return _problem(pod, ProblemKind.EVICTED, "Deleted", f"its pod was deleted; {said}")
    kind = ProblemKind.START if reason in _START_CODES else ProblemKind.FAILED
    return _problem(pod, kind, reason, said)


def _unscheduled(pod: Manifest, status: Mapping[str, Any]) -> Problem | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _problem(
                pod, ProblemKind.UNSCHEDULABLE, "Unschedulable", condition.get("message")
            )
    return None


def _state(pod: Manifest, phase: str) -> Mapping[str, Any] | None:
    """Return how Spark's container, or one before it, is waiting or terminated."""
    status = pod.get("status") or {}
    before = status.get("initContainerStatuses") or []
    ours = [each for each in status.get("containerStatuses") or [] if _is_sparks(each["name"], pod)]
    for each in [*before, *ours]:
        found = (each.get("state") or {}).get(phase)
        if found and not (phase == "terminated" and each in before and found.get("exitCode") == 0):
            return found
    return None


def _is_sparks(name: str, pod: Manifest) -> bool:
    containers = (pod.get("spec") or {}).get("containers") or ()
    return name in (DRIVER_CONTAINER, EXECUTOR_CONTAINER) or len(containers) == 1


def _problem(pod: Manifest, kind: ProblemKind, reason: str, message: str | None) -> Problem:
    return Problem(pod["metadata"]["name"], role(pod), kind, reason, (message or "").strip())


def _last_of_the_node(events: Iterable[Manifest]) -> Manifest | None:
    """Return the event that says why a node can't make a container; None where it goes on."""
    of_node = [each for each in events if each["reason"] in _NOT_MADE | _PULLS]
    told = [each for each in of_node if not _is_early(each)]
    last = max(told, key=lambda each: (_told_at(each), each["reason"] in _PULLS), default=None)
    if last is None or last["reason"] in _PULLS or datetime.now(UTC) - _told_at(last) > _RECENT:
        return None
    return last


def _is_early(event: Manifest) -> bool:
    """Return whether a volume is missing that Spark is about to make."""
    first = datetime.fromisoformat(event["metadata"]["creationTimestamp"])
    awaited = _SPARKS_FILES.search(event.get("message") or "")
    return bool(awaited) and _told_at(event) - first < _SPARKS_FILES_COME


def _told_at(event: Manifest) -> datetime:
    """Return when an event was told last, of which each reporter has a field of its own."""
    of_series = (event.get("series") or {}).get("lastObservedTime")
    times = (of_series, event.get("lastTimestamp"), event.get("eventTime"))
    created = event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(next(filter(None, times), created))


def to_stdout(line: str) -> None:
    """Write a line where Dagster keeps what a step prints."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class PodInspector:
    """What can be learnt about the pods of one namespace.

    Args:
        api: the API server.
        namespace: where the pods are.
    """

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def problems(self, pods: Iterable[Manifest]) -> list[Problem]:
        """Return why pods don't run, the driver's reason first."""
        found = [problem for pod in pods if (problem := diagnose(pod) or self._from_events(pod))]
        return sorted(found, key=lambda problem: (problem.role != DRIVER, problem.pod))

    def _from_events(self, pod: Manifest) -> Problem | None:
        """Return why a container is not created: a volume that can't be mounted is only an event."""
        if not is_waiting_to_start(pod):
            return None
        # Not by its name, which an earlier driver of the application may have had.
        query = {"fieldSelector": f"involvedObject.uid={pod['metadata']['uid']}"}
        events = self.api.request("GET", self._target("list", "events"), query, patience=0)["items"]
        last = _last_of_the_node(events)
        if last is None:
            return None
        return _problem(pod, ProblemKind.START, last["reason"], last.get("message"))

    def log_tail(self, pod: str, lines: int = TAIL_LINES) -> list[str]:
        """Return the last lines of a driver's log.

        Raises:
            KubernetesApiError: there is no such pod or container, or it can't be read.
        """
        query = {"tailLines": str(lines), "container": DRIVER_CONTAINER}
        return self.api.text(self._target("get", "pods/log", pod), query).splitlines()

    def follow_log(self, pod: str, stop: Stop) -> Iterator[str]:
        """Yield the lines of a driver's log until the container has ended, or until `stop`.

        A stream that is dropped goes on after the last line that was seen: none is repeated and
        none is left out, while the node still has them.

        Raises:
            KubernetesApiError: there is no such pod or container, or it can't be read.
        """
        seen = _Seen()
        while not stop.is_set():
            query = {"follow": "true", "timestamps": "true", "container": DRIVER_CONTAINER}
            query |= {"sinceTime": seen.last} if seen.last else {}
            try:
                target = self._target("get", "pods/log", pod)
                with self.api.stream(target, query, _FOLLOW_SECONDS, stop) as lines:
                    yield from seen.new(lines)
            except errors.ApiServerUnreachableError:
                stop.wait(_PAUSE)
                continue
            except errors.InvalidApplicationError as error:
                # 400: the container is not there yet.
                if "waiting to start" not in str(error):
                    raise
            if self._has_ended(pod):
                return
            stop.wait(_PAUSE)

    def _has_ended(self, pod: str) -> bool:
        """Return whether the driver writes no more lines."""
        try:
            found = self.api.request("GET", self._target("get", "pods", pod), patience=0)
        except errors.ApiServerUnreachableError:
            return False
        except errors.ApplicationNotFoundError:
            return True
        return found["status"].get("phase") in ("Succeeded", "Failed") or bool(
            _state(found, "terminated")
        )

    def _target(self, verb: str, resource: str, name: str | None = None) -> Target:
        return Target(verb, resource, self.namespace, name)


class _Seen:
    """Which lines of a log were seen, by their timestamps.

    `sinceTime` has whole seconds only, and several lines may have one timestamp: so a stream that
    is opened again begins with lines that were seen. A line without a timestamp is the kubelet's own,
    such as `unable to retrieve container logs for …`.
    """

    def __init__(self) -> None:
        self.last = ""
        self._lines_then = 0
        self._kubelets = ""

    def new(self, lines: Iterable[str]) -> Iterator[str]:
        known, lines_then = self.last, self._lines_then
        for line in lines:
            timestamp, _, text = line.partition(" ")
            if not _TIMESTAMP.fullmatch(timestamp):
                if line != self._kubelets:
                    self._kubelets = line
                    yield line
                continue
            if known and _order(timestamp) < _order(known):
                continue
            if timestamp == known and lines_then > 0:
                lines_then -= 1
                continue
            self._lines_then = self._lines_then + 1 if timestamp == self.last else 1
            self.last = timestamp
            yield text


def _order(timestamp: str) -> tuple[str, str]:
    """Return a key that sorts RFC 3339 in UTC, whose fractions have any number of digits."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


class LogStream:
    """A driver's log, written on by a thread that nothing waits for longer than it says.

    Args:
        inspector: reads the log.
        pod: the driver's.
        write: takes each line.
    """

    def __init__(
        self, inspector: PodInspector, pod: str, write: Callable[[str], None] = to_stdout
    ) -> None:
        self._inspector = inspector
        self._pod = pod
        self._write = write
        self._stop = Stop()
        self._thread = threading.Thread(target=self._run, name=f"log of {pod}", daemon=True)
        self.failure: errors.SparkOperatorError | None = None

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def finish(self, seconds: float) -> None:
        """Wait for the last lines, at most so long, and end."""
        self._thread.join(seconds)
        self._stop.set()
        self._thread.join(1)

    def _run(self) -> None:
        try:
            for line in self._inspector.follow_log(self._pod, self._stop):
                self._write(line)
        except errors.SparkOperatorError as error:
            self.failure = error
