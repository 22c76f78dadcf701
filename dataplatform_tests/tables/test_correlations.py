"""Correlations against numpy, the choice of coins, and incremental against everything."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dataplatform.tables.correlations import COINS, spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row
from dataplatform_tests.tables.test_coin_metrics_daily import START, Prices, daily, walk

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALL = ("0001-01-01", "9999-12-31")


def built(spark: "SparkSession", rows: Sequence[Row], changed: tuple[str, str] = ALL) -> list[Row]:
    return MemoryInputs(
        spark, spec, {"daily_prices": rows}, changes={"daily_prices": changed}
    ).rows()


def log_returns(prices: Prices, day: int) -> list[float]:
    """Return the 90 log returns that end with `day`, NaN where one is unknown."""
    known = [np.nan if price is None else price for price in prices]
    first = max(1, day - 89)
    return [float(np.log(known[n] / known[n - 1])) for n in range(first, day + 1)]


def expected(market: dict[str, Prices], day: int) -> dict[tuple[str, str], tuple[float, int]]:
    """Return correlation and observations of each pair of up to 15 coins, by numpy."""
    returns = {coin: np.array(log_returns(prices, day)) for coin, prices in market.items()}
    coins = [
        coin
        for coin, past in returns.items()
        if market[coin][day] is not None and np.count_nonzero(~np.isnan(past)) >= 30
    ]
    found = {}
    for one, other in combinations(sorted(coins), 2):
        both = ~np.isnan(returns[one]) & ~np.isnan(returns[other])
        if both.sum() >= 30:
            correlation = np.corrcoef(returns[one][both], returns[other][both])[0, 1]
            found[one, other] = (float(correlation), int(both.sum()))
    return found


def test_correlations_equal_those_of_numpy(spark: "SparkSession") -> None:
    market = {f"coin{n}": walk(n, 160) for n in range(5)}
    rows = built(spark, [row for coin, prices in market.items() for row in daily(coin, prices)])
    found: dict[date, dict[tuple[str, str], tuple[float, int]]] = {}
    for row in rows:
        pair = (row["coin_a"], row["coin_b"])
        found.setdefault(row["day"], {})[pair] = (row["correlation"], row["observations"])
    for number in range(160):
        pairs = expected(market, number)
        day = found.get(START + timedelta(days=number), {})
        assert day.keys() == pairs.keys(), number
        for pair, (correlation, observations) in pairs.items():
            assert day[pair] == (pytest.approx(correlation, abs=1e-9), observations)


def test_the_largest_coins_take_part_unknown_caps_last(spark: "SparkSession") -> None:
    draw = random.Random(3)  # noqa: S311  made-up order
    coins = [f"coin{n:02}" for n in range(20)]
    caps = {coin: float(cap) for coin, cap in zip(coins, draw.sample(range(99), 20), strict=True)}
    capless = set(draw.sample(coins, 8))
    rows = [
        row | {"market_cap": None if coin in capless else caps[coin]}
        for number, coin in enumerate(coins)
        for row in daily(coin, walk(number, 40))
    ]
    newest = START + timedelta(days=39)
    rows = built(spark, rows)
    taken = {row[side] for row in rows if row["day"] == newest for side in ("coin_a", "coin_b")}
    assert len(taken) <= COINS
    assert set(coins) - capless <= taken


def test_still_prices_have_no_correlation_and_twins_a_full_one(spark: "SparkSession") -> None:
    prices = walk(1, 60)
    doubled = [price and 2 * price for price in prices]
    rows = built(spark, daily("a", prices) + daily("still", [1.0] * 60) + daily("twin", doubled))
    assert {(row["coin_a"], row["coin_b"]) for row in rows} == {("a", "twin")}
    assert all(row["correlation"] == pytest.approx(1.0) for row in rows)
    checks = {check.name: check.violated for check in spec.checks}
    assert "1.0000001" in checks["correlation_in_range"]


def test_an_incremental_build_gives_the_same_bits(spark: "SparkSession") -> None:
    market = {f"coin{n}": walk(n, 330) for n in range(6)}
    market["late"] = [1e6, *walk(9, 200)]
    rows = [row for coin, prices in market.items() for row in daily(coin, prices)]
    everything = built(spark, rows)
    first, last = START + timedelta(days=150), START + timedelta(days=152)
    part = built(spark, rows, (str(first), str(last)))
    touched = [row for row in everything if first <= row["day"] <= last + timedelta(days=90)]
    assert part == touched
    assert len(part) > 1000
