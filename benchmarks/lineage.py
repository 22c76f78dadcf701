"""The whole lineage by Dagster against one plain PySpark script (`plain_pyspark`).

The platform lands the recordings, builds thirteen tables by write, audit and publish, deploys and
tries ten views and records all of it; the script only turns the same raw files into the same
tables, which must equal ours row by row. Each is a whole process with a JVM of its own.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
from polars.testing import assert_frame_equal

from benchmarks.plain_pyspark import TABLES
from benchmarks.processes import Usage, measure
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.jvm import find_java, spark_jars
from dataplatform.tables import all_specs

DAY = "2025-01-05"
_LINEAGE = {"origin", "fetched_at", "raw_key"}
_Figure = tuple[str, str, Callable[[Usage], float], float | None]
_FIGURES: Sequence[_Figure] = (
    ("wall time", "s", lambda usage: usage.seconds, 1.15),
    ("peak memory", "MiB", lambda usage: usage.peak_mib, 1.15),
    ("CPU time", "s", lambda usage: usage.cpu_seconds, None),
)


def run(*, quick: bool) -> Result:
    """Alternate the two from nothing; compare their tables after the first time."""
    ours: list[Usage] = []
    plain: list[Usage] = []
    with workspace("lineage") as folder:
        for number in range(1 if quick else 3):
            home, out = folder / f"home-{number}", folder / f"plain-{number}"
            ours.append(_platform(home))
            plain.append(_script(home / "recorded" / "datalake", out))
            if number == 0:
                rows = _assert_equal(home / "recorded", out)
    return Result(
        "lineage",
        "The whole lineage (recorded data) against one plain PySpark script",
        tuple(
            Comparison(
                what,
                unit,
                ("dagster", [get(u) for u in ours]),
                ("script", [get(u) for u in plain]),
                goal,
            )
            for what, unit, get, goal in _FIGURES
        ),
        (
            f"{rows:,} rows in {len(TABLES)} tables are equal, lineage columns aside.",
            "The platform's time includes landing, audits, views and Dagster's event log.",
        ),
    )


def _platform(home: Path) -> Usage:
    dagster_home = home / "dagster"
    dagster_home.mkdir(parents=True)
    settings = {"ORIGIN": "recorded", "HOME": str(home)}
    env = {f"DATAPLATFORM_{name}": value for name, value in settings.items()}
    target = ["--select", "*", "--partition", DAY, "-m", "dataplatform.definitions"]
    command = [sys.executable, "-m", "dagster", "asset", "materialize", *target]
    return measure(command, os.environ | env | {"DAGSTER_HOME": str(dagster_home)})


def _script(datalake: Path, out: Path) -> Usage:
    out.mkdir()
    env: Mapping[str, str] = os.environ | {"JAVA_HOME": str(find_java())}
    jars = ":".join(str(jar) for jar in spark_jars())
    module = "benchmarks.plain_pyspark"
    return measure([sys.executable, "-m", module, str(datalake), str(out), jars], env)


def _assert_equal(ours: Path, plain: Path) -> int:
    """Raise where a table differs in any row; returns how many rows were compared."""
    compared = 0
    for name in TABLES:
        one, other = _rows(ours, name), _rows(plain, name)
        assert_frame_equal(one, other, check_exact=True, check_column_order=False)
        compared += one.height
    assert _rows(ours, "quarantine").is_empty(), "the script makes no quarantine: it would be empty"
    return compared


def _rows(root: Path, name: str) -> pl.DataFrame:
    catalog = SqliteCatalog(root / "catalog.db", root / "warehouse").open()
    frame = pl.from_arrow(catalog.load_table(f"warehouse.{name}").scan().to_arrow())
    assert isinstance(frame, pl.DataFrame)
    keys = all_specs()[name].keys
    return frame.drop(_LINEAGE - set(keys), strict=False).sort(keys)
