"""Sensors: what arrives is built, whoever landed it. A tick costs what is new.

A sensor's cursor moves only when it has decided on what it saw. While a run is building the tables
in question it decides nothing: that run may cover the arrivals, and asking again is cheap.

A run that was asked for may fail. So once a period, the first tick looks at every table, and what is
behind its inputs is asked for again: four times a day at most, whatever goes wrong.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
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
from pydantic import BaseModel, ConfigDict

from dataplatform.assets.maintenance import JOB as MAINTENANCE_JOB
from dataplatform.assets.raw import raw_key
from dataplatform.assets.tables import table_key
from dataplatform.lake.manifest import Arrival, Cursor, Origin, advance
from dataplatform.lake.place import LakePlace
from dataplatform.lake.store.errors import ObjectStoreError
from dataplatform.lake.store.object_store import StoredObject
from dataplatform.profiles import ORIGIN_TAG
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
PERIOD: Final = timedelta(hours=6)
"""What failed is asked for once a period. Tables count as stale after 26 hours: four tries before."""
_UNFINISHED: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


class LakeCursor(BaseModel):
    """How far the arrivals sensor has come with one lake.

    Attributes:
        arrivals: how far the lake's arrivals log was read.
        period: the number of the period in which every table was looked at last.
    """

    model_config = ConfigDict(frozen=True)

    arrivals: Cursor = Cursor()
    period: int = 0


class SensorCursor(BaseModel):
    """The arrivals sensor's cursor: a part for each lake, as a switch may come at any time."""

    model_config = ConfigDict(frozen=True)

    lakes: dict[Origin, LakeCursor] = {}


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

    The first tick of a period decides on all tables, those that a failed run left behind included.

    Args:
        cursor: the JSON of a `SensorCursor`, as the last tick left it.
        lake: whose arrivals log is read.
        instance: whose unfinished runs are asked for.
        now: UTC.

    Returns:
        a request for the tables and views that are behind, or why there is none.
    """
    cursors = SensorCursor.model_validate_json(cursor) if cursor else SensorCursor()
    before = cursors.lakes.get(lake.lake_origin, LakeCursor())
    arrivals = lake.raw_zone.arrivals(before.arrivals, limit=MOST)
    is_first = _period(now) > before.period
    if not (arrivals or is_first):
        return SensorResult(skip_reason=SkipReason(_NOTHING), cursor=cursor)
    endpoints = {arrival.slot.endpoint for arrival in arrivals}
    candidates = list(all_specs()) if is_first else _readers(endpoints)
    # Asked before the tables' state is: a run that ends in between has then published.
    busy = building(instance, affected(candidates))
    if busy:
        reason = f"Run {busy.run_id} is building the tables that read what has arrived."
        return SensorResult(skip_reason=SkipReason(reason), cursor=cursor)
    after = LakeCursor(arrivals=advance(before.arrivals, arrivals, now), period=_period(now))
    following = SensorCursor(lakes={**cursors.lakes, lake.lake_origin: after}).model_dump_json()
    behind = _behind(lake, candidates)
    if not behind:
        reason = f"The tables hold what has arrived ({len(arrivals)} manifests)."
        reason = reason if arrivals else _NOTHING
        return SensorResult(skip_reason=SkipReason(reason), cursor=following)
    request = RunRequest(
        run_key=_run_key(lake, _manifests(lake, arrivals), now),
        asset_selection=sorted(affected(behind)),
        tags=_tags(lake, "arrival" if arrivals else "still behind"),
    )
    return SensorResult(run_requests=[request], cursor=following)


_NOTHING: Final = "Nothing has arrived."


def inbox_tick(lake: LakeResource, instance: DagsterInstance, now: datetime) -> SensorResult:
    """Ask for a run that lands what is ready in the inbox.

    A run that fails on the waiting files is asked for again when one changes, or a period begins.
    """
    dropped = waiting(lake.store, now)
    if not dropped:
        return SensorResult(skip_reason=SkipReason(_empty_inbox(lake.place, now)))
    busy = building(instance, {raw_key(inbox)})
    if busy:
        return SensorResult(skip_reason=SkipReason(f"Run {busy.run_id} is landing the inbox."))
    request = RunRequest(run_key=_run_key(lake, dropped, now), tags=_tags(lake, "arrival"))
    return SensorResult(run_requests=[request])


def _empty_inbox(place: LakePlace, now: datetime) -> str:
    """Return which inbox is empty, and how many files are in that of the lake that is not in use."""
    other = place.beside()
    said = f"{_inbox_of(place)} is empty."
    try:
        elsewhere = len(waiting(other.store, now))
    except ObjectStoreError:  # A store of the user's own may have the buckets of one lake only.
        return said
    if not elsewhere:
        return said
    return (
        f"{said} Files in {_inbox_of(other)}: {elsewhere}; that lake ({other.origin}) is not in use."
        f" Remedy: dp run --origin {other.origin}, or put them into the first."
    )


def _inbox_of(place: LakePlace) -> str:
    return f"{place.whereabouts['raw files']}/{INBOX}/"


def _tags(lake: LakeResource, reason: str) -> dict[str, str]:
    """Return the tags of a run about the lake that the sensor has in view, whatever is used then."""
    return {"dataplatform/reason": reason, ORIGIN_TAG: lake.lake_origin}


def _period(now: datetime) -> int:
    return int(now.timestamp() // PERIOD.total_seconds())


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


def _run_key(lake: LakeResource, found: Iterable[StoredObject], now: datetime) -> str:
    """Return one key a period for the same objects of a lake in any order: by their ETags."""
    lines = sorted(f"{stored.key} {stored.etag}" for stored in found)
    text = "\n".join([lake.lake_origin, str(_period(now)), *lines])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _manifests(lake: LakeResource, arrivals: Sequence[Arrival]) -> list[StoredObject]:
    heads = (lake.store.head(arrival.slot.manifest_key) for arrival in arrivals)
    return [head for head in heads if head]


def _readers(endpoints: set[str]) -> list[str]:
    return [name for name, spec in all_specs().items() if endpoints & set(spec.endpoints)]


def _behind(lake: LakeResource, names: Iterable[str]) -> list[str]:
    """Return the tables that have not read all of their inputs."""
    target = lake.build_target()
    return [name for name in names if target.is_behind(all_specs()[name])]
