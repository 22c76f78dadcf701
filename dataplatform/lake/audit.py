"""Audits rows before they are published: every check of a table, in one query a grouping."""

from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from dataplatform.lake.spec import Check, TableSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE: Final = 5
"""How many rows a preview and a failed check show."""


class CheckResult(BaseModel):
    """One audited rule: how many rows or groups broke it, and a few of them."""

    name: str
    description: str
    blocking: bool
    violations: int
    sample: list[dict[str, Any]] = []

    @property
    def passed(self) -> bool:
        """Whether no row broke the rule."""
        return self.violations == 0


def audit(rows: "DataFrame", spec: TableSpec) -> tuple[list[CheckResult], tuple[str, str] | None]:
    """Run every check of a table over these of its rows.

    Returns the results, and the first and last day of the rows.
    """
    counts: dict[str, Any] = {}
    for columns in dict.fromkeys(c.per or spec.keys for c in spec.audited):
        counts |= _violations(rows, spec, columns)
    results = [check_result(check, counts[check.name], rows) for check in spec.audited]
    first, last = counts["first_day"], counts["last_day"]
    return results, (first, last) if first else None


def _violations(rows: "DataFrame", spec: TableSpec, columns: tuple[str, ...]) -> dict[str, Any]:
    """Count in one query what breaks the checks per `columns`; with the keys, also those of rows.

    Returns check → violations, and the first and last day of all rows as ISO text.
    """
    from pyspark.sql import functions as F

    checks = {c.name: c for c in spec.audited if (c.per or spec.keys) == columns}
    broken = {
        name: F.expr(f"CASE WHEN {c.violated} THEN 1 ELSE 0 END") for name, c in checks.items()
    }
    day = F.expr(f"CAST({spec.day_column or 'NULL'} AS DATE)")
    grouped = rows.groupBy(*columns).agg(
        F.min(day).alias("_first"),
        F.max(day).alias("_last"),
        *[(one if checks[n].per else F.sum(one)).alias(f"_{n}") for n, one in broken.items()],
    )
    return (
        grouped.agg(
            F.min("_first").cast("string").alias("first_day"),
            F.max("_last").cast("string").alias("last_day"),
            *[F.coalesce(F.sum(f"_{name}"), F.lit(0)).alias(name) for name in checks],
        )
        .collect()[0]
        .asDict()
    )


def check_result(check: Check, violations: int, rows: "DataFrame") -> CheckResult:
    """Return the result, with some of the rows or groups that break the rule."""
    return CheckResult(
        name=check.name,
        description=check.description,
        blocking=check.blocking,
        violations=violations,
        sample=_sample(check, rows) if violations else [],
    )


def _sample(check: Check, rows: "DataFrame") -> list[dict[str, Any]]:
    """Return some of the rows or groups that break the rule, as text.

    As text from Spark on: such a value may be one that Python can't hold, such as the year 33658.
    """
    from pyspark.sql import functions as F

    if check.per is None:
        broken = rows.where(check.violated)
    else:
        groups = rows.groupBy(*check.per).agg(F.expr(check.violated).alias("_broken"))
        broken = groups.where("_broken").drop("_broken")
    shown = broken.select(*[F.col(f"`{name}`").cast("string") for name in broken.columns])
    found = shown.limit(SAMPLE).collect()
    return [{name: str(value) for name, value in row.asDict().items()} for row in found]
