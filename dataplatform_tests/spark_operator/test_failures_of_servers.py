"""Servers and processes that are lost while an application runs, each for real."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest
from dagster import DagsterRunStatus, build_sensor_context

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.reaper import build_reaper_sensor
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform.resources.spark_operator.states import ApplicationState
from dataplatform_tests.kubernetes.node import Node
from dataplatform_tests.spark_operator.step import PIPES, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kubernetes

HOLD = (
    PIPES
    + """
with opened() as pipes:
    pipes.report_custom_message("begun")
    wait()
    pipes.report_custom_message("done")
"""
)
SUCCESS = DagsterRunStatus.SUCCESS


def start_api_server(node: Node) -> None:
    node.start("kube-apiserver")
    node.wait("API server", node.api_is_ready)
    node.wait("node", node.is_ready)


def test_an_api_server_that_is_lost_and_comes_back(failing: Step) -> None:
    def lose(message: str) -> None:
        if message == "begun":
            failing.node.kill("kube-apiserver")
            failing.open()
            threading.Timer(3, start_api_server, [failing.node]).start()

    outcome = failing.run(failing.light(HOLD), lose)

    assert outcome.status is SUCCESS, outcome.said
    assert failing.messages == ["begun", "done"]
    assert failing.left()[0] == ["COMPLETED"]


def test_an_api_server_that_is_lost_for_too_long(failing: Step) -> None:
    failing.hurry(unreachable=2, deletion=2)
    application = failing.light(HOLD)

    outcome = failing.run(
        application, lambda message: message == "begun" and failing.node.kill("kube-apiserver")
    )
    start_api_server(failing.node)

    outcome.shows(errors.ApiServerUnreachableError, "did not answer", "could not be deleted")
    assert failing.stored(), "a retry needs them"
    before = failing.client.find()
    assert [app.state for app in before] == [ApplicationState.RUNNING]
    failing.hurry()
    failing.open()
    retried = failing.run(application, retry_of=outcome.run_id)
    assert retried.status is SUCCESS, retried.said
    assert [app.uid for app in failing.client.find()] == [before[0].uid]
    assert failing.stored() == []


@contextmanager
def frozen(node: Node) -> Generator[None]:
    """Stop the operator's process, as one that hangs."""
    module = "dataplatform_tests.kubernetes.operator"
    operators = [process for process in node.processes() if module in process.cmdline()]
    assert operators
    for process in operators:
        process.suspend()
    try:
        yield
    finally:
        for process in operators:
            process.resume()


@pytest.fixture
def no_operator(failing: Step) -> "Iterator[None]":
    """Let no operator work."""
    with frozen(failing.node):
        yield


def test_no_operator_picks_it_up(failing: Step, no_operator: None) -> None:
    failing.hurry(new=1)

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.OperatorNotRunningError, f"watches the namespace {failing.namespace}")
    failing.nothing_left()


@pytest.mark.parametrize(
    "state", [each.name for each in ApplicationState if each.value and not each.is_final]
)
def test_an_operator_that_hangs_in_any_state(failing: Step, no_operator: None, state: str) -> None:
    failing.hurry(**{"new": 60, state.lower(): 1})
    thread = failing.meanwhile(lambda name: failing.set_state(name, state))

    outcome = failing.run(failing.application(""))
    thread.join()

    outcome.shows(errors.StateDeadlineError, f"{state} for", f"the deadline `{state.lower()}`")
    failing.nothing_left()


def test_a_driver_that_hangs(failing: Step) -> None:
    failing.hurry(running=4)

    outcome = failing.run(failing.light(HOLD))

    outcome.shows(errors.StateDeadlineError, "RUNNING for", "the deadline `running`")
    failing.nothing_left()


def test_a_deletion_that_does_not_finish(failing: Step, no_operator: None) -> None:
    failing.hurry(new=2, deletion=1)
    where = ["-n", failing.namespace, "--type=merge", "-p"]

    def hold(name: str) -> None:
        patch = '{"metadata": {"finalizers": ["example.org/held"]}}'
        failing.node.kubectl("patch", "sparkapplication", name, *where, patch)

    failing.meanwhile(hold)
    outcome = failing.run(failing.application(""))
    [name] = failing.names()
    free = '{"metadata": {"finalizers": null}}'
    failing.node.kubectl("patch", "sparkapplication", name, *where, free)

    outcome.shows(errors.OperatorNotRunningError, f"application {name} still there")
    assert f"{name} could not be deleted" in outcome.log
    assert failing.stored(), "whoever takes it over needs them"


def test_an_application_that_somebody_deletes(failing: Step) -> None:
    def delete(_message: str) -> None:
        name = failing.names()[0]
        where = ["-n", failing.namespace, "--wait=false"]
        failing.node.kubectl("delete", "sparkapplication", name, *where)

    outcome = failing.run(failing.light(HOLD), delete)

    outcome.shows(errors.ApplicationNotFoundError, "deleted while it was followed")
    failing.nothing_left()


@contextmanager
def begun(step: Step, application: SparkApplication) -> "Generator[subprocess.Popen[str]]":
    """Run a step in a process of its own until its driver has begun."""
    command = [sys.executable, "-m", "dataplatform_tests.spark_operator.step"]
    process = subprocess.Popen(
        [*command, step.as_json(application)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DAGSTER_HOME": step.instance.root_directory},
        text=True,
    )
    try:
        read_until(process.stdout, "begun")
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(lines: IO[str] | None, wanted: str) -> None:
    assert lines
    assert any(line.strip() == wanted for line in lines), "the process ended"


@pytest.mark.parametrize(
    ("number", "asked", "status"),
    [
        (signal.SIGTERM, True, DagsterRunStatus.CANCELED),
        (signal.SIGTERM, False, DagsterRunStatus.FAILURE),
        (signal.SIGINT, False, DagsterRunStatus.FAILURE),
    ],
    ids=["canceled", "drained", "interrupted"],
)
def test_a_process_that_is_ended_by_a_signal(
    failing: Step, number: signal.Signals, asked: bool, status: DagsterRunStatus
) -> None:
    with begun(failing, failing.light(HOLD)) as process:
        [run] = failing.instance.get_runs(limit=1)
        if asked:
            failing.instance.report_run_canceling(run)
        process.send_signal(number)
        process.wait(60)

    outcome = failing.outcome(run.run_id)
    assert outcome.status is status, outcome.log
    assert "with its pods" in outcome.log
    failing.nothing_left()


def killed(step: Step, application: SparkApplication) -> str:
    """Kill the process of a step whose driver runs; returns its run, failed as monitoring has it."""
    with begun(step, application) as process:
        process.kill()
    [run] = step.instance.get_runs(limit=1)
    assert run.status is DagsterRunStatus.STARTED
    step.instance.report_run_failed(run)
    return run.run_id


@pytest.mark.parametrize("policy", ["reattach", "replace"])
def test_a_retry_of_a_run_whose_process_was_killed(failing: Step, policy: str) -> None:
    failing.configure(on_existing=policy)
    application = failing.light(HOLD)
    run_id = killed(failing, application)
    before = [app.uid for app in failing.client.find()]
    failing.open()

    retried = failing.run(application, retry_of=run_id)

    assert retried.status is SUCCESS, retried.said
    assert failing.messages == ["begun", "done"]
    now = [app.uid for app in failing.client.find()]
    assert len(now) == 1
    assert (now == before) is (policy == "reattach")
    assert failing.stored() == []


def test_the_reaper_deletes_what_a_killed_process_left(failing: Step) -> None:
    killed(failing, failing.light(HOLD))

    resources = {"spark_operator": failing.resource}
    context = build_sensor_context(failing.instance, resources=resources)
    reaper = build_reaper_sensor(grace=0)
    reaped = reaper.evaluate_tick(context)

    assert (reaped.skip_message or "").startswith("Deleted counted-")
    failing.node.wait("the deletion", lambda: failing.left() == ([], []))
    # A driver writes until it is gone: the next round deletes what it left.
    reaper.evaluate_tick(context)
    failing.nothing_left()
