"""What once slipped through a build: clocks, long builds, absurd values, races, repeated keys."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dataplatform.lake import build, plan
from dataplatform.lake.build import AuditFailedError, Builder
from dataplatform.lake.inspect import partitions, snapshots
from dataplatform.lake.landing import write_body
from dataplatform.lake.manifest import Manifest, RawFile, Slot, marker_key, sha256
from dataplatform.lake.spec import Check
from dataplatform.lake.state import snapshot_state
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform_tests.lake.tiny_lake import PRICES, TinyLake, at, changed, quote, reading

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

POINTS = all_specs()["price_points"]


@pytest.fixture
def lake(tmp_path: Path, spark: "SparkSession") -> TinyLake:
    return TinyLake(tmp_path / "lake", spark)


@pytest.fixture
def charts(tmp_path: Path, spark: "SparkSession") -> TinyLake:
    """A lake of the API's own endpoints."""
    return TinyLake(tmp_path / "charts", spark, all_endpoints())


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python's local time is Berlin's; the JVM's session stays in UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def land_chart(lake: TinyLake, name: str, moments: list[float]) -> None:
    """Commit one coin's market_chart with a price at each moment (ms)."""
    fetched = at("2024-11-05T00:00:00")
    points = [[moment, 100.0] for moment in moments]
    chart = {"prices": points, "market_caps": points, "total_volumes": points}
    body = json.dumps(chart).encode()
    slot = Slot(source="coingecko", endpoint="market_chart", day=fetched.date(), name=name)
    key, size = write_body(lake.zone.store.put, slot, "bitcoin", "json", body)
    file = RawFile(
        key=key,
        request="/c",
        params={"id": "bitcoin", "vs_currency": "usd"},
        sha256=sha256(body),
        size=size,
        fetched_at=fetched,
    )
    manifest = Manifest(slot=slot, origin="live", tier="demo", fetched_at=fetched, files=(file,))
    assert lake.zone.commit(manifest)


def hours(start: str, count: int) -> list[float]:
    first = at(start).timestamp()
    return [(first + 3600 * number) * 1000 for number in range(count)]


@pytest.mark.usefixtures("berlin")
def test_the_hour_that_comes_twice_in_autumn_is_found_again(charts: TinyLake) -> None:
    # Both ends of a day belong to the API's answer, so midnight comes in two of them.
    land_chart(charts, "26", hours("2024-10-26T00:00:00", 25))
    charts.build(POINTS)
    land_chart(charts, "27", hours("2024-10-27T00:00:00", 25))
    (result,) = charts.build(POINTS)
    assert (result.inserted, result.rows) == (24, 49)
    assert len(charts.rows("price_points", "observed_at")) == 49


@pytest.mark.parametrize("published", [False, True])
def test_a_time_in_the_far_future_is_quarantined(charts: TinyLake, published: bool) -> None:
    if published:
        land_chart(charts, "before", hours("2024-10-20T00:00:00", 5))
        charts.build(POINTS)
    land_chart(charts, "after", [*hours("2024-10-21T00:00:00", 5), 1e15])
    point, quarantine = charts.build(POINTS, all_specs()["quarantine"])
    assert point.rows == 10 if published else 5
    assert quarantine.rows == 1


def test_a_sample_shows_what_python_cannot_hold(lake: TinyLake) -> None:
    far = changed(
        PRICES,
        transform=lambda i: PRICES.transform(i).selectExpr(
            *("coin", "day", "price", "trades", "origin", "raw_key"),
            "timestamp_micros(9000000000000000000) AS fetched_at",
        ),
        checks=(Check("near", "year(fetched_at) > 9999", "Times are near."),),
    )
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1)])
    with pytest.raises(AuditFailedError, match="near: 1 violation") as failed:
        lake.build(far)
    (found,) = [c for c in failed.value.result.checks if c.name == "near"]
    assert "287168" in found.sample[0]["fetched_at"]


def late(lake: TinyLake, coin: str) -> Callable[[], bool]:
    """Write a slot but its manifest; the result commits it."""
    fetched = at("2025-01-02T00:00:00")
    body = json.dumps([quote(coin, "2025-01-01", 2)]).encode()
    slot = Slot(source="test", endpoint="quotes", day=fetched.date(), name=coin)
    key, size = write_body(lake.zone.store.put, slot, "body", "json", body)
    file = RawFile(key=key, request="/quotes", sha256=sha256(body), size=size, fetched_at=fetched)
    manifest = Manifest(slot=slot, origin="live", tier="demo", fetched_at=fetched, files=(file,))
    lake.zone.store.put(marker_key(slot, datetime.now(UTC)), b"")
    text = manifest.model_dump_json().encode()
    return lambda: lake.zone.store.put_if_absent(manifest.key, text)


def test_a_build_that_takes_long_loses_no_manifest(
    lake: TinyLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.land("2025-01-01T00:00:00", [quote("a", "2025-01-01", 1)])
    lake.build()
    commit = late(lake, "late")
    lake.land("2025-01-03T00:00:00", [quote("b", "2025-01-01", 1)])
    ahead = timedelta(0)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + ahead

    real = Builder._change  # noqa: SLF001

    def slow(self: Builder, planned: plan.Plan) -> Any:
        nonlocal ahead
        # The manifest comes a second after the listing; the transformation takes 20 minutes.
        commit()
        ahead = timedelta(minutes=20)
        return real(self, planned)

    monkeypatch.setattr(plan, "datetime", Clock)
    # Nothing else tells the time: the cursor goes by when the arrivals were listed.
    assert not hasattr(build, "datetime")
    monkeypatch.setattr(Builder, "_change", slow)
    lake.build()
    monkeypatch.setattr(Builder, "_change", real)
    lake.build()
    assert {row[0] for row in lake.rows()} == {"a", "b", "late"}


def test_two_readers_do_not_race_to_evolve_what_they_read(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1)])
    lake.build()
    yearly = changed(PRICES, partitioning=("year(day)",))
    readers = [
        changed(reading(lambda inputs: inputs.table("prices")), name=f"reader{number}")
        for number in range(4)
    ]
    names = [reader.name for reader in readers]
    results = list(lake.builder(yearly, *readers).build(names))
    assert sorted(result.table for result in results) == names


def test_a_key_twice_among_updates_fails_the_audit(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1)])
    lake.build()
    lake.land("2025-01-03T11:00:00", [quote("a", "2025-01-01", 2), quote("a", "2025-01-01", 3)])
    with pytest.raises(AuditFailedError, match="keys_unique: 1 violation") as failed:
        lake.build()
    (check,) = failed.value.result.checks
    assert check.sample == [{"coin": "a", "day": "2025-01-01"}]


def test_a_check_that_is_new_is_not_said_to_hold(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 500)])
    (first,) = lake.build()
    assert not first.held
    held = {name.split(":")[0] for name in lake.build()[0].held}
    assert held == {"keys_unique", "required_columns_present", "numbers_finite", "below_1000"}
    stricter = Check("below_1000", "price >= 100", "Every price is below 100.")
    strict = changed(PRICES, checks=(stricter,))
    assert stricter.fingerprint not in lake.build(strict)[0].held
    # New rows pass it; the old ones were never asked.
    lake.land("2025-01-03T11:00:00", [quote("b", "2025-02-01", 5)])
    lake.build(strict)
    left = {name.split(":")[0] for name in lake.build(strict)[0].held}
    assert left == {"keys_unique", "required_columns_present", "numbers_finite"}


def test_a_merge_and_its_state_are_one_snapshot_to_go_back_to(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1)])
    lake.build()
    lake.land("2025-01-03T11:00:00", [quote("a", "2025-01-01", 2), quote("b", "2025-01-01", 3)])
    lake.build()
    # The last is the empty one that the first branch began with.
    merged, first, _ = snapshots(lake.table())
    assert (first.rows, first.added) == (1, 1)
    assert (merged.rows, merged.added, merged.removed) == (2, 2, 1)
    head = lake.table().snapshot_by_id(merged.snapshot_id)
    assert head is not None
    assert snapshot_state(head) is not None


def test_a_table_of_another_version_is_built_anew(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1), quote("b", "2025-02-01", 1)])
    lake.build()
    lake.build(changed(PRICES, checks=()))
    doubled = changed(
        PRICES,
        version=2,
        replaces="s.price < t.price",
        transform=lambda i: (
            PRICES.transform(i)
            .selectExpr(
                *("coin", "day", "price * 2 AS price", "trades", "origin", "fetched_at", "raw_key")
            )
            .where("coin <> 'b'")
        ),
    )
    derived = reading(lambda inputs: inputs.table("prices"))
    prices, copies = lake.build(doubled, derived)
    assert (prices.inserted, prices.updated, prices.deleted) == (0, 1, 1)
    assert lake.rows() == lake.rows("derived") == [("a", "2025-01-01", 2.0)]
    assert copies.rows == 1
    assert {r.status for r in lake.build(doubled, derived)} == {"unchanged"}
    tripled = changed(
        derived,
        version=2,
        transform=lambda inputs: inputs.sql(
            "SELECT coin, day, price * 3 AS price, trades, origin, fetched_at, raw_key FROM {prices}"
        ),
    )
    lake.build(doubled, tripled)
    assert lake.rows("derived") == [("a", "2025-01-01", 6.0)]


def test_partitions_of_two_layouts_are_told_apart(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("a", "2025-01-01", 1)])
    lake.build()
    lake.land("2025-01-03T11:00:00", [quote("b", "2026-01-01", 1)])
    lake.build(changed(PRICES, partitioning=("year(day)",)))
    names = [info.partition for info in partitions(lake.table())]
    assert names == ["day_month=2025-01", "day_year=2026"]
