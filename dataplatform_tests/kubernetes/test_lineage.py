"""The lineage on Kubernetes: real pods, real servers, and the very rows that a laptop has."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus

from dataplatform.lake.place import LakePlace, LocalLake
from dataplatform.lake.spec import NAMESPACE
from dataplatform.profiles import ORIGIN_TAG, lake_place
from dataplatform.tables import all_specs
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.kill_driver import land_wave
from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.control import Control, control
from dataplatform_tests.kubernetes.deployment import Deployment
from dataplatform_tests.kubernetes.fixtures import OperatorProcess
from dataplatform_tests.kubernetes.node import Node
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
    """Dagster outside of the node, by `dagster.cluster.yaml`."""
    own = {name: os.environ[name] for name in os.environ if not name.startswith("DATAPLATFORM_")}
    environment = own | platform.outside
    with pytest.MonkeyPatch.context() as patch:
        for name, value in platform.outside.items():
            patch.setenv(name, value)
        with control(platform, environment) as running:
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
    [application] = platform.applications()
    status = application["status"]
    assert status["applicationState"]["state"] == "COMPLETED"
    assert len(status["executorState"]) == 2
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        [run] = instance.get_runs()
        assert_told(instance, run.run_id)

    again = shell.materialize("group:tables")
    assert again.returncode == 0, again.stdout[-6000:]
    assert "no application is submitted" in again.stdout
    assert [app["metadata"]["name"] for app in platform.applications()] == [
        application["metadata"]["name"]
    ]

    theirs = lake_place(platform.stack.settings, "recorded")
    assert assert_same_as_local(tmp_path / "local", theirs) > 50_000


def assert_told(dagster: DagsterInstance, run_id: str) -> None:
    """Assert that a run has reported each table with its metadata, its checks and its plot."""
    for name, spec in all_specs().items():
        key = AssetKey([NAMESPACE, name])
        event = dagster.get_latest_materialization_event(key)
        assert event, name
        assert event.run_id == run_id
        assert event.asset_materialization
        metadata = event.asset_materialization.metadata
        assert {"dagster/row_count", "dagster/column_lineage", "bytes"} <= metadata.keys(), name
        published = metadata["status"].value == "published"
        assert ("plot" in metadata) is (published and spec.plot is not None), name
    checked = dagster.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [entry.asset_check_evaluation for entry in checked]
    assert len(evaluations) >= len(all_specs())
    assert all(evaluation and evaluation.passed for evaluation in evaluations)


def test_a_queued_run_gets_a_pod_and_its_tables_an_application(
    platform: Deployment, dagster: Control, live: LakePlace
) -> None:
    land_wave(live.raw_zone, 0)
    run_id = dagster.launch("tables_job", LIVE)
    assert dagster.ended(run_id) is DagsterRunStatus.SUCCESS, dagster.said(run_id)
    [application] = of_run(platform, run_id)
    assert application["status"]["applicationState"]["state"] == "COMPLETED"
    assert dagster.run(run_id).tags["dagster/image"] == oci.IMAGE
    assert_told(dagster.instance, run_id)
    assert rows_of(live, "coins").num_rows > 0


def test_a_cancelled_run_takes_its_application_and_its_pods_along(
    platform: Deployment, dagster: Control, live: LakePlace
) -> None:
    land_wave(live.raw_zone, 1)
    run_id = dagster.launch("tables_job", LIVE)
    dagster.wait("executors", lambda: has_executors(platform, run_id))
    dagster.terminate(run_id)
    assert dagster.ended(run_id) is DagsterRunStatus.CANCELED, dagster.said(run_id)
    assert of_run(platform, run_id) == []
    assert [name for name in platform.pods() if name.startswith("tables")] == []


def test_a_run_whose_pod_is_killed_is_tried_again_and_goes_on_with_its_application(
    platform: Deployment, dagster: Control, live: LakePlace, tmp_path: Path
) -> None:
    run_id = dagster.launch("tables_job", LIVE)
    dagster.wait("executors", lambda: has_executors(platform, run_id))
    kill(run_id)
    assert dagster.ended(run_id) is DagsterRunStatus.FAILURE, dagster.said(run_id)
    dagster.wait("another run", lambda: len(dagster.retries(run_id)) == 1)
    [retry] = dagster.retries(run_id)
    assert dagster.ended(retry.run_id) is DagsterRunStatus.SUCCESS, dagster.said(retry.run_id)
    assert len(of_run(platform, run_id)) == 1
    assert of_run(platform, retry.run_id) == []
    assert "again" in dagster.said(retry.run_id)
    assert_same_as_local(tmp_path, live)


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


def of_run(platform: Deployment, run_id: str) -> list[dict[str, Any]]:
    """Return the applications that a run submitted."""
    apps = platform.applications()
    return [app for app in apps if app["metadata"]["labels"]["dagster/run-id"] == run_id]


def has_executors(platform: Deployment, run_id: str) -> bool:
    apps = of_run(platform, run_id)
    return any("executorState" in app.get("status", {}) for app in apps)


def kill(run_id: str) -> None:
    """End the process of a run in its pod as the kernel would, without a word."""
    [process] = [
        process
        for process in psutil.process_iter(["cmdline", "uids"])
        if "execute_run" in (command := process.info["cmdline"] or [])
        if any(run_id in part for part in command)
        if process.info["uids"].real == RUN_USER
    ]
    process.kill()


def snapshots(lake: LakePlace) -> dict[str, int | None]:
    catalog = lake.open_catalog()
    tables = {name: catalog.load_table(f"{NAMESPACE}.{name}") for name in all_specs()}
    return {name: table.metadata.current_snapshot_id for name, table in tables.items()}


def assert_same_as_local(root: Path, theirs: LakePlace) -> int:
    """Assert that a laptop has the same rows of the very same raw files; returns how many."""
    root.mkdir(exist_ok=True)
    local = DagsterHome(root, {"DATAPLATFORM_ORIGIN": theirs.origin})
    ours = LocalLake(local.lake, theirs.origin)
    assert copied(theirs.store, ours.store) > 0
    built = local.materialize("group:tables")
    assert built.returncode == 0, built.stdout[-6000:]
    return assert_same_tables(ours, theirs)
