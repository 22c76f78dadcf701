"""What can go wrong on the way to a cluster; each error names cause and remedy."""

from typing import ClassVar


class KubesprayError(RuntimeError):
    """The cluster is not as wanted.

    Args:
        cause: what is wrong.
        remedy: what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause.rstrip('.')}. Remedy: {remedy.rstrip('.')}.")
        self.cause = cause
        self.remedy = remedy


class InventoryError(KubesprayError):
    """The specification has machines of which no cluster can be made, or names one that is none."""


class SourceError(KubesprayError):
    """Kubespray's pinned release can't be had, or is not what was pinned."""


class EnvironmentSetupError(KubesprayError):
    """Ansible's own environment can't be made."""


class BusyError(KubesprayError):
    """Another run is at work on the same cluster."""


class PlaybookError(KubesprayError):
    """Ansible ended before it reached a machine: a playbook or an option that it can't read."""


class TaskFailedError(KubesprayError):
    """A task failed on a machine."""

    exit_code = 3


class UnreachableError(KubesprayError):
    """A machine can't be reached."""

    exit_code = 4


class InterruptedRunError(KubesprayError):
    """Someone pressed Ctrl-C, or ended the process."""

    exit_code = 130


class KubeconfigError(KubesprayError):
    """The kubeconfig can't be fetched, or not be merged into what is there."""
