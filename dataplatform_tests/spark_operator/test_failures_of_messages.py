"""Drivers that report too little, and an object store that is lost, each for real."""

import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster import DagsterRunStatus

from dataplatform.resources.spark_operator import errors
from dataplatform_tests.kubernetes.loopback import free_port
from dataplatform_tests.minio.servers import minio
from dataplatform_tests.spark_operator.step import PIPES, Step

pytestmark = pytest.mark.kubernetes

SILENT = "print('the driver says hello')"
SWALLOWED = (
    PIPES
    + """
try:
    with opened():
        raise ValueError("no such column: price")
except ValueError:
    pass
"""
)
HOLD = PIPES + "with opened() as pipes:\n    pipes.report_custom_message('begun')\n    wait()\n"
UNCLOSED = f"{HOLD}    os._exit(0)\n"


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        (SILENT, errors.MessagesIncompleteError, "the driver says hello"),
        (UNCLOSED, errors.MessagesIncompleteError, "did not close Dagster Pipes"),
        (SWALLOWED, errors.DriverReportedError, "ValueError: no such column: price"),
    ],
    ids=["never opened", "not closed", "closed by an exception"],
)
def test_a_driver_that_ends_well_without_having_done_its_work(
    failing: Step, program: str, error: type[Exception], said: str
) -> None:
    outcome = failing.run(failing.light(program), lambda _: failing.open())

    outcome.shows(error, said)
    assert failing.left()[0] == ["COMPLETED"]
    assert failing.stored() == []


@pytest.mark.parametrize("why", ["refuses", "does not answer"])
def test_a_store_that_does_not_take_the_context(failing: Step, why: str) -> None:
    if why == "refuses":
        failing.configure(pipes_bucket="absent")
    else:
        failing.configure(s3_endpoint=f"http://127.0.0.1:{free_port()}")

    outcome = failing.run(failing.application(""))

    said = "NoSuchBucket" if why == "refuses" else "Could not connect"
    outcome.shows(errors.MessagesUnreadableError, said)
    assert failing.left() == ([], [])


def test_a_store_that_refuses_while_the_driver_runs(failing: Step) -> None:
    def remove(_message: Any) -> None:
        s3 = failing.resource.s3()
        for key in failing.stored():
            s3.delete_object(Bucket=failing.namespace, Key=key)
        s3.delete_bucket(Bucket=failing.namespace)

    outcome = failing.run(failing.light(HOLD), remove)
    failing.resource.s3().create_bucket(Bucket=failing.namespace)

    outcome.shows(errors.MessagesUnreadableError, "NoSuchBucket")
    failing.nothing_left()


def server_of(step: Step) -> psutil.Process:
    """Return the process of the step's object store."""
    port = (step.resource.s3_endpoint or "").rpartition(":")[2]
    [found] = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.name() == "minio" and f"127.0.0.1:{port}" in process.cmdline()
    ]
    return found


def test_a_store_that_is_lost_while_the_driver_runs(failing: Step, tmp_path: Path) -> None:
    failing.hurry(store=1)
    with minio(tmp_path / "data") as access:
        failing.configure(s3_endpoint=access.endpoint)
        failing.resource.s3().create_bucket(Bucket=failing.namespace)

        outcome = failing.run(failing.light(HOLD), lambda _: server_of(failing).kill())

    outcome.shows(errors.MessagesUnreadableError, "Could not connect")
    assert "Context and messages stay in s3://" in outcome.log
    assert failing.left() == ([], [])


def test_a_store_that_stands_still_for_a_while(failing: Step) -> None:
    server = server_of(failing)

    def stop(_message: Any) -> None:
        server.suspend()
        threading.Timer(3, server.resume).start()
        failing.open()

    outcome = failing.run(failing.light(HOLD), stop)

    assert outcome.status is DagsterRunStatus.SUCCESS, outcome.said
