"""One price a day: precedence, the full grid, and that the order of arrival does not matter."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplatform.tables.daily_prices import PRECEDENCE, spec
from dataplatform_tests.tables.memory_inputs import (
    MemoryInputs,
    Row,
    at,
    lineage,
    merged,
    table_lineage,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FETCHED = at("2026-06-01")


def point(text: str, price: float, granularity: str = "hourly", **changes: Any) -> Row:
    """Return a row of price_points."""
    row = {
        "coin_id": "bitcoin",
        "vs_currency": "usd",
        "observed_at": at(text),
        "price": price,
        "market_cap": 100 * price,
        "volume_24h": 7.0,
        "granularity": granularity,
        "is_partial": False,
    }
    return row | table_lineage(FETCHED) | changes


def snapshot(text: str, price: float | None, **changes: Any) -> Row:
    """Return a row of market_snapshots."""
    row = {
        "coin_id": "bitcoin",
        "vs_currency": "usd",
        "snapshot_at": at(text),
        "symbol": "btc",
        "name": "Bitcoin",
        "price": price,
        "market_cap": 5.0,
        "total_volume": 8.0,
        "last_updated_at": at(text),
    }
    return row | table_lineage(at(text)) | changes


def dropped(day: str, usd: float | None, **changes: Any) -> Row:
    """Return a record of a dropped file."""
    record = {"date": day, "coingecko_coin_id": "bitcoin", "price_usd": usd}
    return record | lineage(FETCHED, raw_key="files/inbox/a.csv.gz") | changes


def day_range(moments: Iterable[datetime]) -> tuple[str, str]:
    """Return the days that a change of these moments touches."""
    days = sorted(moment.date().isoformat() for moment in moments)
    return (days[0], days[-1]) if days else ("9999-12-31", "0001-01-01")


def built(
    spark: "SparkSession",
    points: Sequence[Row] = (),
    snapshots: Sequence[Row] = (),
    files: Sequence[Row] = (),
    own: Sequence[Row] = (),
) -> list[Row]:
    """Return the rows that a build of these inputs gives."""
    given_rows = {"price_points": points, "market_snapshots": snapshots, "inbox": files}
    changes = {
        "price_points": day_range(row["observed_at"] for row in points),
        "market_snapshots": day_range(row["snapshot_at"] for row in snapshots),
    }
    return MemoryInputs(spark, spec, given_rows, own=own, changes=changes).rows()


def in_short(rows: Iterable[Row]) -> list[tuple[str, float | None, str]]:
    """Return (day, price, source) of each row."""
    return [(row["day"].isoformat(), row["price"], row["source"]) for row in rows]


def test_precedence_of_the_sources(spark: "SparkSession") -> None:
    exact = point("2026-03-05T00:00:00", 1.0, "daily")
    file = dropped("05-03-2026", 2.0)
    early = point("2026-03-05T00:04:00", 3.0)
    taken = snapshot("2026-03-05T00:05:00", 4.0)
    late = point("2026-03-05T17:00:00", 5.0)
    day = "2026-03-05"
    for points, snapshots, files, expected in [
        ([exact, early, late], [taken], [file], (day, 1.0, "market_chart")),
        ([early, late], [taken], [file], (day, 2.0, "inbox")),
        ([early, late], [taken], [], (day, 3.0, "market_chart")),
        ([late], [taken], [], (day, 4.0, "market_snapshots")),
        ([late], [], [], (day, 5.0, "market_chart")),
    ]:
        assert in_short(built(spark, points, snapshots, files)) == [expected]
    assert sorted(PRECEDENCE.values()) == list(PRECEDENCE.values())


def test_what_is_no_observation_is_left_out(spark: "SparkSession") -> None:
    points = [
        point("2026-03-05T00:04:00", 1.0, is_partial=True),
        point("2026-03-05T00:05:00", 0.0),
        point("2026-03-05T06:00:00", 2.0, market_cap=0.0),
    ]
    snapshots = [
        snapshot("2026-03-05T00:10:00", None),
        snapshot("2026-03-05T00:20:00", 9.0, last_updated_at=at("2026-03-01")),
    ]
    (row,) = built(spark, points, snapshots)
    assert (row["price"], row["market_cap"]) == (2.0, None)


def test_both_spellings_of_a_date_and_three_currencies(spark: "SparkSession") -> None:
    files = [
        dropped("05-03-2026", 1.0, price_eur=2.0, price_chf=3.0, market_cap_usd=4.0),
        dropped("2026-03-06", None, price_eur=5.0),
        dropped("31-02-2026", 6.0),
    ]
    rows = built(spark, files=files)
    assert [(r["vs_currency"], *in_short([r])[0][:2], r["market_cap"]) for r in rows] == [
        ("chf", "2026-03-05", 3.0, None),
        ("eur", "2026-03-05", 2.0, None),
        ("eur", "2026-03-06", 5.0, None),
        ("usd", "2026-03-05", 1.0, 4.0),
    ]
    assert rows[0]["observed_at"] == at("2026-03-05")


def test_days_without_observation_have_a_row(spark: "SparkSession") -> None:
    rows = built(spark, [point("2026-02-27T01:00:00", 1.0), point("2026-03-02T01:00:00", 2.0)])
    assert in_short(rows) == [
        ("2026-02-27", 1.0, "market_chart"),
        ("2026-02-28", None, "missing"),
        ("2026-03-01", None, "missing"),
        ("2026-03-02", 2.0, "market_chart"),
    ]
    filler = rows[1]
    assert filler["source_rank"] == PRECEDENCE["missing"]
    assert (filler["observed_at"], filler["fetched_at"], filler["raw_key"]) == (None, None, None)
    assert filler["origin"] == "recorded"


@pytest.mark.parametrize(
    ("known", "arriving"),
    [
        (["2026-01-01"], "2026-01-20"),  # far after: the last known day is looked up
        (["2026-01-20"], "2026-01-01"),  # far before
        (["2026-01-01", "2026-01-05"], "2026-01-03"),  # into a gap
        (["2026-01-01", "2026-01-05"], "2026-01-06"),  # the day after
    ],
)
def test_a_new_day_closes_the_gap_to_the_known_ones(
    known: list[str], arriving: str, spark: "SparkSession"
) -> None:
    before = [point(f"{day}T01:00:00", 1.0) for day in known]
    new = [point(f"{arriving}T01:00:00", 2.0)]
    table = built(spark, before)
    rows = built(spark, new, own=table)
    assert merged(spec, table, rows) == built(spark, before + new)
    published = {row["day"]: row for row in table}
    assert all(published.get(row["day"]) != row for row in rows), "a row is given that is known"


def test_a_later_snapshot_of_a_known_day_gives_nothing(spark: "SparkSession") -> None:
    coins = [{"coin_id": f"coin{n}"} for n in range(5)]
    morning = [snapshot("2026-03-05T00:05:00", 1.0, **coin) for coin in coins]
    noon = [snapshot("2026-03-05T12:05:00", 2.0, **coin) for coin in coins]
    table = built(spark, snapshots=morning)
    assert built(spark, snapshots=morning + noon, own=table) == []


_coins = [f"coin{number}" for number in range(6)]
_observation = st.tuples(
    st.sampled_from(["exact", "early", "late", "snapshot", "inbox"]),
    st.sampled_from(_coins),
    st.integers(0, 11),  # day
    st.integers(1, 3),  # price, and with it the fetch: a correction is fetched later
)


def _as_inputs(batch: Sequence[tuple[str, str, int, int]]) -> tuple[list[Row], ...]:
    points: list[Row] = []
    snapshots: list[Row] = []
    files: list[Row] = []
    for kind, coin, number, price in batch:
        day = date(2026, 2, 20) + timedelta(days=number)
        fetched = {"fetched_at": FETCHED + timedelta(hours=price), "raw_key": f"{kind}-{price}"}
        if kind == "inbox":
            row = dropped(day.isoformat(), float(price), coingecko_coin_id=coin)
            files.append(row | fetched)
        elif kind == "snapshot":
            snapshots.append(snapshot(f"{day}T03:00:00", float(price), coin_id=coin) | fetched)
        else:
            time = {"exact": "00:00:00", "early": "00:07:00", "late": "21:00:00"}[kind]
            step = "daily" if kind == "exact" else "hourly"
            points.append(point(f"{day}T{time}", float(price), step, coin_id=coin) | fetched)
    return points, snapshots, files


def _expected(batch: Sequence[tuple[str, str, int, int]]) -> dict[tuple[str, int], tuple[str, int]]:
    """Return (kind, price) of each coin and day that was observed, by plain comparison."""
    order = {"exact": (1, 0), "inbox": (2, 0), "early": (3, 7), "snapshot": (3, 180)}
    best: dict[tuple[str, int], tuple[str, int]] = {}
    for kind, coin, day, price in batch:
        rival = best.get((coin, day))
        rank = (*order.get(kind, (3, 1260)), -price)
        if rival is None or rank < (*order.get(rival[0], (3, 1260)), -rival[1]):
            best[coin, day] = (kind, price)
    return best


@pytest.mark.slow
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(_observation, min_size=6, max_size=40), st.integers(0, 40), st.booleans())
def test_order_batches_and_replays_do_not_matter(
    spark: "SparkSession", observations: list[tuple[str, str, int, int]], cut: int, swap: bool
) -> None:
    first, second = observations[:cut], observations[cut:]
    batches = [second, first, second] if swap else [first, second, first]
    table: list[Row] = []
    for batch in batches:
        points, snapshots, files = _as_inputs(batch)
        table = merged(spec, table, built(spark, points, snapshots, files, table))
    points, snapshots, files = _as_inputs(observations)
    assert table == built(spark, points, snapshots, files)

    start = date(2026, 2, 20)
    expected = _expected(observations)
    found = {
        (row["coin_id"], (row["day"] - start).days): row["price"] for row in table if row["price"]
    }
    assert found == {key: float(price) for key, (_, price) in expected.items()}
    for coin in {coin for coin, _ in expected}:
        days = [row["day"] for row in table if row["coin_id"] == coin]
        known = [day for other, day in expected if other == coin]
        full = range(min(known), max(known) + 1)
        assert days == [start + timedelta(days=number) for number in full]
