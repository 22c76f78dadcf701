"""Jobs, one a use, and what starts them.

On a laptop schedules are stopped at first: a keyless user shares about 20 calls a minute with everybody behind
the same address, and a whole snapshot takes 78. Who has read the operations page starts them in the
UI. The sensors run at first: they cost no call and react to what is there already.
"""

from collections.abc import Collection
from datetime import UTC, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DefaultScheduleStatus,
    ExecutorDefinition,
    JobDefinition,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    define_asset_job,
)

from dataplatform.assets import raw, tables, views
from dataplatform.assets.maintenance import build_maintenance_job
from dataplatform.assets.raw import raw_key
from dataplatform.assets.rotation import build_rotation_job, build_rotation_schedule
from dataplatform.profiles import Profile
from dataplatform.raw.coingecko import api_endpoints
from dataplatform.raw.inbox import inbox
from dataplatform.resources.spark_operator.reaper import build_reaper_sensor
from dataplatform.sensors import arrivals_sensor, automation_sensor, inbox_sensor

if TYPE_CHECKING:
    # Dagster exports the function that makes one, but not its type.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

_HOURLY: Final = [
    raw_key(endpoint) for endpoint in api_endpoints().values() if endpoint.every == "hour"
]
_DAILY: Final = [
    raw_key(endpoint) for endpoint in api_endpoints().values() if endpoint.every != "hour"
]

_MAINTENANCE: Final = build_maintenance_job()
_ROTATION: Final = build_rotation_job()


@cache
def _asset_jobs(step_pods: frozenset[str]) -> "dict[str, UnresolvedAssetJobDefinition]":
    """Return the jobs that materialize assets, by name: what starts a job names the same object."""

    def job(
        name: str, selection: AssetSelection, description: str
    ) -> "UnresolvedAssetJobDefinition":
        executor = _pod_a_step() if name in step_pods else None
        return define_asset_job(name, selection, description=description, executor_def=executor)

    jobs = [
        job("lineage_job", AssetSelection.all(), "Everything: raw files, tables, views, checks."),
        job(
            "snapshot_job",
            AssetSelection.assets(*_HOURLY).downstream(),
            "The endpoints that are snapshots of the hour, and what is built of them.",
        ),
        job(
            "history_job",
            AssetSelection.assets(*_DAILY).downstream(),
            "A day of history, the day's listings, and what is built of them.",
        ),
        job(
            "inbox_job",
            AssetSelection.assets(raw_key(inbox)).downstream(),
            "Lands what was dropped in the inbox, and builds what reads it.",
        ),
        job(
            "tables_job",
            AssetSelection.groups(tables.GROUP, views.GROUP),
            f"Tables and views from the {raw.GROUP} files that are there; asks the API nothing.",
        ),
    ]
    found = {one.name: one for one in jobs}
    if unknown := step_pods - found.keys():
        raise ValueError(
            f"DATAPLATFORM_STEP_POD_JOBS names {min(unknown)}, which is no job of assets."
            f" Remedy: name some of {', '.join(found)}."
        )
    return found


def _pod_a_step() -> ExecutorDefinition:
    from dagster_k8s import k8s_job_executor

    config = {
        # As within the pod of a run: more would wait for the API's budget or the lock.
        "max_concurrent": 1,
        # Steps' Jobs are removed with the pod of their run.
        "enable_owner_references": True,
    }
    return k8s_job_executor.configured(config, name="k8s")


def build_jobs(
    profile: Profile, step_pods: Collection[str] = ()
) -> "list[JobDefinition | UnresolvedAssetJobDefinition]":
    """Return the jobs, one a use; on servers there are secrets to rotate as well.

    Args:
        profile: what stands behind.
        step_pods: jobs whose every step gets a Kubernetes pod of its own.

    Raises:
        ValueError: there is no such job.
    """
    jobs = [*_asset_jobs(frozenset(step_pods)).values(), _MAINTENANCE]
    return jobs if profile == "local" else [*jobs, _ROTATION]


def build_schedules(profile: Profile, step_pods: Collection[str] = ()) -> list[ScheduleDefinition]:
    """Return the schedules: hourly snapshot, daily history, weekly maintenance; UTC.

    Stopped on a laptop, running on servers, where there is a monthly rotation as well.
    """
    jobs = _asset_jobs(frozenset(step_pods))
    local = profile == "local"
    status = DefaultScheduleStatus.STOPPED if local else DefaultScheduleStatus.RUNNING
    return [
        *([] if profile == "local" else [build_rotation_schedule(_ROTATION)]),
        ScheduleDefinition(
            name="snapshot_schedule",
            job=jobs["snapshot_job"],
            # Everybody else asks on the hour.
            cron_schedule="5 * * * *",
            execution_timezone="UTC",
            default_status=status,
            description="Every hour: prices, categories and the whole market.",
        ),
        ScheduleDefinition(
            name="history_schedule",
            job=jobs["history_job"],
            cron_schedule="30 0 * * *",
            execution_timezone="UTC",
            execution_fn=_yesterday,
            default_status=status,
            description="Every day at 00:30 UTC: yesterday's history, and the listings.",
        ),
        ScheduleDefinition(
            name="maintenance_schedule",
            job=_MAINTENANCE,
            cron_schedule="40 3 * * 0",
            execution_timezone="UTC",
            default_status=status,
            description="Every Sunday: compaction, snapshot expiry, orphan files.",
        ),
    ]


def _yesterday(context: ScheduleEvaluationContext) -> RunRequest:
    """Ask for the day that ended last; the partitioned job's own schedule calls deprecated code."""
    tick = context.scheduled_execution_time.astimezone(UTC)
    day = (tick - timedelta(days=1)).date().isoformat()
    return RunRequest(run_key=day, partition_key=day)


def build_sensors(
    profile: Profile = "local", step_pods: Collection[str] = ()
) -> list[SensorDefinition | AutomationConditionSensorDefinition]:
    """Return the sensors, running: on arrivals, on the inbox, on automation conditions.

    On the profile cluster, one more deletes the Spark applications that no run owns.
    """
    jobs = _asset_jobs(frozenset(step_pods))
    return [
        arrivals_sensor(jobs["tables_job"]),
        inbox_sensor(jobs["inbox_job"]),
        automation_sensor(),
        *([build_reaper_sensor()] if profile == "cluster" else []),
    ]
