"""What the process that holds the tunnels tells the others: one file in the home's state folder."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from dataplatform.stack.layout import write_private
from infra.tunnels.errors import AlreadyUpError, TunnelError
from infra.tunnels.probe import Health

_SAME_START: Final = 1.0
"""Seconds by which two readings of one process's start may differ."""
_STOP_SECONDS: Final = 10.0
_SILENT: Final = timedelta(minutes=2)
"""Between two attempts to connect it tells nothing for a minute at most."""

Connection = Literal["connecting", "connected", "reconnecting", "failed"]


class TunnelStatus(BaseModel):
    """How one tunnel is.

    Attributes:
        name: what is behind it.
        url: the address to open.
        local_port: where it listens.
        target: where it leads to.
        state: up, failing, down, or waiting for the SSH connection.
        detail: why it is not up.
        connections: how many it carries.
    """

    name: str
    url: str
    local_port: int
    target: str
    state: Health = "waiting"
    detail: str = ""
    connections: int = 0


class Snapshot(BaseModel):
    """How the tunnels of a home are.

    Attributes:
        pid: the process that holds them.
        started: when that process began, seconds since 1970.
        gateway: through which host.
        connection: how the SSH connection is.
        detail: why it is not connected.
        since: since when it is so.
        reconnects: how often it came back.
        checked: whether each tunnel was asked at least once.
        written: when all this was so.
        tunnels: each of them.
    """

    pid: int
    started: float
    gateway: str
    connection: Connection
    detail: str = ""
    since: datetime
    reconnects: int = 0
    checked: bool = False
    written: datetime
    tunnels: tuple[TunnelStatus, ...]

    @property
    def silent(self) -> bool:
        """Whether the process has told nothing for longer than it ever should."""
        return datetime.now(UTC) - self.written > _SILENT

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to complain about."""
        connected = self.connection == "connected" and not self.silent
        return connected and all(one.state == "up" for one in self.tunnels)


class StateFolder:
    """The folder of the tunnels of one home."""

    def __init__(self, home: Path) -> None:
        self.root = home.resolve() / "tunnel"

    @property
    def log(self) -> Path:
        """What the process in the background says."""
        return self.root / "tunnel.log"

    @property
    def _file(self) -> Path:
        return self.root / "state.json"

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep other processes from holding this home's tunnels.

        Raises:
            AlreadyUpError: one does.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(self.root / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            found = self.read()
            raise AlreadyUpError(
                f"The tunnels are up already{f' (pid {found.pid})' if found else ''}."
                " Remedy: dp tunnel status shows them, dp tunnel down ends them."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def write(self, snapshot: Snapshot) -> None:
        """Tell how things are."""
        write_private(self._file, snapshot.model_dump_json(indent=2) + "\n")

    def forget(self) -> None:
        """Remove what was told."""
        self._file.unlink(missing_ok=True)

    def read(self) -> Snapshot | None:
        """Return what was told last, by a process that may have ended; None where nothing was."""
        try:
            return Snapshot.model_validate_json(self._file.read_text())
        except (FileNotFoundError, ValidationError):  # An older release wrote other fields.
            return None

    def process(self) -> psutil.Process | None:
        """Return the process that holds the tunnels; None where none does."""
        told = self.read()
        if told is None:
            return None
        try:
            found = psutil.Process(told.pid)
            same = abs(found.create_time() - told.started) < _SAME_START
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def stop(self) -> bool:
        """End the process that holds the tunnels; False where there is none.

        Raises:
            TunnelError: it is another user's.
        """
        process = self.process()
        if process:
            try:
                process.terminate()
                process.wait(_STOP_SECONDS)
            except psutil.TimeoutExpired:
                process.kill()
            except psutil.NoSuchProcess:
                pass
            except psutil.AccessDenied:
                raise TunnelError(
                    f"The tunnels are held by process {process.pid} of another user."
                    " Remedy: end it as that user."
                ) from None
        self.forget()
        return process is not None


def this_process() -> tuple[int, float]:
    """Return the number and the start of this process."""
    return os.getpid(), psutil.Process().create_time()
