"""Loading the code location against `import dagster`, each in a fresh interpreter."""

import os
import sys
from collections.abc import Iterable

from benchmarks.processes import Usage, measure
from benchmarks.report import Comparison, Result

_BASELINE = "import dagster"
_SUBJECT = """
import dagster
from dataplatform.definitions import defs
dagster.Definitions.validate_loadable(defs)
"""
_HEAVY = ("pyspark", "duckdb", "matplotlib", "pyiceberg", "pandas", "polars")
_BARE = f"""
import dataplatform.definitions
import sys
print([m for m in {_HEAVY!r} if m in sys.modules])
"""


def run(*, quick: bool) -> Result:
    """Alternate the programs, so that a busy minute hits all alike."""
    programs = (_BASELINE, _SUBJECT, _BARE)
    if not quick:
        for code in programs:
            _usage(code)  # Compiles what has no bytecode yet.
    rounds = [[_usage(code) for code in programs] for _ in range(1 if quick else 9)]
    baseline, resolved, imported = zip(*rounds, strict=True)
    dagster = ("import dagster", _seconds(baseline))
    return Result(
        "load",
        "Loading the code location against `import dagster`",
        (
            Comparison("import and resolve", "s", ("resolved", _seconds(resolved)), dagster, 1.5),
            Comparison("import only", "s", ("imported", _seconds(imported)), dagster),
        ),
        (f"Heavy libraries imported on the way: {imported[0].output.strip()}.",),
    )


def _usage(code: str) -> Usage:
    return measure([sys.executable, "-c", code], os.environ)


def _seconds(usages: Iterable[Usage]) -> list[float]:
    return [usage.seconds for usage in usages]
