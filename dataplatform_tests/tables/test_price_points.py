"""The oddities of market_chart, made up and as recorded."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dataplatform.tables.price_points import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage, schema_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def ms(moment: datetime) -> int:
    """Return epoch milliseconds."""
    return round(moment.timestamp() * 1000)


def chart(
    times: Sequence[int],
    fetched_at: datetime,
    prices: Sequence[float] | None = None,
    **changes: Any,
) -> list[Row]:
    """Return the records of one response with points at `times`, in epoch milliseconds."""
    params = {"id": "bitcoin", "vs_currency": "usd"}
    common = lineage(fetched_at, params=params) | {"market_cap": None, "volume": 1.0}
    return [
        {"at": float(time), "price": float(price), "is_last": number == len(times) - 1}
        | common
        | {"record_hash": f"{number}"}
        | changes
        for number, (time, price) in enumerate(
            zip(times, prices or [100 + n for n in range(len(times))], strict=True)
        )
    ]


def built(spark: "SparkSession", records: Sequence[Row]) -> list[Row]:
    return MemoryInputs(spark, spec, {"market_chart": records}).rows()


def recording(name: str) -> list[int]:
    """Return the times of a bundled response, as its source recorded it."""
    path = files("dataplatform.raw") / "recordings" / "coingecko_ruby" / name
    return [point[0] for point in json.loads(path.read_text())["prices"]]


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        ("coins_bitcoin_market_chart_days_1_vs_currency_usd.json", "5m"),
        ("coins_bitcoin_market_chart_days_30_vs_currency_usd.json", "hourly"),
        ("coins_bitcoin_market_chart_days_90_interval_daily_vs_currency_usd.json", "daily"),
    ],
)
def test_recorded_responses_have_their_granularity_and_one_partial_point(
    name: str, granularity: str, spark: "SparkSession"
) -> None:
    times = recording(name)
    fetched_at = datetime.fromtimestamp(times[-1] / 1000, UTC)
    rows = built(spark, chart(times, fetched_at))
    assert len(rows) == len(set(times))
    assert {row["granularity"] for row in rows} == {granularity}
    partial = [ms(row["observed_at"]) for row in rows if row["is_partial"]]
    assert partial == [times[-1]]
    # The recordings are as odd as said: the 5 minute one steps backwards at its end.
    backwards = [later - earlier for earlier, later in pairwise(times) if later < earlier]
    assert bool(backwards) == (granularity == "5m")


def test_times_are_kept_to_the_millisecond(spark: "SparkSession") -> None:
    times = [1621003519770, 1621003958620, 1621004333667]
    rows = built(spark, chart(times, at("2026-01-01")))
    assert [ms(row["observed_at"]) for row in rows] == times


def test_a_response_that_ends_in_the_past_has_no_partial_point(spark: "SparkSession") -> None:
    start = ms(at("2024-03-01"))
    hourly = [start + n * HOUR + n * 20_000 for n in range(23)] + [start + 22 * HOUR + 12 * MINUTE]
    daily = [start + n * DAY for n in range(100)]
    for times in (hourly, daily):
        rows = built(spark, chart(times, at("2024-12-01")))
        assert not any(row["is_partial"] for row in rows)


def test_now_is_told_from_the_last_closed_point(spark: "SparkSession") -> None:
    start = ms(at("2024-03-01"))
    steps = [start + n * HOUR for n in range(40)]
    for minutes, late, partial in [
        (11, 11, True),  # closer to its predecessor than a step, within a step of the fetch
        (60, 5, True),  # within ten minutes of the fetch
        (60, 40, False),  # one step after its predecessor, 40 minutes before the fetch
        (11, 90, False),  # longer ago than one step
    ]:
        last = steps[-1] + minutes * MINUTE
        fetched_at = datetime.fromtimestamp((last + late * MINUTE) / 1000, UTC)
        rows = built(spark, chart([*steps, last], fetched_at))
        assert [row["is_partial"] for row in rows] == [False] * 40 + [partial], (minutes, late)


def test_a_daily_point_at_midnight_is_closed_even_when_just_fetched(spark: "SparkSession") -> None:
    times = [ms(at("2024-03-01")) + n * DAY for n in range(3)]
    rows = built(spark, chart(times, at("2024-03-03T00:04:00")))
    assert [row["is_partial"] for row in rows] == [False, False, False]


def test_a_short_response_is_measured_without_its_last_point(spark: "SparkSession") -> None:
    midnight = ms(at("2024-03-02"))
    times = [midnight - DAY, midnight, midnight + 4 * MINUTE]
    rows = built(spark, chart(times, at("2024-03-02T00:05:00")))
    assert [row["granularity"] for row in rows] == ["daily"] * 3
    assert [row["is_partial"] for row in rows] == [False, False, True]
    (single,) = built(spark, chart([midnight], at("2024-06-01")))
    assert (single["granularity"], single["is_partial"]) == ("daily", False)


def test_repeated_points_are_kept_once_in_any_order(spark: "SparkSession") -> None:
    start = ms(at("2024-03-01"))
    times = [start, start + 5 * MINUTE, start + 5 * MINUTE, start + 4 * MINUTE, start + 9 * MINUTE]
    records = chart(times, at("2024-12-01"))
    rows = built(spark, records)
    assert [ms(row["observed_at"]) - start for row in rows] == [
        0,
        4 * MINUTE,
        5 * MINUTE,
        9 * MINUTE,
    ]
    assert built(spark, records[::-1]) == rows


def test_of_two_responses_a_closed_point_wins_then_the_newer(spark: "SparkSession") -> None:
    start = ms(at("2024-03-01"))
    times = [start + n * 5 * MINUTE for n in range(12)]
    first = at("2024-03-01T00:56:00")
    older = chart(times, first, [1.0] * 12)
    newer = chart(times[:10], at("2024-03-01T00:46:00"), [2.0] * 10)
    newest = chart(times[:3], at("2024-06-01"), [3.0] * 3)
    rows = built(spark, [*older, *newer, *newest])
    assert [row["price"] for row in rows] == [3.0] * 3 + [1.0] * 9
    assert [row["is_partial"] for row in rows] == [False] * 11 + [True]


@pytest.mark.parametrize(
    ("incoming", "published", "wins"),
    [
        ((True, "2024-02-01", "b"), (False, "2024-01-01", "a"), False),
        ((False, "2024-01-01", "a"), (True, "2024-02-01", "b"), True),
        ((False, "2024-02-01", "a"), (False, "2024-01-01", "b"), True),
        ((False, "2024-01-01", "b"), (False, "2024-02-01", "a"), False),
        ((False, "2024-01-01", "b"), (False, "2024-01-01", "a"), True),
    ],
)
def test_a_published_point_is_replaced_by_the_same_rule(
    incoming: tuple[bool, str, str],
    published: tuple[bool, str, str],
    wins: bool,
    spark: "SparkSession",
) -> None:
    def one(row: tuple[bool, str, str], alias: str) -> Any:
        values = {"is_partial": row[0], "fetched_at": at(row[1]), "raw_key": row[2]}
        names = [column.name for column in spec.columns]
        data = [tuple(values.get(name) for name in names)]
        return spark.createDataFrame(data, schema_of(spec)).alias(alias)

    pair = one(incoming, "s").crossJoin(one(published, "t"))
    assert spec.replaces is not None
    assert pair.selectExpr(spec.replaces).collect()[0][0] is wins


def test_volume_is_taken_as_it_is_rolling(spark: "SparkSession") -> None:
    start = ms(at("2024-03-01"))
    rows = built(spark, chart([start + n * HOUR for n in range(5)], at("2024-12-01"), volume=7e9))
    assert [row["volume_24h"] for row in rows] == [7e9] * 5
    assert "rolling" in spec.column("volume_24h").doc
