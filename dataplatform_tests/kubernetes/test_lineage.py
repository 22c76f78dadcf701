"""The lineage on Kubernetes: real pods, real servers, and the very rows that a laptop has."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
from dagster import (
    AssetCheckSeverity,
    AssetKey,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
)
from kubernetes.client import V1Pod

from dataplatform.assets.raw import raw_key
from dataplatform.lake.place import LakePlace, LocalLake
from dataplatform.lake.spec import LINEAGE, NAMESPACE
from dataplatform.profiles import ORIGIN_TAG, lake_place
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.kill_driver import TABLES, land_wave
from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.control import Control, control
from dataplatform_tests.kubernetes.deployment import STEP_POD_JOB, Deployment
from dataplatform_tests.kubernetes.fixtures import OperatorProcess
from dataplatform_tests.kubernetes.node import Node
from dataplatform_tests.kubernetes.permissions import asked, granted
from dataplatform_tests.stack.fixtures import RunningStack
from dataplatform_tests.stack.test_differential import assert_same_tables, copied, rows_of

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.stack,
    pytest.mark.timeout(2400),
    # Of the daemon's own code.
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated"),
]

DAY: Final = "2025-01-05"
LIVE: Final = {ORIGIN_TAG: "live"}
RAW_AND_TABLES: Final = "group:raw or group:tables"
SMALL: Final = [AssetKey([NAMESPACE, name]) for name in TABLES]
"""Of a run that is about pods: tables that read what `land_wave` lands."""
DROPPED: Final = (
    b"date,coingecko_coin_id,coin_symbol,coin_name,price_usd\n"
    b"01-01-2025,bitcoin,btc,Bitcoin,93507.8\n"
)
"""A file for the inbox."""
ERROR: Final = AssetCheckSeverity.ERROR
RARELY: Final = {
    # A run whose pod never starts, or never ends.
    "dagster:dagster": {("jobs", "list"), ("pods/log", "get")},
    # A step in a pod that is looked after: every 20 seconds.
    "dagster:dagster-code": {("jobs/status", "get")},
    # An executor that no longer answers for two minutes.
    "spark:spark": {("pods", "deletecollection")},
}
"""By account, the verbs that no test here is sure to need; `rbac.yaml` names what does."""
EXECUTOR: Final = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
RUN_USER: Final = 1000
"""As `dagster.cluster.yaml` says."""


@pytest.fixture(scope="module")
def platform(
    cluster: Node,
    operator: OperatorProcess,
    stack: RunningStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Deployment:
    deployment = Deployment(cluster, stack, tmp_path_factory.mktemp("platform"))
    deployment.deploy()
    return deployment


@pytest.fixture(scope="module")
def dagster(platform: Deployment) -> Iterator[Control]:
    """Dagster as `kubectl apply -k .` starts it; this process reads its storage."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in platform.outside.items():
            patch.setenv(name, value)
        with control(platform) as running:
            yield running


@pytest.fixture(scope="module")
def live(platform: Deployment) -> LakePlace:
    """The lake in which runs in pods build tables, of simulated answers."""
    return lake_place(platform.stack.settings, "live")


def outside(platform: Deployment, root: Path, origin: str, **settings: str) -> DagsterHome:
    """Return runs in a process outside of the node, as the code location's account.

    With a Dagster of its own: the daemon ends runs of the cluster's that have no Job.
    """
    own = {**platform.outside, "DATAPLATFORM_ORIGIN": origin}
    return DagsterHome(root, own | settings)


def test_a_run_outside_of_the_node_builds_the_recorded_tables_by_one_application(
    platform: Deployment, tmp_path: Path
) -> None:
    shell = outside(platform, tmp_path, "recorded")
    done = shell.materialize(RAW_AND_TABLES, partition=DAY)
    assert done.returncode == 0, done.stdout[-6000:] + platform.node.logs()
    assert "stages, " in done.stdout
    [application] = platform.applications()
    status = application["status"]
    assert status["applicationState"]["state"] == "COMPLETED"
    assert len(status["executorState"]) == 2
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        [run] = instance.get_runs()
        assert len(assert_told(instance, run.run_id)) > 5

    again = shell.materialize("group:tables")
    assert again.returncode == 0, again.stdout[-6000:]
    assert "no application is submitted" in again.stdout
    assert [app["metadata"]["name"] for app in platform.applications()] == [
        application["metadata"]["name"]
    ]

    theirs = lake_place(platform.stack.settings, "recorded")
    assert assert_same_as_local(tmp_path / "local", theirs) > 50_000


def assert_told(dagster: DagsterInstance, run_id: str) -> set[str]:
    """Assert that a run has reported each table with its metadata and checks; returns the plotted."""
    plotted = set()
    for name, spec in all_specs().items():
        event = dagster.get_latest_materialization_event(table_key(name))
        assert event, name
        assert event.run_id == run_id
        assert event.asset_materialization
        metadata = event.asset_materialization.metadata
        assert {"dagster/row_count", "dagster/column_lineage", "bytes"} <= metadata.keys(), name
        if "plot" in metadata:
            assert spec.plot, name
            plotted.add(name)
    checked = dagster.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [one for entry in checked if (one := entry.asset_check_evaluation)]
    assert len(evaluations) >= len(all_specs())
    # Simulated answers are of another day: that they are stale is a warning.
    failed = [one for one in evaluations if not one.passed and one.severity is ERROR]
    assert failed == []
    return plotted


def test_a_queued_run_gets_a_pod_and_its_tables_an_application(
    platform: Deployment, dagster: Control, live: LakePlace
) -> None:
    land_wave(live.raw_zone, 0)
    run_id = dagster.launch("tables_job", LIVE)
    dagster.wait_for_executors(run_id)
    assert_authenticated(platform.executors_of(run_id))
    assert dagster.ended(run_id) is DagsterRunStatus.SUCCESS, dagster.said(run_id)
    [application] = platform.of_run(run_id)
    assert application["status"]["applicationState"]["state"] == "COMPLETED"
    assert dagster.run(run_id).tags["dagster/image"] == oci.IMAGE
    assert assert_told(dagster.instance, run_id)
    assert rows_of(live, "coins").num_rows > 0


def test_each_step_of_a_job_named_for_it_gets_a_pod_sized_by_its_asset(
    platform: Deployment, dagster: Control, live: LakePlace
) -> None:
    live.raw_zone.store.put("inbox/prices.csv", DROPPED)
    inbox = raw_key(all_endpoints()["inbox"])
    run_id = dagster.launch(STEP_POD_JOB, LIVE, [inbox, table_key("daily_prices")])
    dagster.wait_for_executors(run_id)
    assert memory_limits(platform, run_id) == {None: "2Gi", "raw__inbox": "1Gi", "tables": "2Gi"}
    assert dagster.instance.get_latest_materialization_event(inbox)
    dagster.terminate(run_id)
    assert dagster.ended(run_id) is DagsterRunStatus.CANCELED, dagster.said(run_id)
    # The step ends after its run, and so does what it submitted.
    dagster.wait("end of the application", lambda: platform.of_run(run_id) == [])
    dagster.wait("end of the pods", lambda: platform.pods_of(run_id) == [])


def assert_authenticated(executors: Collection[V1Pod]) -> None:
    """Assert that all executors of an application got one secret, which Spark made for it."""
    assert executors
    given = [
        {variable.name: variable.value for variable in pod.spec.containers[0].env}
        for pod in executors
    ]
    [secret] = {env.get("_SPARK_AUTH_SECRET") for env in given}
    assert secret
    # Or they would have it, and ask nobody for his.
    options = [value for env in given for name, value in env.items() if "_JAVA_OPT_" in name]
    assert options.count("-Dspark.authenticate=true") == len(executors)


def memory_limits(platform: Deployment, run_id: str) -> dict[str | None, str]:
    """Return the memory of a run's pod (None) and of those of its steps, by the step."""
    return {
        pod.metadata.labels.get("dagster/op"): pod.spec.containers[0].resources.limits["memory"]
        for pod in platform.pods_of(run_id)
    }


def test_a_cancelled_run_takes_its_application_and_its_pods_along(
    platform: Deployment, dagster: Control, live: LakePlace
) -> None:
    land_wave(live.raw_zone, 1)
    run_id = dagster.launch("tables_job", LIVE, SMALL)
    dagster.wait_for_executors(run_id)
    dagster.terminate(run_id)
    assert dagster.ended(run_id) is DagsterRunStatus.CANCELED, dagster.said(run_id)
    assert platform.of_run(run_id) == []
    assert [name for name in platform.pods() if run_id[:8] in name] == []


def test_a_run_whose_pod_is_killed_is_tried_again_and_goes_on_with_its_application(
    platform: Deployment, dagster: Control, live: LakePlace, tmp_path: Path
) -> None:
    land_wave(live.raw_zone, 1)
    run_id = dagster.launch("tables_job", LIVE, SMALL)
    dagster.wait_for_executors(run_id)
    kill_run(run_id)
    kill_executor(platform.of_run(run_id)[0]["status"]["sparkApplicationId"])
    assert dagster.ended(run_id) is DagsterRunStatus.FAILURE, dagster.said(run_id)
    dagster.wait("another run", lambda: len(dagster.retries(run_id)) == 1)
    [retry] = dagster.retries(run_id)
    assert dagster.ended(retry.run_id) is DagsterRunStatus.SUCCESS, dagster.said(retry.run_id)
    assert len(platform.of_run(run_id)) == 1
    assert platform.of_run(retry.run_id) == []
    assert "again" in dagster.said(retry.run_id)
    # A row that a later response repeats keeps the lineage of the first, which a table built in one
    # go has not seen: the laptop builds these waves at once.
    assert_same_as_local(tmp_path, live, TABLES, leave_out={column.name for column in LINEAGE})


@pytest.mark.parametrize(
    ("program", "settings", "said"),
    [
        ("x = []\nwhile True: x.append(bytearray(1 << 24))", {}, "OutOfMemoryError"),
        (
            "",
            {"IMAGE": "registry.test/absent:1", "DEADLINES": '{"image_pull": 5}'},
            "ImagePullError",
        ),
    ],
    ids=["too little memory", "no such image"],
)
def test_a_driver_that_does_not_come_to_work_is_explained(
    platform: Deployment,
    live: LakePlace,
    tmp_path: Path,
    program: str,
    settings: dict[str, str],
    said: str,
) -> None:
    land_wave(live.raw_zone, 2)
    main = platform.node.shared / "main.py"
    main.write_text(program)
    own = {"MAIN_FILE": f"local://{main}"} | settings
    env = {f"DATAPLATFORM_SPARK_{name}": value for name, value in own.items()}
    before = snapshots(live)
    done = outside(platform, tmp_path, "live", **env).materialize("group:tables")
    assert done.returncode != 0
    assert said in done.stdout, done.stdout[-6000:]
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        [run] = instance.get_runs()
    assert run.status is DagsterRunStatus.FAILURE
    assert snapshots(live) == before


def test_the_roles_grant_what_was_asked_for_and_nothing_else(
    platform: Deployment, request: pytest.FixtureRequest
) -> None:
    ran = {item.name.partition("[")[0] for item in request.session.items}
    if missing := {name for name in globals() if name.startswith("test_")} - ran:
        pytest.skip(f"counts what all tests of this file ask for; without {', '.join(missing)}")
    for account, permissions in granted().items():
        requests = asked(platform.node, account)
        assert {what for what, codes in requests.items() if 403 in codes} == set(), account
        unused = {(what.resource, what.verb) for what in permissions - requests.keys()}
        assert unused <= RARELY.get(account, set()), account


def table_key(name: str) -> AssetKey:
    return AssetKey([NAMESPACE, name])


def kill_run(run_id: str) -> None:
    """End the process of a run in its pod as the kernel would, without a word."""
    [process] = [
        process
        for process in psutil.process_iter(["cmdline", "uids"])
        if "execute_run" in (command := process.info["cmdline"] or [])
        if any(run_id in part for part in command)
        if process.info["uids"].real == RUN_USER
    ]
    process.kill()


def kill_executor(spark_id: str) -> None:
    """End one of the executors of an application likewise."""
    [process, *_] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if {EXECUTOR, spark_id} <= {*(process.info["cmdline"] or [])}
    ]
    process.kill()


def snapshots(lake: LakePlace) -> dict[str, int | None]:
    catalog = lake.open_catalog()
    tables = {name: catalog.load_table(f"{NAMESPACE}.{name}") for name in all_specs()}
    return {name: table.metadata.current_snapshot_id for name, table in tables.items()}


def assert_same_as_local(
    root: Path,
    theirs: LakePlace,
    tables: Collection[str] = (),
    leave_out: Collection[str] = (),
) -> int:
    """Assert that a laptop has the same rows of the very same raw files; returns how many.

    Args:
        root: for the laptop's lake.
        theirs: the lake to compare.
        tables: what of it; empty, all.
        leave_out: columns that are not compared.
    """
    root.mkdir(exist_ok=True)
    local = DagsterHome(root, {"DATAPLATFORM_ORIGIN": theirs.origin})
    ours = LocalLake(local.lake, theirs.origin)
    assert copied(theirs.store, ours.store) > 0
    keys = [f'key:"{NAMESPACE}/{name}"' for name in tables]
    built = local.materialize(" or ".join(keys) or "group:tables")
    assert built.returncode == 0, built.stdout[-6000:]
    return assert_same_tables(ours, theirs, tables, leave_out)
