"""SparkApplications on a real node: what the stand-in does is what was recorded of the real operator."""

import json
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from kubernetes import client
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform_tests.kubernetes.applications import create, manifest, state, statuses
from dataplatform_tests.kubernetes.fixtures import DATA, OperatorProcess
from dataplatform_tests.kubernetes.loopback import ADDRESS
from dataplatform_tests.kubernetes.node import Node
from dataplatform_tests.kubernetes.sockets import used
from dataplatform_tests.kubernetes.test_node import RESTRICTED

pytestmark = pytest.mark.kubernetes

COUNT = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = spark.range(0, 1000, numPartitions=8)
hosts = spark.sparkContext.parallelize(range(8), 8).map(lambda _: __import__("os").getpid()).distinct()
print("pids", hosts.count(), "rows", rows.selectExpr("id % 7 AS k").groupBy("k").count().count(), sys.argv[1:])
print("conf", spark.sparkContext.getConf().get("spark.hadoop.fs.some"))
spark.stop()
"""

ENDLESS = """
import time
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
time.sleep(600)
"""


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (DATA / "traces" / f"{name}.jsonl").read_text().splitlines()
    return [status for line in lines if (status := json.loads(line)["status"])]


def course(statuses: Iterable[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Return what a watcher is told, without what differs from run to run."""
    told: list[tuple[object, ...]] = []
    for status in statuses:
        step = (
            state(status),
            status["applicationState"].get("errorMessage", "").partition("\n")[0][:90],
            status.get("executionAttempts"),
            status.get("submissionAttempts"),
            "podName" in status["driverInfo"],
            status["terminationTime"] is None,
        )
        if not told or told[-1] != step:
            told.append(step)
    return told


@pytest.fixture
def job(cluster: Node, spark_namespace: str) -> Path:
    path = cluster.shared / f"{spark_namespace}.py"
    path.write_text(COUNT)
    return path


def test_an_application_completes_as_recorded(
    cluster: Node, operator: OperatorProcess, spark_namespace: str, job: Path
) -> None:
    application = manifest(
        "silver", job, arguments=["one", "two words"], hadoopConf={"fs.some": "1"}
    )
    create(cluster, spark_namespace, application)
    seen = list(statuses(cluster, spark_namespace, "silver"))
    log = cluster.kubectl("logs", "-n", spark_namespace, "silver-driver")
    assert course(seen) == course(recorded("silver")), log + operator.log.read_text()
    assert "rows 7 ['one', 'two words']" in log
    assert "conf 1" in log
    executors = [set(status.get("executorState", {}).values()) for status in seen]
    assert {"RUNNING"} in executors
    assert max(len(status.get("executorState", {})) for status in seen) == 2
    assert "forbidden" not in log.lower()


def test_a_failing_application_is_tried_again_as_recorded(
    cluster: Node, operator: OperatorProcess, spark_namespace: str, job: Path
) -> None:
    job.write_text("raise SystemExit(2)")
    policy = {"type": "OnFailure", "onFailureRetries": 1, "onFailureRetryInterval": 1}
    create(cluster, spark_namespace, manifest("failing", job, restartPolicy=policy))
    seen = course(statuses(cluster, spark_namespace, "failing"))
    assert seen == course(recorded("failing")), operator.log.read_text()


def test_what_spark_submit_refuses_fails_as_recorded(
    cluster: Node, operator: OperatorProcess, spark_namespace: str, job: Path
) -> None:
    create(cluster, spark_namespace, manifest("badsubmit", job, imagePullPolicy="Bogus"))
    seen = list(statuses(cluster, spark_namespace, "badsubmit"))
    assert course(seen)[-1][0] == "FAILED"
    assert [step[0] for step in course(seen)] == [
        step[0] for step in course(recorded("badsubmit"))
    ], operator.log.read_text()
    message = seen[-1]["applicationState"]["errorMessage"]
    assert "should be one of Always, Never, IfNotPresent, but was Bogus" in message


def test_an_application_in_restricted_pods_shows_its_ui_until_it_is_deleted(
    cluster: Node, operator: OperatorProcess, spark_namespace: str, job: Path
) -> None:
    job.write_text(ENDLESS)
    application = manifest("endless", job)
    for role in ("driver", "executor"):
        container = {"name": f"spark-kubernetes-{role}", "securityContext": RESTRICTED}
        application["spec"][role]["template"] = {"spec": {"containers": [container]}}
    create(cluster, spark_namespace, application)
    *_, last = statuses(cluster, spark_namespace, "endless", executors_run)
    found = used(cluster)
    assert found["java"] == set().union(*found.values()) == {ADDRESS}, found
    info = last["driverInfo"]
    service = f"{info['webUIServiceName']}:{info['webUIPort']}"
    proxy = f"/api/v1/namespaces/{spark_namespace}/services/{service}/proxy"
    with cluster.api() as api:
        core = client.CoreV1Api(api)
        assert info["webUIServiceName"] == "endless-ui-svc"
        ui = json.loads(cluster.kubectl("get", "--raw", f"{proxy}/api/v1/applications"))
        assert [application["id"] for application in ui] == [last["sparkApplicationId"]]
        cluster.kubectl("delete", "sparkapplication", "-n", spark_namespace, "endless")
        nothing_left(core, spark_namespace)


def test_an_application_is_suspended_resumed_changed_lost_and_forgotten(
    cluster: Node, operator: OperatorProcess, spark_namespace: str, job: Path
) -> None:
    job.write_text("import time; time.sleep(600)")
    create(cluster, spark_namespace, manifest("moody", job))
    seen: list[dict[str, Any]] = []
    watcher = Thread(target=lambda: seen.extend(statuses(cluster, spark_namespace, "moody")))
    watcher.start()

    def reach(wanted: str, times: int = 1) -> None:
        reached = partial(has_been, seen, wanted, times)
        cluster.wait(wanted, reached)

    def change(**spec: Any) -> None:
        patch = json.dumps({"spec": spec})
        where = ["sparkapplication", "moody", "-n", spark_namespace]
        cluster.kubectl("patch", *where, "--type=merge", "-p", patch)

    reach("RUNNING")
    change(suspend=True)
    reach("SUSPENDED")
    change(suspend=False)
    reach("RUNNING", times=2)
    change(arguments=["other"])
    reach("RUNNING", times=3)
    change(timeToLiveSeconds=1)
    cluster.kubectl("delete", "pod", "-n", spark_namespace, "moody-driver", "--grace-period=1")
    watcher.join(60)
    assert steps(seen) == [
        *("SUBMITTED", "RUNNING", "SUSPENDING", "SUSPENDED", "RESUMING", "SUBMITTED", "RUNNING"),
        *("INVALIDATING", "PENDING_RERUN", "SUBMITTED", "RUNNING", "FAILING", "FAILED"),
    ], operator.log.read_text()
    gone = ["get", "sparkapplications", "-n", spark_namespace, "-o", "name"]
    cluster.wait("end of its time", lambda: cluster.kubectl(*gone) == "")


def steps(seen: list[dict[str, Any]]) -> list[str]:
    return [step for step, _ in groupby(state(status) for status in seen)]


def has_been(seen: list[dict[str, Any]], wanted: str, times: int) -> bool:
    return steps(seen).count(wanted) == times


def executors_run(status: dict[str, Any]) -> bool:
    return list(status.get("executorState", {}).values()) == ["RUNNING", "RUNNING"]


@retry(stop=stop_after_delay(180), wait=wait_fixed(0.3), reraise=True)
def nothing_left(core: client.CoreV1Api, namespace: str) -> None:
    assert [pod.metadata.name for pod in core.list_namespaced_pod(namespace).items] == []
    assert [
        service.metadata.name for service in core.list_namespaced_service(namespace).items
    ] == []
