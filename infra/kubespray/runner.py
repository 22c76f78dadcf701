"""Runs a playbook by Kubespray's Ansible: tells what goes on, keeps a log, ends as asked."""

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from infra.kubespray.errors import (
    BusyError,
    InterruptedRunError,
    KubesprayError,
    PlaybookError,
    TaskFailedError,
    UnreachableError,
)
from infra.kubespray.events import Event, HostResult, read_event
from infra.kubespray.inventory import HOSTS
from infra.kubespray.remedies import remedy_for

_CALLBACKS: Final = Path(__file__).with_name("callback")
_KEPT_LOGS: Final = 20
_MERCY_SECONDS: Final = 20.0
"""How long Ansible may take to end after Ctrl-C."""
_INTERRUPTED: Final = 99
"""Ansible's exit code after Ctrl-C."""


@dataclass(frozen=True)
class Playbook:
    """What is run.

    Attributes:
        path: the playbook.
        extra_vars: variables that have precedence over the inventory's.
        limit: the machines it is limited to; empty: all.
    """

    path: Path
    extra_vars: Mapping[str, Any] = field(default_factory=dict)
    limit: tuple[str, ...] = ()


@dataclass(frozen=True)
class Runner:
    """Runs playbooks against one cluster.

    Attributes:
        environment: the folder of Ansible's environment.
        source: the folder of Kubespray.
        state: the folder of what is kept of the cluster: inventory, logs, facts, host keys.
        private_key: the file of the SSH key; None: what ssh finds itself.
        told: told of each event.
    """

    environment: Path
    source: Path
    state: Path
    private_key: Path | None = None
    told: Callable[[Event], None] = lambda _: None

    @property
    def inventory(self) -> Path:
        """The folder of the inventory."""
        return self.state / "inventory"

    def run(self, playbook: Playbook, name: str) -> Path:
        """Run a playbook to its end.

        Args:
            playbook: what is run.
            name: of the log.

        Returns:
            The log: all that Ansible wrote.

        Raises:
            TaskFailedError: a task failed on a machine.
            UnreachableError: a machine can't be reached.
            InterruptedRunError: Ctrl-C, or SIGTERM.
            PlaybookError: Ansible can't read the playbook.
            BusyError: another run is at work on the cluster.
        """
        log = self._new_log(name)
        failures: list[HostResult] = []
        with _only_run(self.state) as lock:
            code, interrupted = self._run(playbook, log, failures, lock)
        if interrupted or code == _INTERRUPTED:
            raise InterruptedRunError(
                f"Interrupted; what was done stays done. Log: {log}", "run the command again"
            )
        if code:
            raise _error(code, failures, log)
        return log

    def _run(
        self, playbook: Playbook, log: Path, failures: list[HostResult], lock: int
    ) -> tuple[int, bool]:
        reading, writing = os.pipe()
        with log.open("wb") as sink:
            # In a session of its own: Ctrl-C comes to us, and we end it once, in its own way.
            # It holds the lock too, so that it stays while it works, even if we are killed.
            process = subprocess.Popen(  # noqa: S603  our own arguments
                self._command(playbook),
                cwd=self.source,
                env=self._environment(writing),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                pass_fds=(writing, lock),
                start_new_session=True,
            )
        os.close(writing)
        interrupted = False
        try:
            with _term_as_interrupt():
                self._follow(reading, failures)
                process.wait()
        except KeyboardInterrupt:
            interrupted = True
            _end(process)
        finally:
            _kill(process)
        return process.returncode, interrupted

    def _follow(self, reading: int, failures: list[HostResult]) -> None:
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                event = read_event(line)
                if isinstance(event, HostResult) and event.is_failure:
                    failures.append(event)
                self.told(event)

    def _command(self, playbook: Playbook) -> list[str]:
        command = [
            str(self.environment / "bin/ansible-playbook"),
            *("--inventory", str(self.inventory / HOSTS)),
            *("--extra-vars", json.dumps(dict(playbook.extra_vars))),
            str(playbook.path),
        ]
        if self.private_key:
            command += ["--private-key", str(self.private_key)]
        return command + (["--limit", ",".join(playbook.limit)] if playbook.limit else [])

    def _environment(self, events: int) -> dict[str, str]:
        # Settings of the user's own Ansible and Python would change what Kubespray does.
        foreign = ("ANSIBLE_", "PYTHON", "VIRTUAL_ENV")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        known_hosts = self.state / "known_hosts"
        # A machine's key is learnt at the first contact, and held to from then on.
        trust = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={known_hosts}"
        share = "-o ControlMaster=auto -o ControlPersist=30m -o ConnectionAttempts=3"
        return kept | {
            "PATH": f"{self.environment / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(self.environment),
            "ANSIBLE_CONFIG": str(self.source / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.environment / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(_CALLBACKS),
            "ANSIBLE_CALLBACKS_ENABLED": "dataplatform_events,ansible.posix.profile_tasks",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.state / "facts"),
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "ANSIBLE_SSH_ARGS": f"{share} {trust}",
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "DP_EVENTS": str(events),
        }

    def _new_log(self, name: str) -> Path:
        folder = self.state / "logs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in sorted(folder.glob("*.log"))[: -_KEPT_LOGS + 1]:
            old.unlink()
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{name}.log"
        path.touch(mode=0o600)
        return path


@contextmanager
def _only_run(state: Path) -> Generator[int]:
    """Refuse a second run on the cluster; yields what holds the lock."""
    descriptor = os.open(state / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BusyError(
            f"Another run is at work on this cluster ({state})", "wait for its end"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _term_as_interrupt() -> Generator[None]:
    """Let SIGTERM end the run as Ctrl-C does; only the main thread can listen to signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C in Ansible, and wait until it has ended; a second one kills it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    ends = time.monotonic() + _MERCY_SECONDS
    try:
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.05)
    except KeyboardInterrupt:
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error(code: int, failures: Sequence[HostResult], log: Path) -> KubesprayError:
    if not failures:
        return PlaybookError(
            f"Ansible ended with exit code {code}: {_last_error(log)}", f"read the log: {log}"
        )
    first = failures[0]
    kind = UnreachableError if first.status == "unreachable" else TaskFailedError
    what = "can't be reached" if first.status == "unreachable" else f"failed at “{first.task}”"
    others = f" ({len(failures)} failures in all)" if len(failures) > 1 else ""
    said = " ".join(first.message.split()).rstrip(".")
    return kind(f"{first.host} {what}{others}: {said}. Log: {log}", remedy_for(first))


def _last_error(log: Path) -> str:
    """Return what Ansible wrote about its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [n for n, line in enumerate(lines) if line.startswith(("ERROR!", "[ERROR]"))]
    found = lines[errors[-1] : errors[-1] + 3] if errors else lines[-3:]
    return " ".join(" ".join(found).removeprefix("ERROR!").split()) or "it said nothing"
