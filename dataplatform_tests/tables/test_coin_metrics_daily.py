"""Metrics against plain Python, and that an incremental build equals one of everything."""

import math
import random
import statistics
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from dataplatform.tables.coin_metrics_daily import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, merged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = date(2024, 1, 1)
DAYS = 430
Prices = list[float | None]


def walk(seed: int, days: int = DAYS) -> Prices:
    """Return a random walk with some days missing, the first and last excepted."""
    draw = random.Random(seed)  # noqa: S311  made-up prices
    price, prices = 100.0, []
    for _ in range(days):
        price *= math.exp(draw.gauss(0, 0.04))
        prices.append(None if draw.random() < 0.05 else price)
    return [100.0, *prices[1:-1], price]


def daily(coin: str, prices: Sequence[float | None], currency: str = "usd") -> list[Row]:
    """Return rows of daily_prices from START on."""
    return [
        {
            "coin_id": coin,
            "vs_currency": currency,
            "day": START + timedelta(days=number),
            "price": price,
            "source": "missing" if price is None else "inbox",
            "origin": "recorded",
        }
        for number, price in enumerate(prices)
    ]


def built(
    spark: "SparkSession", rows: Sequence[Row], changed: tuple[str, str], own: Sequence[Row] = ()
) -> list[Row]:
    given = {"daily_prices": rows}
    return MemoryInputs(spark, spec, given, own=own, changes={"daily_prices": changed}).rows()


def everything(spark: "SparkSession", rows: Sequence[Row]) -> list[Row]:
    return built(spark, rows, ("0001-01-01", "9999-12-31"))


def change(prices: Prices, day: int, back: int) -> float | None:
    """Return the fraction by which a price moved since exactly `back` days before."""
    base = prices[day - back] if day >= back else None
    price = prices[day]
    return price / base - 1 if price and base else None


def volatility(prices: Prices, day: int) -> float | None:
    window = prices[max(0, day - 30) : day + 1]
    returns = [math.log(new / old) for old, new in pairwise(window) if old and new]
    return statistics.stdev(returns) * math.sqrt(365) if len(returns) >= 20 else None


def mean(prices: Prices, day: int, length: int) -> float | None:
    window = prices[day + 1 - length : day + 1] if day + 1 >= length else []
    known = [price for price in window if price is not None]
    return statistics.fmean(known) if known else None


def expected(prices: Prices, day: int) -> dict[str, float | None]:
    """Return a day's metrics by their definitions."""
    price = prices[day]
    peak = max(known for known in prices[: day + 1] if known)
    return {
        "price_usd": price,
        "return_1d": change(prices, day, 1),
        "return_7d": change(prices, day, 7),
        "return_30d": change(prices, day, 30),
        "return_365d": change(prices, day, 365),
        "volatility_30d": volatility(prices, day),
        "peak_price_usd": peak,
        "drawdown": price / peak - 1 if price else None,
        "ma_7d": mean(prices, day, 7),
        "ma_30d": mean(prices, day, 30),
        "ma_200d": mean(prices, day, 200),
    }


def test_every_metric_equals_its_definition(spark: "SparkSession") -> None:
    prices = walk(1)
    rows = everything(spark, daily("a", prices) + daily("a", walk(2), "eur"))
    assert len(rows) == DAYS
    for number, row in enumerate(rows):
        for name, value in expected(prices, number).items():
            if value is None:
                assert row[name] is None, (number, name)
            else:
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (number, name)
    assert rows[-1]["return_365d"] is not None
    assert rows[-1]["ma_200d"] is not None


@pytest.mark.parametrize("first", [1, 29, 200, 365, 429])
def test_an_incremental_build_equals_one_of_everything(first: int, spark: "SparkSession") -> None:
    old = {"a": walk(1), "b": walk(2, 300), "c": walk(3)[:first]}
    before = [row for coin, prices in old.items() for row in daily(coin, prices)]
    new = dict(old)
    # A late price, higher than all before: every later drawdown changes.
    new["a"] = [*old["a"][:first], 1e6, *old["a"][first + 1 :]]
    new["c"] = walk(3)[: first + 5]
    after = [row for coin, prices in new.items() for row in daily(coin, prices)]
    published = everything(spark, before)
    changed = [START + timedelta(days=number) for number in (first, first + 4)]
    rows = built(spark, after, (str(changed[0]), str(changed[1])), published)
    assert min(row["day"] for row in rows) == changed[0]
    assert merged(spec, published, rows) == everything(spark, after)


def test_a_gap_gives_null_and_not_the_return_since_another_day(spark: "SparkSession") -> None:
    rows = everything(spark, daily("a", [100.0, None, 110.0, 121.0]))
    assert [row["return_1d"] for row in rows] == [None, None, None, pytest.approx(0.1)]
    assert [row["drawdown"] for row in rows] == [0.0, None, 0.0, 0.0]
    assert [row["peak_price_usd"] for row in rows] == [100.0, 100.0, 110.0, 121.0]


def test_a_price_that_never_moves_has_no_volatility_and_absurd_ones_stay_finite(
    spark: "SparkSession",
) -> None:
    rows = everything(spark, daily("still", [1.0] * 40) + daily("wild", [1e-30, 1e12] * 20))
    by_coin = {coin: [r for r in rows if r["coin_id"] == coin] for coin in ("still", "wild")}
    assert by_coin["still"][-1]["volatility_30d"] == 0.0
    for row in by_coin["wild"]:
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers))
    assert by_coin["wild"][1]["return_1d"] == pytest.approx(1e42)
