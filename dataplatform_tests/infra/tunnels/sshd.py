"""OpenSSH's own server on a free port of 127.0.0.1, to be killed, frozen and given other keys."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
_PRIVILEGE_SEPARATION = Path("/run/sshd")


def until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a key pair and return the private one's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def fingerprint(key: Path) -> str:
    """Return what ssh-keygen calls a key."""
    told = subprocess.run(
        ["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True
    )
    return told.stdout.split()[1]


class Sshd:
    """One server; it lets in whoever has the key of `authorized_keys`."""

    def __init__(self, root: Path, **options: str) -> None:
        assert SSHD
        root.mkdir()
        if os.geteuid() == 0:  # As its unit does, where an init runs.
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self.root, self.port, self.user = root, free_port(), getpass.getuser()
        self.host_key = make_key(root / "host_key")
        self.authorized_keys = root / "authorized_keys"
        self.log = root / "sshd.log"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "LogLevel": "VERBOSE",
            "PasswordAuthentication": "yes",
            "PermitRootLogin": "yes",
            **self._options,
        }
        config = self.root / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(SSHD), "-D", "-e", "-f", str(config)], stdout=log, stderr=log
            )
        assert until(self.answers), self.log.read_text()

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def sessions(self) -> list[psutil.Process]:
        """The processes of the connections that it has."""
        assert self._process
        return psutil.Process(self._process.pid).children(recursive=True)

    def drop(self) -> None:
        """Kill the connections; the server goes on."""
        self._kill(self.sessions())

    def kill(self) -> None:
        """Kill the server with its connections."""
        if self._process is None:
            return
        processes = [*self.sessions(), psutil.Process(self._process.pid)]
        self._kill(processes)
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """Let the connections' processes neither answer nor end."""
        for one in self.sessions():
            one.send_signal(signal.SIGSTOP)

    @staticmethod
    def _kill(processes: list[psutil.Process]) -> None:
        for one in processes:
            one.kill()
        psutil.wait_procs(processes, 10)

    def known_hosts_line(self) -> str:
        public = self.host_key.with_name("host_key.pub").read_text()
        return f"[127.0.0.1]:{self.port} {' '.join(public.split()[:2])}\n"
