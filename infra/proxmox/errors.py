"""What can go wrong with a Proxmox host: each error names what was asked, the cause, the remedy.

Proxmox tells most failures by text alone: a machine that is not there is HTTP 500, a task that fails
was started by HTTP 200. `CAUSES` reads these texts; it serves answers and tasks alike.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class ProxmoxError(RuntimeError):
    """Something that a Proxmox host did not do. The message holds no secret.

    Args:
        subject: what was asked for.
        cause: why it failed, in a sentence.
        remedy: what to do, in a sentence.
    """

    transient = False
    """Whether the same request may succeed in a moment."""

    def __init__(self, subject: str, cause: str, remedy: str) -> None:
        super().__init__(f"{subject}: {cause.rstrip('. ')}. Remedy: {remedy.rstrip('. ')}.")
        self.subject = subject
        self.cause = cause
        self.remedy = remedy


class UnreachableError(ProxmoxError):
    """No connection, no answer, or one from a proxy in between."""

    transient = True


class CertificateError(ProxmoxError):
    """The host's certificate is not the one that is trusted."""


class LoginError(ProxmoxError):
    """The API token is unknown, wrong or expired."""


class PrivilegeError(ProxmoxError):
    """The API token lacks a privilege."""


class InvalidRequestError(ProxmoxError):
    """The host does not accept a parameter."""


class UnreadableAnswerError(ProxmoxError):
    """The answer is not what Proxmox's API gives."""


class HostError(ProxmoxError):
    """The host refused or failed for a reason of its own."""


class LockTimeoutError(HostError):
    """Something else holds a lock of the host for a moment."""

    transient = True


class TaskBusyError(HostError):
    """A task ended because something else held a lock; it did nothing and may be started anew."""


class LockedError(HostError):
    """The machine is locked by a longer operation, such as a backup."""


class QuorumError(HostError):
    """The host's configuration is read-only: the cluster has no quorum."""


class NoSpaceError(HostError):
    """A storage is full."""


class StorageError(HostError):
    """A storage is absent, offline, or does not take this content."""


class NotFoundError(HostError):
    """What was asked for is not there."""


class AlreadyError(HostError):
    """What was to be made, started or removed is so already."""


class ChangedError(HostError):
    """Someone else changed the machine since it was read."""


class ProtectedError(HostError):
    """The machine is protected from removal."""


class ShrinkError(HostError):
    """A disk was to become smaller."""


class StartError(HostError):
    """The machine does not start."""


class ChecksumError(HostError):
    """The downloaded image is not the one that was asked for."""


class DownloadError(HostError):
    """The host can't download the image."""


class TaskTimeoutError(ProxmoxError):
    """A task runs longer than it may; it goes on."""


class ForeignMachineError(ProxmoxError):
    """A machine of someone else stands where one of ours belongs."""


class ForeignChangesError(ProxmoxError):
    """Applying ours would apply changes that someone else prepared."""


class StalePlanError(ProxmoxError):
    """A plan was made for another state or another specification."""


class NotAllowedError(ProxmoxError):
    """Something would be destroyed that was not named."""


class PreflightError(ProxmoxError):
    """The host can't carry what the specification asks for."""


class UnreachableMachineError(ProxmoxError):
    """A machine runs but its SSH server does not answer."""


@dataclass(frozen=True)
class Cause:
    """How a failure is recognised.

    Attributes:
        pattern: found in Proxmox's text, whatever its case.
        error: what it becomes.
        remedy: what to do; groups of the pattern may be named in it.
    """

    pattern: str
    error: type[ProxmoxError]
    remedy: str


CAUSES: Final = (
    Cause(
        r"can't lock file|unable to acquire lock|got lock timeout|lock .*timed? ?out|got timeout$",
        LockTimeoutError,
        "wait for the host's running tasks (`dp infra status` or the task list in its UI), then run again",
    ),
    Cause(
        r"is locked \((?P<lock>[\w-]+)\)",
        LockedError,
        "let the {lock} end; if none runs any more, `qm unlock VMID` on the host",
    ),
    Cause(
        r"no quorum|cluster not ready",
        QuorumError,
        "bring the other nodes back, or on a single host `pvecm expected 1`",
    ),
    Cause(
        r"mis{1,2}match.*file change|detected modified configuration",
        ChangedError,
        "look at what changed with `dp infra plan`, then apply that plan",
    ),
    Cause(
        r"checksum mismatch|checksum.*(fail|differ)",
        ChecksumError,
        "compare image.checksum with the publisher's list; a `latest` URL changes, a dated one does not",
    ),
    Cause(
        r"no space left|not enough (free )?space|insufficient free space|out of space|data space.*full|"
        r"thin pool.*(full|free space|queue_if_no_space|out-of-data)|free extents",
        NoSpaceError,
        "free space on the storage (`pvesm status`, `lvs`), or choose smaller disks before they are made",
    ),
    Cause(
        r"metadata.*(full|exhausted|no space)",
        NoSpaceError,
        "extend the pool's metadata on the host: `lvextend --poolmetadatasize +1G pve/data`",
    ),
    Cause(
        r"protection mode enabled",
        ProtectedError,
        "remove machines by `dp infra destroy NAME`, which lifts the protection of that one",
    ),
    Cause(
        r"shrinking disks|shrink",
        ShrinkError,
        "set disk_gib to at least its present size, or rebuild by --allow-destroy NAME",
    ),
    Cause(
        r"already exists|already running|already defined|already used|refusing to override existing|"
        r"not running",
        AlreadyError,
        "`dp infra plan` shows what is there now",
    ),
    Cause(
        r"bridge '?(?P<bridge>\w+)'? does not exist|no such bridge",
        StartError,
        "the network was not applied: run `dp infra apply`, and look at the SDN's status in the UI",
    ),
    Cause(
        r"not configured for content-type|does not support (vm images|.*content)|content type needs",
        StorageError,
        "let the storage take it: `pvesm set STORAGE --content ...` (docs/infra.md#the-storages)",
    ),
    Cause(
        r"storage '?(?P<storage>[\w.-]+)'? (does not exist|is not (online|available|active)|is disabled)|"
        r"no such storage|connection check for storage",
        StorageError,
        "look at `pvesm status` on the host; the specification's storage.* names what we use",
    ),
    Cause(
        r"volume .*does not exist|can't find file|no such (file|volume)|failed to stat",
        NotFoundError,
        "the image or disk was removed from the storage meanwhile; run again, and it is fetched anew",
    ),
    Cause(
        r"hostname lookup|no such cluster node",
        NotFoundError,
        "host.node has to be the node's name in Proxmox: `hostname` on the host",
    ),
    Cause(
        r"configuration file .*does not exist|unable to find configuration file|does not exist",
        NotFoundError,
        "it was removed meanwhile; `dp infra plan` shows what is there now",
    ),
    Cause(
        r"KVM virtualisation configured, but not available|/dev/kvm|vmx|svm",
        StartError,
        "switch on virtualisation (VT-x or AMD-V) in the host's firmware",
    ),
    Cause(
        r"cannot allocate memory|can't allocate memory|out of memory|oom",
        StartError,
        "the host has too little free memory: use floors (--profile fits-128) or fewer machines",
    ),
    Cause(
        r"QEMU exited|start failed|unable to start",
        StartError,
        "see the task's log in the host's UI, `journalctl -u pvedaemon`, and the machine's cpu_type",
    ),
    Cause(
        r"(download|wget|url).*(fail|error|refused|resolve)|(4|5)\d\d (not found|error)|"
        r"resolve host|name resolution",
        DownloadError,
        "open image.url from the host (`wget URL`); mind its DNS and outgoing firewall",
    ),
    Cause(
        r"got signal|interrupted|unexpected status|received interrupt|task .*aborted",
        HostError,
        "someone stopped the task, or the host restarted; run again",
    ),
)


def cause_of(text: str) -> Cause | None:
    """Return what is known about a text of Proxmox, or None."""
    return next((cause for cause in CAUSES if re.search(cause.pattern, text, re.IGNORECASE)), None)


def error_from_text(subject: str, text: str) -> ProxmoxError:
    """Return the error that a text of Proxmox stands for."""
    cause = cause_of(text)
    if cause is None:
        return HostError(subject, text, "see the host's task list and `journalctl -u pvedaemon`")
    found = re.search(cause.pattern, text, re.IGNORECASE)
    named = {key: value or "it" for key, value in (found.groupdict() if found else {}).items()}
    return cause.error(subject, text, cause.remedy.format_map(named))


_GATEWAY: Final = frozenset({408, 429, 502, 503, 504, 595, 596, 597, 598, 599})
"""Codes of proxies, and AnyEvent's own from 595 on: connecting, TLS, sending or reading broke."""


def error_from_answer(
    subject: str, status: int, text: str, fields: Mapping[str, str] | None
) -> ProxmoxError:
    """Return the error that an answer of Proxmox stands for.

    Args:
        subject: what was asked for.
        status: HTTP's code.
        text: the reason that Proxmox gives.
        fields: what it says of each parameter.
    """
    text = text.strip() or "no reason given"
    if status in _GATEWAY:
        remedy = "see whether pveproxy and pvedaemon run on the host, and whether it is overloaded"
        return UnreachableError(subject, f"the host answers {status} ({text})", remedy)
    if status == 401:  # noqa: PLR2004  HTTP's "Unauthorized"
        remedy = "check DATAPLATFORM_PROXMOX_TOKEN_ID (USER@REALM!NAME) and _TOKEN_SECRET, or make a token (docs/infra.md#the-token)"
        return LoginError(subject, f"the host does not accept the token ({text})", remedy)
    if status == 403:  # noqa: PLR2004  HTTP's "Forbidden"
        remedy = (
            "give it to the token's role, and the role to token and user (docs/infra.md#the-token)"
        )
        return PrivilegeError(subject, f"the token lacks a privilege ({text})", remedy)
    if status == 400 and (fields or cause_of(text) is None):  # noqa: PLR2004  HTTP's "Bad Request"
        return _invalid(subject, fields or {"parameters": text})
    if status == 501:  # noqa: PLR2004  HTTP's "Not Implemented"
        remedy = "use Proxmox VE 8.4 or later"
        return HostError(subject, f"this Proxmox does not know the call ({text})", remedy)
    return error_from_text(subject, text)


def _invalid(subject: str, fields: Mapping[str, str]) -> ProxmoxError:
    said = "; ".join(f"{name}: {' '.join(str(why).split())}" for name, why in fields.items())
    known = cause_of(said)
    remedy = (
        "mend the value in the specification; if it is right, the host's version may not know it"
    )
    if known is not None and "{" not in known.remedy:
        return known.error(subject, said, known.remedy)
    return InvalidRequestError(subject, f"the host does not accept {said}", remedy)
