"""Raw files to `market_snapshots`, rows a second: this engine against polars and pyiceberg.

720 files of 250 records: the first page of 30 days, hour by hour, simulated. Both are whole
processes from start to committed table; ours also parses into records with reasons for rejection,
compares with what is published, audits eleven rules and records its state.
"""

import os
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from benchmarks.processes import measure
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import SimulatedLake, start_spark, workspace
from benchmarks.simulation import Market, land_snapshot, utc
from dataplatform.lake.catalog import SqliteCatalog

COINS = 250
TABLE = "market_snapshots"


def run(*, quick: bool) -> Result:
    """Alternate the engines on the same files; both tables must be equal, row by row."""
    files, repetitions = (24, 1) if quick else (720, 3)
    rates: dict[str, list[float]] = {"ours": [], "warm": [], "peer": []}
    with workspace("peer") as root:
        lake = SimulatedLake(root)
        for hour in range(files):
            at = utc("2025-03-01") + timedelta(hours=hour)
            land_snapshot(lake.zone, Market(COINS), at)
        spark = start_spark()
        for _ in range(repetitions):
            _clean(root)
            rates["peer"].append(_cold("benchmarks.polars_peer", root) / files / COINS)
            rates["ours"].append(_cold("benchmarks.simulated_lake", root, TABLE) / files / COINS)
            _assert_equal(root)
            _clean(root)
            started = time.perf_counter()
            lake.build(spark, [TABLE])
            rates["warm"].append((time.perf_counter() - started) / files / COINS)
    ours, warm, peer = (
        [1 / seconds for seconds in rates[name]] for name in ("ours", "warm", "peer")
    )
    return Result(
        "peer",
        f"{TABLE} from {files} raw files, {files * COINS:,} rows",
        (
            Comparison(
                "whole process", "rows/s", ("ours", ours), ("polars", peer), more_is_better=True
            ),
            Comparison(
                "session running", "rows/s", ("ours", warm), ("polars", peer), more_is_better=True
            ),
        ),
        ("Both tables are equal row by row. Simulated data. No goal: a figure to know.",),
    )


def _cold(module: str, root: Path, *arguments: str) -> float:
    return measure([sys.executable, "-m", module, str(root), *arguments], os.environ).seconds


def _clean(root: Path) -> None:
    for folder in (root / "peer", root / "warehouse"):
        shutil.rmtree(folder, ignore_errors=True)
    (root / "catalog.db").unlink(missing_ok=True)


def _assert_equal(root: Path) -> None:
    """Raise where the tables differ in any row or column."""
    places = ((root, "warehouse"), (root / "peer", ""))
    ours, peers = (_rows(folder / "catalog.db", folder / place) for folder, place in places)
    assert_frame_equal(ours, peers, check_exact=True)


def _rows(catalog_db: Path, warehouse: Path) -> pl.DataFrame:
    table = SqliteCatalog(catalog_db, warehouse).open().load_table(f"warehouse.{TABLE}")
    frame = pl.from_arrow(table.scan().to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame.sort("coin_id", "snapshot_at")
