"""Sensors: what arrives is built, whoever landed it. A tick costs what is new.

A sensor's cursor moves only when it has decided on what it saw. While a run is building the tables
in question it decides nothing: that run may cover the arrivals, and asking again is cheap.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetKey,
    AssetSelection,
    AutomationConditionSensorDefinition,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from dataplatform.assets.maintenance import JOB as MAINTENANCE_JOB
from dataplatform.assets.raw import raw_key
from dataplatform.assets.tables import table_key
from dataplatform.lake.manifest import Arrival, Cursor, RawZone, advance
from dataplatform.raw import all_endpoints
from dataplatform.raw.inbox import INBOX, inbox, waiting
from dataplatform.resources.lake import LakeResource
from dataplatform.tables import all_specs
from dataplatform.views import all_views

if TYPE_CHECKING:
    # Dagster exports the function that makes one, but not its type.
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition as AssetJob,
    )

MOST: Final = 200
"""Manifests a tick looks at: 200 heads take 20 ms in a folder, 2 s on a slow S3; a tick has 60."""
INTERVAL_SECONDS: Final = 30
_UNFINISHED: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def arrivals_sensor(tables_job: "AssetJob") -> SensorDefinition:
    """Return the sensor that builds what reads newly committed manifests."""

    @sensor(
        name="arrivals_sensor",
        job=tables_job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Builds the tables and views that read newly landed raw files.",
    )
    def _arrivals(context: SensorEvaluationContext, lake: LakeResource) -> SensorResult:
        return arrivals_tick(context.cursor, lake, context.instance, datetime.now(UTC))

    return _arrivals


def inbox_sensor(inbox_job: "AssetJob") -> SensorDefinition:
    """Return the sensor that lands and builds what is dropped under `inbox/`."""

    @sensor(
        name="inbox_sensor",
        job=inbox_job,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=f"Lands files dropped under {INBOX}/ and builds what reads them.",
    )
    def _inbox(context: SensorEvaluationContext, lake: LakeResource) -> SensorResult:
        return inbox_tick(lake, context.instance, datetime.now(UTC))

    return _inbox


def automation_sensor() -> AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the assets' automation conditions: Dagster's own is off."""
    return AutomationConditionSensorDefinition(
        "automation_sensor",
        target=AssetSelection.all(),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Refreshes tables and views when what they read was updated by another run.",
    )


def arrivals_tick(
    cursor: str | None, lake: LakeResource, instance: DagsterInstance, now: datetime
) -> SensorResult:
    """Decide on the arrivals since `cursor`, oldest first and at most `MOST` of them.

    Args:
        cursor: the JSON of a `Cursor`, as the last tick left it.
        lake: whose arrivals log is read.
        instance: whose unfinished runs are asked for.
        now: UTC.

    Returns:
        a request for the tables and views that read what has arrived, or why there is none.
    """
    before = Cursor.model_validate_json(cursor) if cursor else Cursor()
    zone = lake.raw_zone
    arrivals = zone.arrivals(before, limit=MOST)
    if not arrivals:
        return SensorResult(skip_reason=SkipReason("Nothing has arrived."), cursor=cursor)
    readers = _readers({arrival.slot.endpoint for arrival in arrivals})
    # Asked before the tables' state is: a run that ends in between has then published.
    busy = building(instance, affected(readers))
    if busy:
        reason = f"Run {busy.run_id} is building the tables that read what has arrived."
        return SensorResult(skip_reason=SkipReason(reason), cursor=cursor)
    following = advance(before, arrivals, now).model_dump_json()
    behind = [name for name in readers if _is_behind(lake, name)]
    if not behind:
        reason = f"The tables hold what has arrived ({len(arrivals)} manifests)."
        return SensorResult(skip_reason=SkipReason(reason), cursor=following)
    request = RunRequest(
        run_key=run_key(zone, arrivals), asset_selection=sorted(affected(behind)), tags=_TAGS
    )
    return SensorResult(run_requests=[request], cursor=following)


def inbox_tick(lake: LakeResource, instance: DagsterInstance, now: datetime) -> SensorResult:
    """Ask for a run that lands what is ready in the inbox.

    The run key is made of the waiting files: a run that fails on them is not asked for again before
    a file changes.
    """
    dropped = waiting(lake.store, now)
    if not dropped:
        return SensorResult(skip_reason=SkipReason("The inbox is empty."))
    busy = building(instance, {raw_key(inbox)})
    if busy:
        return SensorResult(skip_reason=SkipReason(f"Run {busy.run_id} is landing the inbox."))
    key = _digest(f"{stored.key} {stored.etag}" for stored in dropped)
    return SensorResult(run_requests=[RunRequest(run_key=key, tags=_TAGS)])


_TAGS: Final = {"dataplatform/reason": "arrival"}


def building(instance: DagsterInstance, keys: Iterable[AssetKey]) -> DagsterRun | None:
    """Return an unfinished run that will build one of `keys`, or None.

    A run of a whole job names no assets; all jobs but maintenance build.
    """
    wanted = set(keys)
    for run in instance.get_runs(RunsFilter(statuses=_UNFINISHED)):
        selected = run.asset_selection
        if selected is None and run.job_name != MAINTENANCE_JOB:
            return run
        if selected and wanted & selected:
            return run
    return None


def affected(tables: Iterable[str]) -> set[AssetKey]:
    """Return the keys of `tables` and of all tables and views downstream of them."""
    found = {table_key(name) for name in tables}
    for spec in all_specs().values():
        if any(table_key(name) in found for name in spec.upstream):
            found.add(table_key(spec.name))
    for view in all_views().values():
        if any(AssetKey([r.schema, r.name]) in found for r in view.references):
            found.add(AssetKey([view.relation.schema, view.relation.name]))
    return found


def run_key(zone: RawZone, arrivals: Sequence[Arrival]) -> str:
    """Return one key for the same manifests in any order: by their ETags."""
    heads = (zone.store.head(arrival.slot.manifest_key) for arrival in arrivals)
    return _digest(sorted(f"{head.key} {head.etag}" for head in heads if head))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _readers(endpoints: set[str]) -> list[str]:
    return [name for name, spec in all_specs().items() if endpoints & set(spec.endpoints)]


def _is_behind(lake: LakeResource, name: str) -> bool:
    """Whether a committed slot is unread by the table: one is enough to know."""
    from dataplatform.lake.schema import load_table
    from dataplatform.lake.state import TableState, published_state

    table = load_table(lake.catalog(), name)
    state = published_state(table) if table else TableState()
    pairs = {(all_endpoints()[e].source, e) for e in all_specs()[name].endpoints}
    return bool(lake.raw_zone.arrivals(state.cursor, pairs, limit=1))
