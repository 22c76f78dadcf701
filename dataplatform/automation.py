"""Jobs, one a use, and what starts them.

On a laptop schedules are stopped at first: a keyless user shares about 20 calls a minute with everybody behind
the same address, and a whole snapshot takes 78. Who has read the operations page starts them in the
UI. The sensors run at first: they cost no call and react to what is there already.
"""

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DefaultScheduleStatus,
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

lineage_job: Final = define_asset_job(
    "lineage_job",
    AssetSelection.all(),
    description="Everything: raw files, tables, views, checks.",
)
snapshot_job: Final = define_asset_job(
    "snapshot_job",
    AssetSelection.assets(*_HOURLY).downstream(),
    description="The endpoints that are snapshots of the hour, and what is built of them.",
)
history_job: Final = define_asset_job(
    "history_job",
    AssetSelection.assets(*_DAILY).downstream(),
    description="A day of history, the day's listings, and what is built of them.",
)
inbox_job: Final = define_asset_job(
    "inbox_job",
    AssetSelection.assets(raw_key(inbox)).downstream(),
    description="Lands what was dropped in the inbox, and builds what reads it.",
)
tables_job: Final = define_asset_job(
    "tables_job",
    AssetSelection.groups(tables.GROUP, views.GROUP),
    description=f"Tables and views from the {raw.GROUP} files that are there; asks the API nothing.",
)
maintenance_job: Final = build_maintenance_job()
rotation_job: Final = build_rotation_job()


def build_jobs(profile: Profile) -> "list[JobDefinition | UnresolvedAssetJobDefinition]":
    """Return the jobs, one a use; on servers there are secrets to rotate as well."""
    jobs = [lineage_job, snapshot_job, history_job, inbox_job, tables_job, maintenance_job]
    return jobs if profile == "local" else [*jobs, rotation_job]


def build_schedules(profile: Profile) -> list[ScheduleDefinition]:
    """Return the schedules: hourly snapshot, daily history, weekly maintenance; UTC.

    Stopped on a laptop, running on servers, where there is a monthly rotation as well.
    """
    local = profile == "local"
    status = DefaultScheduleStatus.STOPPED if local else DefaultScheduleStatus.RUNNING
    return [
        *([] if profile == "local" else [build_rotation_schedule(rotation_job)]),
        ScheduleDefinition(
            name="snapshot_schedule",
            job=snapshot_job,
            # Everybody else asks on the hour.
            cron_schedule="5 * * * *",
            execution_timezone="UTC",
            default_status=status,
            description="Every hour: prices, categories and the whole market.",
        ),
        ScheduleDefinition(
            name="history_schedule",
            job=history_job,
            cron_schedule="30 0 * * *",
            execution_timezone="UTC",
            execution_fn=_yesterday,
            default_status=status,
            description="Every day at 00:30 UTC: yesterday's history, and the listings.",
        ),
        ScheduleDefinition(
            name="maintenance_schedule",
            job=maintenance_job,
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


def build_sensors() -> list[SensorDefinition | AutomationConditionSensorDefinition]:
    """Return the sensors, running: on arrivals, on the inbox, on automation conditions."""
    return [arrivals_sensor(tables_job), inbox_sensor(inbox_job), automation_sensor()]
