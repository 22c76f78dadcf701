"""Failures of pods, each provoked on a real node: what Dagster shows, and what is cleaned up."""

import json
from typing import Any

import pytest
from dagster import DagsterRunStatus

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.spec import SecretKey, SecretVolume
from dataplatform_tests.spark_operator.step import PIPES, Step

pytestmark = pytest.mark.kubernetes

HOLD = PIPES + "with opened() as pipes:\n    pipes.report_custom_message('begun')\n    wait()\n"
# containerd misses the end of a container that has just begun: the reason is then a mere `Error`.
HUNGRY = "import time; time.sleep(2); b'x' * 10**9"
LITTERS = "import time; open('/tmp/litter', 'wb').write(b'x' * 10**7); time.sleep(600)"
SPARK = (
    PIPES
    + """
from pyspark.sql import SparkSession
with opened() as pipes:
    spark = SparkSession.builder.getOrCreate()
    pairs = spark.sparkContext.parallelize(range(1000), 4).map(lambda n: (n % 7, n))
    sums = pairs.reduceByKey(lambda a, b: a + b, 4)
    sums.count()
    pipes.report_custom_message("shuffled")
    wait()
    found = dict(sums.collect())
    expected = {k: sum(range(k, 1000, 7)) for k in range(7)}
    pipes.report_asset_materialization(metadata={"right": found == expected})
    spark.stop()
"""
)


BLOCKED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "secret_volume",
        {"driver": {"secrets": (SecretVolume(name="absent", path="/keys"),)}},
        errors.PodStartError,
        'secret "absent" not found',
    ),
    (
        "secret_key",
        {"driver": {"secret_env": {"A": SecretKey(name="absent", key="a")}}},
        errors.PodStartError,
        'secret "absent" not found',
    ),
    ("image", {"image": "registry.test/absent:1"}, errors.ImagePullError, "registry.test/absent:1"),
    (
        "node",
        {"driver": {"node_selector": {"disk": "none"}}},
        errors.UnschedulableError,
        "didn't match Pod's node affinity/selector",
    ),
]


@pytest.mark.parametrize(
    ("fields", "error", "said"), [each[1:] for each in BLOCKED], ids=[each[0] for each in BLOCKED]
)
def test_a_driver_that_cant_start_is_deleted(
    failing: Step, fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    failing.hurry(image_pull=1, start=3, unschedulable=1)

    outcome = failing.run(failing.application("", **fields))

    outcome.shows(error, said, "Waited for")
    failing.nothing_left()


@pytest.mark.parametrize(
    ("driver", "error", "said"),
    [
        ({"container_overrides": {"command": ["/absent"]}}, errors.PodStartError, "/absent"),
        ({"memory": "64m", "memory_overhead": "64m"}, errors.OutOfMemoryError, "OOMKilled"),
        ({}, errors.ApplicationFailedError, "no such column: price"),
        (
            {"container_overrides": {"resources": {"limits": {"ephemeral-storage": "1Mi"}}}},
            errors.EvictedError,
            "ephemeral local storage",
        ),
    ],
    ids=["program", "memory", "program's own", "disk"],
)
def test_a_driver_that_ended_badly_stays_to_be_looked_at(
    failing: Step, driver: dict[str, Any], error: type[Exception], said: str
) -> None:
    programs = {errors.OutOfMemoryError: HUNGRY, errors.EvictedError: LITTERS}
    text = programs.get(error, "raise ValueError('no such column: price')")

    outcome = failing.run(failing.light(text, **driver))

    outcome.shows(error, said)
    failing.stays()


@pytest.mark.parametrize("way", ["eviction", "taint", "deletion"])
def test_a_driver_that_is_thrown_out_is_told_from_one_that_failed(failing: Step, way: str) -> None:
    def throw_out(_message: Any) -> None:
        pod, namespace = f"{failing.names()[0]}-driver", failing.namespace
        if way == "eviction":
            evict(failing, pod)
        elif way == "taint":
            failing.node.kubectl("taint", "node", "--all", "drained=now:NoExecute")
        else:
            failing.node.kubectl("delete", "pod", pod, "-n", namespace, "--wait=false")

    try:
        outcome = failing.run(failing.light(HOLD), throw_out)
    finally:
        if way == "taint":
            failing.node.kubectl("taint", "node", "--all", "drained-")

    outcome.shows(errors.EvictedError, "-driver")
    failing.stays()


def evict(step: Step, pod: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction"}
    eviction["metadata"] = {"name": pod, "namespace": step.namespace}
    path = f"/api/v1/namespaces/{step.namespace}/pods/{pod}/eviction"
    step.node.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


CHANGES: list[dict[str, Any]] = [{"suspend": True}, {"sparkConf": {"spark.ui.port": "4041"}}]


@pytest.mark.parametrize("change", CHANGES, ids=["suspended", "edited"])
def test_an_application_whose_driver_others_restart_is_deleted(
    failing: Step, change: dict[str, Any]
) -> None:
    def disturb(_message: Any) -> None:
        where = ["sparkapplication", failing.names()[0], "-n", failing.namespace]
        patch = json.dumps({"spec": change})
        failing.node.kubectl("patch", *where, "--type=merge", "-p", patch)

    outcome = failing.run(failing.light(HOLD), disturb)

    outcome.shows(errors.DriverRestartedError, "others started it again")
    failing.nothing_left()


@pytest.mark.parametrize("why", ["selector", "quota"])
def test_a_driver_without_executors_is_deleted(failing: Step, why: str) -> None:
    failing.hurry(executors=2)
    executor = {"node_selector": {"disk": "none"}} if why == "selector" else {}
    error = errors.NoExecutorsError if why == "selector" else errors.QuotaExceededError
    if why == "quota":
        failing.quota(**{"count/pods": "1"})

    outcome = failing.run(failing.application(SPARK, executor=executor))

    said = "didn't match Pod's node affinity" if why == "selector" else "exceeded quota: team"
    outcome.shows(error, said)
    failing.nothing_left()


def test_a_shuffle_survives_its_executors(failing: Step) -> None:
    def kill(_message: Any) -> None:
        where = ["-n", failing.namespace, "-l", "spark-role=executor"]
        failing.node.kubectl("delete", "pods", *where, "--force", "--grace-period=0")
        failing.open()

    # A request to an executor that is gone would be waited for two minutes.
    times = {"timeout": "40s", "timeoutInterval": "10s"}
    conf = {f"spark.network.{key}": value for key, value in times.items()}
    application = failing.application(SPARK, executor={"instances": 2}, spark_conf=conf)
    outcome = failing.run(application, kill)

    assert outcome.status is DagsterRunStatus.SUCCESS, outcome.said
    [event] = [
        entry.dagster_event
        for entry in failing.instance.all_logs(outcome.run_id)
        if entry.dagster_event and entry.dagster_event.is_step_materialization
    ]
    assert event.step_materialization_data.materialization.metadata["right"].value is True
