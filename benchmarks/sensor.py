"""What a look for new raw files costs beside 100,000 stored objects, and beside 100.

A slot is three objects: a body, a marker in the arrivals log, a manifest. The large store has as
many a day as 90 days of hourly and daily fetches of some fifteen endpoints leave.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dagster import (
    DagsterInstance,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    build_sensor_context,
)

from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from benchmarks.simulation import utc
from dataplatform.automation import build_sensors
from dataplatform.lake.manifest import Cursor, Manifest, RawZone, Slot, advance, marker_key
from dataplatform.lake.place import LocalLake
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.state import TableState
from dataplatform.resources.lake import LakeResource
from dataplatform.sensors import LakeCursor, SensorCursor
from dataplatform.tables import all_specs

START = utc("2025-01-01")
DAYS = 90
NEW = 3


def run(*, quick: bool) -> Result:
    """Let the reader catch up with both stores, then tick on each in turn."""
    objects, ticks = (3_000, 5) if quick else (100_000, 15)
    with workspace("sensor") as folder:
        lakes = {
            "100 objects": _filled(folder / "small", 100),
            f"{objects:,} objects": _filled(folder / "large", objects),
        }
        idle, arrived = measure_ticks(lakes, ticks)
    small, large = lakes
    return Result(
        "sensor",
        "One tick for new objects",
        (
            Comparison("nothing new", "ms", (large, idle[large]), (small, idle[small]), 2.0),
            Comparison(
                f"{NEW} slots new", "ms", (large, arrived[large]), (small, arrived[small]), 2.0
            ),
        ),
        ("Whole evaluations of arrivals_sensor; the store is a folder.",),
    )


def _filled(home: Path, objects: int) -> LakeResource:
    """Return a lake with `objects` objects, a third of them markers, spread over 90 days."""
    lake = LakeResource(home=str(home), origin="live")
    slots, datalake = objects // 3, LocalLake(home, "live").datalake
    for number in range(slots):
        _store(datalake, number, START + timedelta(days=DAYS) * number / slots)
    return lake


def slot_objects(number: int, at: datetime) -> list[tuple[str, bytes]]:
    """Return key and content of the three objects of a slot."""
    slot = Slot(source="coingecko", endpoint="global", day=at.date(), name=f"N{number:06d}")
    manifest = Manifest(slot=slot, origin="live", tier="simulated", fetched_at=at, files=())
    return [
        (f"{slot.folder}/body.json.gz", b""),
        (marker_key(slot, at), b""),
        (slot.manifest_key, manifest.model_dump_json().encode()),
    ]


def _store(root: Path, number: int, at: datetime) -> None:
    """Write the objects as files: 100,000 puts through the store took 40 s."""
    for key, body in slot_objects(number, at):
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def measure_ticks(
    lakes: Mapping[str, LakeResource], ticks: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return milliseconds a tick by store: with nothing new, and with a few slots new."""
    sensor = next(s for s in build_sensors() if s.name == "arrivals_sensor")
    cursors = {label: _caught_up(lake, Cursor()) for label, lake in lakes.items()}
    idle: dict[str, list[float]] = {label: [] for label in lakes}
    arrived: dict[str, list[float]] = {label: [] for label in lakes}
    with DagsterInstance.ephemeral() as instance:
        for tick in range(ticks):
            for label, lake in lakes.items():
                context = build_sensor_context(instance, cursors[label], resources={"lake": lake})
                assert not _tick(sensor, context, idle[label])
                for n in range(NEW):
                    _land(lake.raw_zone, tick * NEW + n)
                context = build_sensor_context(instance, cursors[label], resources={"lake": lake})
                assert _tick(sensor, context, arrived[label])
                seen = SensorCursor.model_validate_json(cursors[label]).lakes["live"].arrivals
                cursors[label] = _caught_up(lake, seen)
    return idle, arrived


def _tick(
    sensor: SensorDefinition, context: SensorEvaluationContext, spent: list[float]
) -> Sequence[RunRequest]:
    started = time.perf_counter()
    decided = sensor.evaluate_tick(context)
    spent.append((time.perf_counter() - started) * 1000)
    return decided.run_requests or ()


def _caught_up(lake: LakeResource, seen: Cursor) -> str:
    """Return the cursor of a reader that has seen everything; the tables note the same."""
    zone, catalog = lake.raw_zone, lake.catalog()
    cursor = advance(seen, zone.arrivals(seen), datetime.now(UTC))
    for spec in all_specs().values():
        if "global" in spec.endpoints:
            table = ensure_table(catalog, spec)
            nothing = table.schema().as_arrow().empty_table()
            table.append(nothing, snapshot_properties=TableState(cursor=cursor).summary)
    # Of a period that never ends: what is timed are the ticks between.
    return SensorCursor(lakes={"live": LakeCursor(arrivals=cursor, period=10**9)}).model_dump_json()


def _land(zone: RawZone, number: int) -> None:
    now = datetime.now(UTC)
    slot = Slot(source="coingecko", endpoint="global", day=now.date(), name=f"T{number:06d}")
    zone.commit(Manifest(slot=slot, origin="live", tier="simulated", fetched_at=now, files=()), now)
