"""What a look for new raw files costs beside 100,000 stored objects, and beside 100.

A slot is three objects: a body, a marker in the arrivals log, a manifest. The large store has as
many a day as 90 days of hourly and daily fetches of some fifteen endpoints leave.
"""

import time
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from benchmarks.simulation import utc
from dataplatform.lake.manifest import Cursor, Manifest, RawZone, Slot, advance, marker_key
from dataplatform.lake.object_store import open_folder

START = utc("2025-01-01")
DAYS = 90
NEW = 3


def run(*, quick: bool) -> Result:
    """Let the reader catch up with both stores, then tick on each in turn."""
    objects, ticks = (3_000, 5) if quick else (100_000, 31)
    with workspace("sensor") as folder:
        zones = {
            "100 objects": _filled(folder / "small", 100),
            f"{objects:,} objects": _filled(folder / "large", objects),
        }
        idle, arrived = _ticks(zones, ticks)
    small, large = zones
    return Result(
        "sensor",
        "One tick for new objects",
        (
            Comparison("nothing new", "ms", (large, idle[large]), (small, idle[small]), 2.0),
            Comparison(
                f"{NEW} slots new", "ms", (large, arrived[large]), (small, arrived[small]), 2.0
            ),
        ),
        ("Measured on RawZone.arrivals, which is what the sensor asks; a folder as object store.",),
    )


def _filled(root: Path, objects: int) -> RawZone:
    """Return a zone with `objects` objects, a third of them markers, spread over 90 days."""
    zone = RawZone(open_folder(root))
    slots = objects // 3
    for number in range(slots):
        at = START + timedelta(days=DAYS) * number / slots
        _store(root, number, at)
    return zone


def _store(root: Path, number: int, at: datetime) -> None:
    """Write the three objects as files: 100,000 puts through the store took 40 s."""
    slot = Slot(source="coingecko", endpoint="global", day=at.date(), name=f"N{number:06d}")
    manifest = Manifest(slot=slot, origin="live", tier="simulated", fetched_at=at, files=())
    bodies = {
        f"{slot.folder}/body.json.gz": b"",
        marker_key(slot, at): b"",
        slot.manifest_key: manifest.model_dump_json().encode(),
    }
    for key, body in bodies.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def _ticks(
    zones: dict[str, RawZone], ticks: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return milliseconds a tick by store: with nothing new, and with a few slots new."""
    now = START + timedelta(days=DAYS)
    cursors = {
        label: advance(Cursor(), zone.arrivals(Cursor()), now) for label, zone in zones.items()
    }
    idle: dict[str, list[float]] = {label: [] for label in zones}
    arrived: dict[str, list[float]] = {label: [] for label in zones}
    for tick in range(ticks):
        at = now + timedelta(minutes=20 * (tick + 1))
        for label, zone in zones.items():
            cursors[label] = _tick(zone, cursors[label], at, idle[label], 0)
            for n in range(NEW):
                _land(zone, 10**6 + tick * NEW + n, at)
            cursors[label] = _tick(zone, cursors[label], at, arrived[label], NEW)
    return idle, arrived


def _tick(zone: RawZone, cursor: Cursor, now: datetime, spent: list[float], new: int) -> Cursor:
    started = time.perf_counter()
    arrivals = zone.arrivals(cursor)
    after = advance(cursor, arrivals, now)
    spent.append((time.perf_counter() - started) * 1000)
    assert len(arrivals) == new
    return after


def _land(zone: RawZone, number: int, at: datetime) -> None:
    slot = Slot(source="coingecko", endpoint="global", day=at.date(), name=f"N{number:06d}")
    files = Manifest(slot=slot, origin="live", tier="simulated", fetched_at=at, files=())
    zone.commit(files, at + timedelta(microseconds=number % 1000))
