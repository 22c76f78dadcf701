"""One stack of real servers for all tests of a session, on free ports, in a home of its own."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyiceberg.exceptions import NoSuchTableError

from dataplatform.cli.home import prepare_dagster_home
from dataplatform.lake.schema import identifier
from dataplatform.profiles import Settings, lake_place
from dataplatform.stack.layout import Given, Layout, Plan
from dataplatform.stack.runner import ServerStatus, Stack


@dataclass(frozen=True)
class RunningStack:
    """The servers of the session.

    Attributes:
        home: the platform's home that the stack is in.
        stack: the runner.
    """

    home: Path
    stack: Stack

    @property
    def layout(self) -> Layout:
        """The files of the stack."""
        return self.stack.layout

    @property
    def plan(self) -> Plan:
        """The addresses and ports in force."""
        return Plan.read(self.layout)

    @property
    def endpoints(self) -> dict[str, str]:
        """The addresses, by the names of the settings."""
        return json.loads(self.layout.endpoints.read_text())

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that works on this stack."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
        return own | {"DATAPLATFORM_PROFILE": "stack", "DATAPLATFORM_HOME": str(self.home)}

    @property
    def settings(self) -> Settings:
        """The settings of a process that works on this stack."""
        return Settings.model_validate({"profile": "stack", "home": self.home})

    @property
    def dagster_home(self) -> Path:
        """Dagster's home, with its storage on this stack."""
        return prepare_dagster_home(self.settings)

    def drop(self, table: str) -> None:
        """Leave a recorded run a table to build: one over tables that are up to date starts no JVM."""
        with suppress(NoSuchTableError):
            lake_place(self.settings, "recorded").open_catalog().drop_table(identifier(table))

    def status(self, server: str) -> ServerStatus:
        """How one server is now."""
        return next(one for one in self.stack.status() if one.name == server)

    def restart(self, server: str) -> None:
        """End a server, start it again and wait until it answers."""
        self.stack.restart(server, quiet)

    def kill(self, server: str) -> int:
        """Kill a server's process as the machine would; returns its pid."""
        pid = self.status(server).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return pid


def quiet(_server: str, _what: str) -> None:
    """Take progress and say nothing."""


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """Bring the stack up on free ports in a short path, since Unix sockets take no long one."""
    home = Path(tempfile.mkdtemp(prefix="dp-stack-"))
    running = Stack(home, Given.model_construct())
    try:
        running.up(quiet, free_ports=True)
        yield RunningStack(home, running)
    finally:
        running.down(quiet)
        shutil.rmtree(home, ignore_errors=True)
