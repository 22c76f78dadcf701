"""A real `dagster dev`, and its GraphQL."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
_START_SECONDS = 120.0


@dataclass(frozen=True)
class DagsterDev:
    """A running `dagster dev`: its address."""

    url: str

    def graphql(self, query: str) -> Any:
        """Return the data that the webserver answers."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(  # noqa: S310  loopback
            f"{self.url}/graphql", data=body, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
            return json.load(answer)["data"]

    def runs(self, job: str | None = None) -> list[dict[str, str]]:
        """Return the newest runs, newest first; of one job, where it is named."""
        query = "{ runsOrError(limit: 20) { ... on Runs { results { runId status jobName } } } }"
        runs = self.graphql(query)["runsOrError"]["results"]
        return [run for run in runs if job in (None, run["jobName"])]

    def wait_for_runs(self, timeout: float, job: str | None = None) -> list[dict[str, str]]:
        """Wait until there are runs and all of them have ended; returns them."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            runs = self.runs(job)
            if runs and all(r["status"] in ("SUCCESS", "FAILURE", "CANCELED") for r in runs):
                return runs
            time.sleep(2)
        raise TimeoutError(f"runs still under way after {timeout:.0f} s: {self.runs()}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def embedded(folder: Path) -> dict[str, str]:
    """Make a Dagster home below `folder`; returns the settings of a recorded lake beside it."""
    home = folder / "dagster"
    home.mkdir(parents=True)
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    return {
        "DAGSTER_HOME": str(home),
        "DATAPLATFORM_HOME": str(folder / "lake"),
        "DATAPLATFORM_ORIGIN": "recorded",
    }


@contextmanager
def dagster_dev(folder: Path, settings: Mapping[str, str]) -> Generator[DagsterDev]:
    """Run `dagster dev` with these settings, its log in `folder`; ends it and its children."""
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    with (folder / "dagster-dev.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "-m", "dataplatform.definitions"],
            cwd=REPOSITORY,
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            dev = DagsterDev(f"http://127.0.0.1:{port}")
            _wait_until_up(dev, process, folder)
            yield dev
        finally:
            process.send_signal(signal.SIGTERM)
            # Dagster gives each of its services 45 s.
            process.wait(timeout=150)


def _wait_until_up(dev: DagsterDev, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            dev.runs()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
        else:
            return
    tail = (folder / "dagster-dev.log").read_text()[-2000:]
    raise RuntimeError(f"dagster dev did not come up:\n{tail}")
