"""The market of a day: sums, shares and breadth over what is known."""

import math
import random
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from dataplatform.tables.market_daily import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = date(2026, 3, 5)


def price(coin: str, value: float | None, cap: float | None = None, day: date = DAY) -> Row:
    return {
        "coin_id": coin,
        "vs_currency": "usd",
        "day": day,
        "price": value,
        "market_cap": cap,
        "volume_24h": cap / 10 if cap else None,
        "source": "inbox" if value else "missing",
        "origin": "recorded",
    }


def moved(coin: str, by: float | None, day: date = DAY) -> Row:
    return {"coin_id": coin, "day": day, "return_1d": by, "origin": "recorded"}


def built(
    spark: "SparkSession", prices: list[Row], metrics: list[Row], **changes: tuple[str, str]
) -> list[Row]:
    given = {"daily_prices": prices, "coin_metrics_daily": metrics}
    ranges = changes or {"daily_prices": (str(DAY), str(DAY))}
    return MemoryInputs(spark, spec, given, changes=ranges).rows()


def test_totals_shares_and_breadth(spark: "SparkSession") -> None:
    prices = [
        price("bitcoin", 9.0, 600.0),
        price("ethereum", 8.0, 150.0),
        price("capless", 7.0),
        price("flat", 6.0, 7.5),
        *(price(f"small{number}", 1.0, 2.5) for number in range(17)),
        price("gone", None),
        price("bitcoin", 1.0, 1e9) | {"vs_currency": "eur"},
    ]
    metrics = [moved("bitcoin", 0.1), moved("ethereum", -0.1), moved("flat", 0.0)]
    metrics += [moved("capless", None), moved("gone", None)]
    (row,) = built(spark, prices, metrics)
    assert (row["coins"], row["advancers"], row["decliners"]) == (21, 1, 1)
    assert (row["total_market_cap_usd"], row["volume_24h_usd"]) == (800.0, 80.0)
    assert (row["btc_dominance"], row["eth_dominance"]) == (0.75, 0.1875)
    assert row["breadth"] == pytest.approx(1 / 3)


def test_there_is_no_dominance_among_fewer_than_20_caps(spark: "SparkSession") -> None:
    prices = [price("bitcoin", 9.0, 600.0), price("ethereum", 8.0, 150.0), price("capless", 7.0)]
    prices += [price(f"small{number}", 1.0, 2.0) for number in range(17)]
    (row,) = built(spark, prices, [])
    assert row["total_market_cap_usd"] == 784.0
    assert (row["btc_dominance"], row["eth_dominance"]) == (None, None)


def test_what_is_unknown_is_null(spark: "SparkSession") -> None:
    (row,) = built(spark, [price("a", 1.0), price("bitcoin", 2.0)], [])
    names = ("total_market_cap_usd", "volume_24h_usd", "btc_dominance", "breadth")
    assert [row[name] for name in names] == [None] * 4
    assert built(spark, [price("gone", None)], []) == []


def test_only_changed_days_are_given_from_either_table(spark: "SparkSession") -> None:
    days = [DAY + timedelta(days=number) for number in range(5)]
    prices = [price("a", 1.0, 1.0, day) for day in days]
    metrics = [moved("a", 0.1, day) for day in days]
    rows = built(
        spark,
        prices,
        metrics,
        daily_prices=(str(days[1]), str(days[1])),
        coin_metrics_daily=(str(days[1]), str(days[3])),
    )
    assert [row["day"] for row in rows] == days[1:4]


def test_the_sum_does_not_depend_on_the_order(spark: "SparkSession") -> None:
    draw = random.Random(7)  # noqa: S311  made-up market caps
    prices = [price(f"c{n}", 1.0, 10 ** draw.uniform(-3, 12)) for n in range(300)]
    (row,) = built(spark, prices, [])
    total = math.fsum(one["market_cap"] for one in prices)
    assert row["total_market_cap_usd"] == pytest.approx(total, rel=1e-12)
    assert built(spark, prices[::-1], []) == [row]
