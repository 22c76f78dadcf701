"""One more hourly snapshot of 20,000 coins: on a lake of one day, and on one of 90 days.

Both lakes hold the 24 hourly snapshots of the last day but one hour; the large one holds a daily
snapshot of each of the 89 days before as well, so that its tables are 90 days deep everywhere:
2.2 million rows of market_snapshots, 1.8 million of daily_prices and of coin_metrics_daily. Hourly
snapshots for 90 days would be 43 million rows: too much to make for one benchmark.
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import measure
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import SimulatedLake, start_spark, workspace
from benchmarks.simulation import Market, land_snapshot, utc
from dataplatform.lake.build import TableResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LAST_DAY = utc("2025-03-31")
FIRST_HOURS = 16
_CHUNK = 10
Samples = dict[str, list[float]]
Lakes = dict[str, SimulatedLake]


def run(*, quick: bool) -> Result:
    """Build both lakes, then add hours to each in turn, warm and cold, and the hour of a new day."""
    days, coins, repetitions = (5, 500, 2) if quick else (90, 20_000, 4)
    market = Market(coins)
    spark = start_spark()
    with workspace("increment") as folder:
        lakes = {
            "1 day": _prepared(folder / "small", spark, market, 1),
            f"{days} days": _prepared(folder / "large", spark, market, days),
        }
        warm, cold, new_day, spent = _measured(lakes, spark, market, repetitions)
    small, large = lakes
    return Result(
        "increment",
        f"Adding one hourly snapshot of {coins:,} coins (simulated)",
        (
            Comparison("warm session", "s", (large, warm[large]), (small, warm[small]), 1.3),
            Comparison("cold process", "s", (large, cold[large]), (small, cold[small]), 1.3),
            Comparison(
                "first hour of a day", "s", (large, new_day[large]), (small, new_day[small])
            ),
        ),
        (
            "All thirteen tables are brought up to date; data simulated by seed.",
            f"Last warm hour on {large}, seconds a table: {_listed(spent)}.",
            "The first hour of a day adds a row a coin to each daily table: no goal.",
        ),
    )


def _prepared(root: Path, spark: "SparkSession", market: Market, days: int) -> SimulatedLake:
    """Return a lake of `days` days; its history comes in large files, ten days a build."""
    lake = SimulatedLake(root)
    for back in range(days - 1, 0, -1):
        land_snapshot(lake.zone, market, LAST_DAY - timedelta(days=back), page_size=2_500)
        if back % _CHUNK == 1:
            lake.build(spark, ["market_snapshots", "quarantine"])
    for hour in range(FIRST_HOURS):
        land_snapshot(lake.zone, market, LAST_DAY + timedelta(hours=hour), page_size=2_500)
    lake.build(spark)
    return lake


def _measured(
    lakes: Lakes, spark: "SparkSession", market: Market, repetitions: int
) -> tuple[Samples, Samples, Samples, list[TableResult]]:
    """Alternate the lakes hour by hour; the first warm hour only warms and is left out."""
    hours = iter(LAST_DAY + timedelta(hours=FIRST_HOURS + n) for n in range(8))

    def build(lake: SimulatedLake) -> list[TableResult]:
        return lake.build(spark)

    warm, cold, new_day = (_none(lakes) for _ in range(3))
    spent = _each(lakes, market, next(hours), build, _none(lakes))
    for _ in range(repetitions):
        spent = _each(lakes, market, next(hours), build, warm)
    _each(lakes, market, next(hours), _build_cold, cold)
    _each(lakes, market, LAST_DAY + timedelta(days=1), build, new_day)
    return warm, cold, new_day, spent


def _none(lakes: Lakes) -> Samples:
    return {label: [] for label in lakes}


def _each(
    lakes: Lakes,
    market: Market,
    at: datetime,
    build: Callable[[SimulatedLake], list[TableResult]],
    samples: Samples,
) -> list[TableResult]:
    """Add one snapshot to each lake and time its build; returns what the last build did."""
    results: list[TableResult] = []
    for label, lake in lakes.items():
        land_snapshot(lake.zone, market, at)
        started = time.perf_counter()
        results = build(lake)
        samples[label].append(time.perf_counter() - started)
    return results


def _build_cold(lake: SimulatedLake) -> list[TableResult]:
    measure([sys.executable, "-m", "benchmarks.simulated_lake", str(lake.root)], os.environ)
    return []


def _listed(results: list[TableResult]) -> str:
    slowest = sorted(results, key=lambda result: -result.seconds)[:5]
    return ", ".join(f"{result.table} {result.seconds:.1f} ({result.status})" for result in slowest)
