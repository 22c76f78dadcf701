"""Whether a machine's SSH server answers, asked through the host, as the network is internal."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from infra.spec.model import ClusterSpec, Machine

_SECONDS: Final = 10
_PERMANENT: Final = {
    "Host key verification failed": "log in once by hand and compare the key: ssh {host}",
    "Permission denied": "put your key on the host: ssh-copy-id {host}",
    "Could not resolve hostname": "check host.address",
}


@dataclass(frozen=True)
class Unreached:
    """Why a machine was not reached.

    Attributes:
        cause: in a few words.
        remedy: what to do.
        permanent: whether waiting does not help.
    """

    cause: str
    remedy: str = (
        "look at the machine's console in the host's UI: cloud-init says there what it waits for"
    )
    permanent: bool = False

    def __str__(self) -> str:
        return self.cause


Reach = Callable[[Machine], Unreached | None]
"""Returns None where the machine's SSH server answers, else why it does not."""


def through_host(spec: ClusterSpec) -> Reach:
    """Return what asks a machine's SSH server for its banner, by `ssh -W` through the host."""
    host = f"{spec.host.ssh_user}@{spec.host.address}"
    ssh = shutil.which("ssh")

    def reach(machine: Machine) -> Unreached | None:
        if ssh is None:
            return Unreached("there is no ssh here", "install OpenSSH's client", permanent=True)
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SECONDS}"]
        way = ["-p", str(spec.host.ssh_port), "-W", f"{machine.ip}:22", host]
        return _banner([ssh, *options, *way], host)

    return reach


def _banner(command: list[str], host: str) -> Unreached | None:
    """Run ssh; the machine's server speaks first, and closes once our silence has lasted."""
    process = subprocess.Popen(  # noqa: S603  the arguments come from the checked specification
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        # The server waits for our banner; an empty line ends the connection at once.
        answer, said = process.communicate(b"\r\n", timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        answer, said = process.communicate()
    if answer.startswith(b"SSH-"):
        return None
    return _reason(said.decode(errors="replace").strip() or "no answer", host)


def _reason(said: str, host: str) -> Unreached:
    for text, remedy in _PERMANENT.items():
        if text in said:
            return Unreached(text, remedy.format(host=host), permanent=True)
    return Unreached(said.splitlines()[-1])
