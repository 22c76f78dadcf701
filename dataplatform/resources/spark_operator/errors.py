"""One type for each way that a Spark application can fail, with its cause and remedy.

`transient` says whether the same application may succeed when it is submitted again unchanged.
"""

from collections.abc import Sequence
from typing import ClassVar


class SparkOperatorError(Exception):
    """A Spark application that could not be submitted, followed, completed or deleted.

    Args:
        what: the application or request, such as `spark/tables-1a2b3c4d-x7k2p`.
        cause: why, in a sentence without its full stop.
        remedy: what to do, in a sentence without its full stop.
        details: further lines: reasons of pods, the end of the driver's log.
    """

    transient: ClassVar[bool] = False

    def __init__(self, what: str, cause: str, remedy: str, details: Sequence[str] = ()) -> None:
        """Keep the parts and put them together into one message."""
        message = f"{what}: {cause.strip().rstrip('.')}. Remedy: {remedy.strip().rstrip('.')}."
        super().__init__("\n".join([message, *details]))
        self.what = what
        self.cause = cause
        self.remedy = remedy
        self.details = tuple(details)


class KubernetesApiError(SparkOperatorError):
    """The API server refused a request for a reason that has no type of its own.

    Attributes:
        status: the HTTP status; 0 where there was no answer.
    """

    status: int = 0


class ApiServerUnreachableError(KubernetesApiError):
    """The API server did not answer, or answered with errors of its own, for too long."""

    transient = True


class UnauthorizedError(KubernetesApiError):
    """The API server does not know who asks: the token is missing, wrong or expired."""


class ForbiddenError(KubernetesApiError):
    """A verb is missing in the RBAC role of the service account."""


class QuotaExceededError(KubernetesApiError):
    """A ResourceQuota of the namespace has no room for the application or its driver."""

    transient = True


class WebhookDeniedError(KubernetesApiError):
    """An admission webhook or policy refused the application or its pods."""


class WebhookUnavailableError(KubernetesApiError):
    """An admission webhook that has to be asked did not answer."""

    transient = True


class OperatorNotInstalledError(KubernetesApiError):
    """The API server knows no SparkApplication."""


class OperatorTooOldError(KubernetesApiError):
    """The CRD of the operator has no pod templates, in which most of an application's pods stand."""


class NamespaceNotFoundError(KubernetesApiError):
    """There is no such namespace."""


class InvalidApplicationError(KubernetesApiError):
    """The API server does not accept the specification."""


class ApplicationExistsError(KubernetesApiError):
    """Another application has the same name."""


class ApplicationNotFoundError(KubernetesApiError):
    """There is no such application, or it was deleted while it was followed."""


class DeletionTimeoutError(SparkOperatorError):
    """An application, or a pod of it, was still there when the time for its deletion was over.

    Attributes:
        left: what is still there, such as `pod spark/x-driver`.
    """

    left: tuple[str, ...] = ()


class OperatorNotRunningError(SparkOperatorError):
    """No operator picked the application up."""

    transient = True


class StateDeadlineError(SparkOperatorError):
    """The application stayed in a state that is not final for longer than that state may last."""


class DriverRestartedError(SparkOperatorError):
    """Others start the application again, or held it back, after its driver had run."""

    transient = True


class SubmissionFailedError(SparkOperatorError):
    """`spark-submit` failed within the operator; no driver ran."""


class ApplicationFailedError(SparkOperatorError):
    """The driver failed."""


class OutOfMemoryError(ApplicationFailedError):
    """The kernel killed the driver, as it used more memory than its pod may."""


class EvictedError(ApplicationFailedError):
    """The driver was thrown out: its node was drained, lost or short, or its pod was deleted."""

    transient = True


class ImagePullError(ApplicationFailedError):
    """A pod's image can't be pulled."""


class UnschedulableError(ApplicationFailedError):
    """No node takes a pod."""

    transient = True


class PodStartError(ApplicationFailedError):
    """A pod's container can't be created or started: a missing secret, volume or program."""


class NoExecutorsError(ApplicationFailedError):
    """The driver runs, but for too long none of its executors does."""

    transient = True


class MessagesIncompleteError(SparkOperatorError):
    """The driver ended, as the operator says well, but its last Pipes message is missing."""


class DriverReportedError(SparkOperatorError):
    """The driver ended with exit code 0 although its Pipes session was closed by an exception."""


class MessagesUnreadableError(SparkOperatorError):
    """The object store did not give the driver's messages, or not take its context."""

    transient = True
