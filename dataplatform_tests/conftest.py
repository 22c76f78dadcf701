"""What every test may ask for: one Spark session, started by the first test that wants it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

from dataplatform.lake.spark import local_conf, prepare_environment
from dataplatform_tests.kubernetes.fixtures import cluster, operator, spark_namespace
from dataplatform_tests.stack.fixtures import stack

__all__ = ["cluster", "operator", "spark_namespace", "stack"]

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from xdist.remote import Producer


TIER_SECONDS = {"stack": 1200, "kubernetes": 2400}
"""The first test of a tier with servers may have to build them."""
LONG = {"test_kill.py", "test_ui.py", "test_live_lineage.py", "test_recorded_lineage.py"}
"""Two to eight minutes each."""
KUBERNETES = "kubernetes"
TURNS = ("stack", KUBERNETES, "trino", "vault", "minio")
"""Groups of tests that share servers, as they begin: the two that take longest first."""
SERVERS = {name: name for name in TURNS} | {"spark_operator": KUBERNETES}
"""Folders → the group of their tests."""


def pytest_configure() -> None:
    """Let children be ended, though this run was started in the background (`.ci/run &`).

    They inherit that SIGINT is ignored, and Dagster then ignores SIGTERM too: `dagster dev` outlived
    its test by an hour.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes minutes first, and then what needs servers, which are installed meanwhile.

    What kills servers comes after all that use them.
    """
    items.sort(key=_turn)
    for item in items:
        if _seconds(item) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_seconds(item)))


def _turn(item: pytest.Item) -> list[int]:
    has, group = item.keywords.__contains__, _group(item.nodeid)
    turn = TURNS.index(group) if group in TURNS else len(TURNS)
    return [item.path.name not in LONG, has("faults"), turn, has(KUBERNETES), has("stack")]


class Scheduler(LoadScopeScheduling):
    """Has one process run all tests that share servers, and else a file at a time (`-n 3`).

    By name, as the marks of tests are not known to the process that deals them out.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return SERVERS.get(Path(file).parent.name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> Scheduler:
    """Deal out the tests."""
    return Scheduler(config, log)


def _seconds(item: pytest.Item) -> int:
    """Return how long a test of its tier may take; 0 for a tier without servers."""
    return max(TIER_SECONDS[tier] if item.get_closest_marker(tier) else 0 for tier in TIER_SECONDS)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int | pytest.ExitCode
) -> None:
    """Show what the servers' installation said, which went on beside, where a test failed."""
    log = Path(os.environ.get("SERVERS_LOG", ""))
    if exitstatus and log.is_file():
        terminalreporter.section("installation of the servers")
        for line in log.read_text(errors="replace").splitlines()[-40:]:
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is tried again wait milliseconds where it waits minutes."""
    from dagster import RetryPolicy

    patient = RetryPolicy.calculate_delay
    monkeypatch.setattr(RetryPolicy, "calculate_delay", lambda self, n: patient(self, n) / 1000)


@pytest.fixture(scope="session")
def spark() -> "Iterator[SparkSession]":
    """Start the one JVM of this test run: with the lake's jars, two cores, UTC, loopback only."""
    prepare_environment()
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.config(map=local_conf("1g") | {"spark.master": "local[2]"})
    session = builder.getOrCreate()
    yield session
    session.stop()
