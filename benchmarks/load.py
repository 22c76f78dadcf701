"""Loading the code location against `import dagster`, each in a fresh interpreter."""

import os
import sys

from benchmarks.processes import measure
from benchmarks.report import Comparison, Result

_BASELINE = "import dagster"
_SUBJECT = """
import dagster
from dataplatform.definitions import defs
dagster.Definitions.validate_loadable(defs)
"""
_BARE = "import dataplatform.definitions"
_HEAVY = ("pyspark", "duckdb", "matplotlib", "pyiceberg", "pandas", "polars")
_LISTED = f"import sys; print([m for m in {_HEAVY!r} if m in sys.modules])"


def run(*, quick: bool) -> Result:
    """Alternate the programs, so that a busy minute hits all alike."""
    samples: dict[str, list[float]] = {_BASELINE: [], _SUBJECT: [], _BARE: []}
    for code in samples:
        _seconds(code)  # Compiles what has no bytecode yet.
    for _ in range(2 if quick else 9):
        for code, seconds in samples.items():
            seconds.append(_seconds(code))
    baseline = ("import dagster", samples[_BASELINE])
    imported = measure([sys.executable, "-c", f"{_BARE}\n{_LISTED}"], os.environ).output
    return Result(
        "load",
        "Loading the code location against `import dagster`",
        (
            Comparison("import and resolve", "s", ("resolved", samples[_SUBJECT]), baseline, 1.5),
            Comparison("import only", "s", ("imported", samples[_BARE]), baseline),
        ),
        (f"Heavy libraries imported on the way: {imported.strip().splitlines()[-1]}.",),
    )


def _seconds(code: str) -> float:
    return measure([sys.executable, "-c", code], os.environ).seconds
