"""The states of a SparkApplication: what each means and how long it may last.

The names and their order are those of the operator's state machine
(kubeflow/spark-operator v2.5.2, `api/v1beta2/sparkapplication_types.go`).
"""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field


class ApplicationState(StrEnum):
    """What `.status.applicationState.state` may say."""

    NEW = ""
    """Created; no operator has touched it yet."""
    SUBMITTED = "SUBMITTED"
    """The driver's pod exists and does not run yet."""
    RUNNING = "RUNNING"
    SUCCEEDING = "SUCCEEDING"
    """The driver ended with exit code 0."""
    COMPLETED = "COMPLETED"
    SUBMISSION_FAILED = "SUBMISSION_FAILED"
    """`spark-submit` failed; FAILED or another attempt follows."""
    FAILING = "FAILING"
    """The driver failed; FAILED or PENDING_RERUN follows."""
    FAILED = "FAILED"
    PENDING_RERUN = "PENDING_RERUN"
    """The operator cleans up before it submits the application once more."""
    INVALIDATING = "INVALIDATING"
    """The specification was changed; the operator cleans up before PENDING_RERUN."""
    SUSPENDING = "SUSPENDING"
    SUSPENDED = "SUSPENDED"
    """Somebody, or a queue such as Kueue, holds the application back."""
    RESUMING = "RESUMING"
    UNKNOWN = "UNKNOWN"
    """The operator can't see in what phase the driver's pod is: its node may be lost."""

    @property
    def is_final(self) -> bool:
        """Whether no other state follows."""
        return self in FINAL

    @classmethod
    def parse(cls, text: str | None) -> "ApplicationState":
        """Return the state of that name; UNKNOWN for one that a newer operator may have added."""
        return cls(text or "") if (text or "") in list(cls) else cls.UNKNOWN


FINAL: Final = frozenset({ApplicationState.COMPLETED, ApplicationState.FAILED})
"""The operator leaves these only when somebody changes the specification."""

_HOUR: Final = 3600.0


class Deadlines(BaseModel):
    """Seconds that an application may stay in each state that is not final.

    They are counted anew whenever the state changes, by a clock that no time synchronisation sets.

    Attributes:
        new: until an operator touches it; the workers of a busy one submit others first.
        submitted: until the driver's container runs: scheduling, mounting, pulling the image.
        running: for the work itself.
        succeeding: until COMPLETED; a busy operator comes late (50 at once on two cores: 2.5 min).
        submission_failed: until FAILED or the next attempt.
        failing: until FAILED or the next attempt.
        pending_rerun: until it is submitted again.
        invalidating: until PENDING_RERUN.
        suspending: until SUSPENDED.
        suspended: until it is resumed; a queue may hold it long.
        resuming: until SUBMITTED.
        unknown: until the driver's node is back.
        image_pull: that an image may fail to be pulled, within `submitted`.
        start: that a container may fail to be created, within `submitted`.
        unschedulable: that no node may take the driver, within `submitted`.
        executors: that a running driver may be without any executor, while one can't start.
        unreachable: that the API server may not answer; the application goes on meanwhile.
        store: that the object store may not answer; it is asked again meanwhile.
        deletion: until an application that is deleted, and its pods, are gone.
        interrupt: the same when the run is cancelled; less than its pod's grace period of 30 s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    new: float = Field(default=900, gt=0)
    submitted: float = Field(default=1800, gt=0)
    running: float = Field(default=12 * _HOUR, gt=0)
    succeeding: float = Field(default=900, gt=0)
    submission_failed: float = Field(default=600, gt=0)
    failing: float = Field(default=600, gt=0)
    pending_rerun: float = Field(default=600, gt=0)
    invalidating: float = Field(default=300, gt=0)
    suspending: float = Field(default=300, gt=0)
    suspended: float = Field(default=12 * _HOUR, gt=0)
    resuming: float = Field(default=300, gt=0)
    unknown: float = Field(default=600, gt=0)
    image_pull: float = Field(default=180, gt=0)
    start: float = Field(default=180, gt=0)
    unschedulable: float = Field(default=900, gt=0)
    executors: float = Field(default=900, gt=0)
    unreachable: float = Field(default=300, gt=0)
    store: float = Field(default=120, gt=0)
    deletion: float = Field(default=120, gt=0)
    interrupt: float = Field(default=20, gt=0)

    def of(self, state: ApplicationState) -> float | None:
        """Return the seconds that `state` may last; None where it is final."""
        return None if state.is_final else getattr(self, state.name.lower())
