"""How a table is declared: schema, keys, layout, checks, and one pure transformation."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from dataplatform.lake.plot import TablePlot

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NAMESPACE: Final = "warehouse"
CATALOG: Final = "lake"

ColumnType = Literal[
    "string", "int", "bigint", "double", "boolean", "date", "timestamp", "array<string>"
]


@dataclass(frozen=True)
class Column:
    """One column: its Spark SQL type, what it means, and its unit where it has one."""

    name: str
    type: ColumnType
    doc: str
    unit: str | None = None
    required: bool = False

    @property
    def documentation(self) -> str:
        """What the column means, with its unit in brackets."""
        return f"{self.doc} [{self.unit}]" if self.unit else self.doc


@dataclass(frozen=True)
class Check:
    """A rule on rows, derived into an asset check that audits what is about to be published.

    Args:
        name: the check's name.
        violated: SQL over the table's columns, true for a row that breaks the rule.
        description: the rule, as a sentence.
        blocking: a violation keeps the new snapshot from readers; otherwise it warns.
        per: `violated` aggregates the rows that have these columns in common, and the rule is broken
            by a group rather than a row. The rows are those of the days that a build changed.
    """

    name: str
    violated: str
    description: str
    blocking: bool = True
    per: tuple[str, ...] | None = None

    @property
    def fingerprint(self) -> str:
        """The check's name with a hash of its rule: a rule that was changed is another one."""
        rule = f"{self.violated} {self.per}"
        return f"{self.name}:{hashlib.sha256(rule.encode()).hexdigest()[:8]}"


class Inputs(Protocol):
    """What a transformation may read. Everything is a Spark DataFrame or a SQL literal."""

    def sql(self, query: str, **values: "DataFrame | str | float") -> "DataFrame":
        """Run Spark SQL.

        `{name}` in `query` stands for the frame or the literal of that name (text is quoted), else
        for what `records(name)`, `table(name)` or (as `{self}`) the table's own published rows
        give.
        """
        ...

    def records(self, endpoint: str) -> "DataFrame":
        """Return the new records of an endpoint: its fields and the lineage columns.

        The lineage columns are raw_key, slot_at, fetched_at, origin, complete, params (a map).
        """
        ...

    def rejects(self, endpoint: str) -> "DataFrame":
        """Return the new records that broke the endpoint's declaration, with the reason."""
        ...

    def table(self, name: str) -> "DataFrame":
        """Return an upstream table as published."""
        ...

    def changed(self, name: str) -> tuple[str, str]:
        """Return the first and last day (ISO) of what changed upstream since the last build."""
        ...


Transform = Callable[[Inputs], "DataFrame"]


@dataclass(frozen=True)
class TableSpec:
    """One Iceberg table.

    Args:
        name: the table's name in the namespace `warehouse`.
        description: what a row is, and what to know before using it.
        columns: the declared schema.
        keys: the columns that identify a row.
        partitioning: Iceberg partition transforms, such as `month(day)`.
        sort_order: columns by which files are sorted.
        transform: new inputs to rows; pure: the same inputs give the same rows.
        endpoints: raw endpoints read, by name.
        upstream: tables read.
        checks: rules beyond those derived from the schema and the keys.
        day_column: the date or timestamp column that says which days a change touches.
        replaces: SQL over the incoming row `s` and the published row `t` of the same key, true where
            `s` wins, so that files which arrive out of order end the same; None: `s` always wins.
        replace_days: the transformation gives all rows, and only those, of the days that changed in
            the upstream tables and of so many days after the last of them: rows of those days that
            it no longer gives are removed, be they all of a day. None: no row is ever removed.
        in_order: listings must be applied in the order they were fetched; one that arrives late
            makes the table build anew from all raw files.
        version: raised when the transformation gives other rows of the same inputs: the table is then
            built anew from all of them.
        plot: what is drawn of the table for its page; None where no picture says anything.
        freshness_hours: how old the newest build may be before the table counts as stale.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    transform: Transform
    endpoints: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    partitioning: tuple[str, ...] = ()
    sort_order: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    day_column: str | None = None
    replaces: str | None = None
    replace_days: int | None = None
    in_order: bool = False
    version: int = 1
    plot: TablePlot | None = None
    freshness_hours: float = 26.0

    def __post_init__(self) -> None:
        """Refuse a declaration that can't be kept."""
        if self.replace_days is not None and not (self.upstream and self.day_column):
            raise ValueError(
                f"{self.name}: replace_days needs upstream tables, whose changed days it speaks of,"
                " and a day_column"
            )

    @property
    def keys_check(self) -> Check:
        """The check that no key stands twice."""
        description = f"One row for each {', '.join(self.keys)}."
        return Check("keys_unique", "count(*) > 1", description, per=self.keys)

    @property
    def all_checks(self) -> tuple[Check, ...]:
        """The checks derived from the schema, then the declared ones (uniqueness apart)."""
        required = [c.name for c in self.columns if self.requires(c)]
        doubles = [c.name for c in self.columns if c.type == "double"]
        derived = [
            Check(
                "required_columns_present",
                _any_of(f"{name} IS NULL" for name in required),
                f"No null in {', '.join(required)}.",
            )
        ]
        if doubles:
            derived.append(
                Check(
                    "numbers_finite",
                    _any_of(f"isnan({n}) OR abs({n}) = double('Infinity')" for n in doubles),
                    "No NaN and no infinity in a number.",
                )
            )
        return (*derived, *self.checks)

    @property
    def audited(self) -> tuple[Check, ...]:
        """Every check, that of the keys first."""
        return (self.keys_check, *self.all_checks)

    def requires(self, column: Column) -> bool:
        """Return whether a column is never null: it is declared so, or part of the key."""
        return column.required or column.name in self.keys

    def column(self, name: str) -> Column:
        """Return the column called `name`; raises KeyError where there is none."""
        return {c.name: c for c in self.columns}[name]


def _any_of(conditions: Any) -> str:
    return " OR ".join(f"({condition})" for condition in conditions)


LINEAGE: Final[Sequence[Column]] = (
    Column("origin", "string", "live, or recorded: the bundled recordings.", required=True),
    Column("fetched_at", "timestamp", "When the raw file was received.", unit="UTC", required=True),
    Column("raw_key", "string", "The raw file's key in the bucket `datalake`.", required=True),
)
