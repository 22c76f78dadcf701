"""What to do about a failure, by what Ansible says of it."""

import re
from typing import Final

from infra.kubespray.events import HostResult

_REMEDIES: Final = (
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION",
        "log in once by ssh to the host and accept its key; of a machine built anew, forget the old one",
    ),
    (
        r"Permission denied \(publickey",
        "load the key whose public half is in ssh.public_key_files: ssh-add FILE",
    ),
    (
        r"(Missing|Incorrect) sudo password|password is required",
        "let ssh.user use sudo without a password, as cloud-init sets it up",
    ),
    (
        r"timed out|No route to host|Connection refused|Connection closed|unreachable|kex_exchange",
        "look by `dp infra status` whether the machine is up, and log in by ssh as the log shows",
    ),
    (r"No space left on device", "give the machine a larger disk: disk_gib, then dp infra apply"),
    (
        r"name resolution|Could not resolve|Name or service not known",
        "check network.dns and network.nat: the machine reaches no name server",
    ),
    (
        r"Too Many Requests|toomanyrequests|rate limit",
        "wait an hour: the image's registry limits how much an address pulls",
    ),
    (r"dpkg.*lock|lock-frontend", "wait until the machine's own updates are through"),
    (
        r"does not support x86-64-v\d|[Ii]llegal instruction",
        "set cpu_type to host: the machine's CPU lacks what the program needs",
    ),
    (
        r"skew|not yet valid|certificate has expired",
        "set the clocks right: timedatectl set-ntp true on the machine and on the host",
    ),
    (r"HTTP Error|Request failed|Connection failure|urlopen", "check the machine's way out: curl"),
)
_AGAIN: Final = "Then run the command again: what is done is left as it is"


def remedy_for(failure: HostResult) -> str:
    """Return what to do about a failure."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, failure.message):
            return f"{remedy}. {_AGAIN}"
    if failure.status == "unreachable":
        return f"{_REMEDIES[3][1]}. {_AGAIN}"
    return f"read the task's output in the log, and mend its cause. {_AGAIN}"
