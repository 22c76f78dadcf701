"""Builds tables: plan, transform, write to a branch, audit, publish.

The plan is made from metadata alone, before a JVM is started: a table whose inputs have not changed
costs a few file reads. What a build changes, and what it has read, is committed together. Tables
that do not read each other are built side by side.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from dataplatform.lake.audit import SAMPLE, CheckResult, audit, check_result
from dataplatform.lake.inspect import live_rows, sample
from dataplatform.lake.manifest import Manifest, advance
from dataplatform.lake.plan import Lake, Plan, SparkInputs, version_of
from dataplatform.lake.records import RecordReader, newest_fetch
from dataplatform.lake.schema import AUDIT_BRANCH, ensure_table, identifier
from dataplatform.lake.side_by_side import side_by_side
from dataplatform.lake.spec import CATALOG, TableSpec
from dataplatform.lake.state import ALL_DAYS, TableState

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_WORKERS: Final = 2
"""How many tables are built at once: Spark plans on one core, and planning is most of a small build."""

Status = Literal["published", "unchanged"]


class AuditFailedError(RuntimeError):
    """A blocking check failed: readers stay on the last good snapshot."""

    def __init__(self, result: "TableResult") -> None:
        """Name the table, the rules and where the rejected rows can be looked at."""
        self.result = result
        broken = "; ".join(
            f"{c.name}: {c.violations} violation{'s' * (c.violations != 1)}"
            for c in result.checks
            if c.blocking and not c.passed
        )
        super().__init__(
            f"{result.table}: not published: {broken}. Readers keep the last good snapshot; the"
            f" rejected rows are on the branch `{AUDIT_BRANCH}`"
            f" (SELECT … FROM {CATALOG}.{identifier(result.table)} VERSION AS OF '{AUDIT_BRANCH}')."
        )


class CommitConflictError(RuntimeError):
    """Somebody else wrote between this build's read and its publication."""

    def __init__(self, table: str, did: str) -> None:
        """Name the table, and what somebody else did."""
        super().__init__(
            f"{table}: somebody {did} while it was being built, although one writer at a time holds"
            " the lake's lock. Remedy: run it again; nothing is lost."
        )


class TableResult(BaseModel):
    """What a build did to one table. Counts are rows; `changed` the days it touched.

    `held` are the blocking checks, by fingerprint, that all published rows have passed.
    """

    table: str
    status: Status
    rows: int
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    rejected: int = 0
    raw_files: int = 0
    snapshot_id: int | None = None
    changed: tuple[str, str] | None = None
    checks: list[CheckResult] = []
    preview: list[dict[str, str]] = []
    held: frozenset[str] = frozenset()
    seconds: float = 0.0


@dataclass(frozen=True)
class Change:
    """The rows that a build changes: `_op` is I, U or D.

    The first rows of a table have no `_op`, and `inserted` is None until they are written: to count
    them before would compute them twice.
    """

    frame: "DataFrame"
    inserted: int | None = 0
    updated: int = 0
    deleted: int = 0
    days: tuple[str, str] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.inserted == 0 and self.only_inserts

    @property
    def only_inserts(self) -> bool:
        """Whether published rows stay as they are."""
        return not (self.updated or self.deleted)


class Builder:
    """Builds the tables of one lake with one Spark session, started when first needed."""

    def __init__(
        self,
        lake: Lake,
        specs: Mapping[str, TableSpec],
        spark: Callable[[], "SparkSession"],
        still_writer: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed; nothing is read or started.

        Args:
            lake: what to work on.
            specs: every declared table by name, in dependency order.
            spark: gives the session; called once, and only if a table has to be built.
            still_writer: raises where the writers' lock was lost; asked before what it guards.
        """
        self.lake = lake
        self.specs = specs
        self._start = spark
        self._still_writer = still_writer
        self._session: SparkSession | None = None
        self._cache: dict[tuple[str, tuple[str, ...]], DataFrame] = {}
        self._lock = threading.Lock()

    @property
    def spark(self) -> "SparkSession":
        """The session."""
        with self._lock:
            if self._session is None:
                self._session = self._start()
            return self._session

    def build(self, names: Iterable[str]) -> Generator[TableResult]:
        """Build the named tables, each after those it reads; yields each as it is published.

        Tables that read a failed one are not begun, the others are.

        Raises:
            AuditFailedError: a blocking check failed.
            ExceptionGroup: several tables failed.
        """
        wanted = set(names)
        needs = {name: wanted.intersection(self.specs[name].upstream) for name in wanted}
        # Here and not in the threads, where two readers of a table would race to evolve it.
        for name in {u for w in wanted for u in self.specs[w].upstream if u not in wanted}:
            ensure_table(self.lake.catalog, self.specs[name])
        yield from side_by_side(
            needs,
            lambda name: self.build_table(self.specs[name]),
            workers=_WORKERS,
            interrupt=self._cancel,
        )
        # After a failure not: the session may be dead, and its error would stand for the failure.
        self._cache.clear()
        if self._session is not None:
            self._session.catalog.clearCache()

    def _cancel(self) -> None:
        if self._session is not None:
            self._session.sparkContext.cancelAllJobs()

    def build_table(self, spec: TableSpec) -> TableResult:
        """Bring one table up to its inputs; `unchanged` where they have nothing new."""
        started = time.monotonic()
        table = ensure_table(self.lake.catalog, spec)
        plan = self.lake.plan(spec)
        if not plan.is_needed:
            self._drop_left_over(table)
            return self._unchanged(plan, started)
        change = self._change(plan)
        if change.is_empty:
            self._record(table, self._next_state(plan, change))
            self._drop_left_over(table)
            return self._unchanged(plan, started)
        result = self._write_audit_publish(plan, change)
        change.frame.unpersist()
        return result.model_copy(update={"seconds": time.monotonic() - started})

    def _unchanged(self, plan: Plan, started: float) -> TableResult:
        return TableResult(
            table=plan.spec.name,
            status="unchanged",
            rows=plan.rows,
            raw_files=_files(plan),
            snapshot_id=plan.base,
            held=plan.state.held,
            seconds=time.monotonic() - started,
        )

    def _next_state(self, plan: Plan, change: Change) -> TableState:
        fetched = newest_fetch(plan.manifests)
        newest = max((t for t in (fetched, plan.state.newest) if t), default=None)
        counted = change.inserted is not None
        return TableState(
            cursor=advance(plan.state.cursor, plan.arrivals, plan.listed_at),
            upstream=plan.upstream,
            newest=newest,
            rows=plan.rows + change.inserted - change.deleted if counted else None,
            held=_held(plan, change),
            version=plan.spec.version,
            changed=change.days,
        )

    def _record(self, table: Table, state: TableState) -> None:
        """Commit what was read although it changed no row: else it would be read again."""
        table.refresh()
        table.append(table.schema().as_arrow().empty_table(), snapshot_properties=state.summary)

    def _parsed(self, endpoint: str, manifests: list[Manifest]) -> "DataFrame":
        key = (endpoint, tuple(sorted(m.key for m in manifests)))
        reader = RecordReader(self.spark, self.lake.zone)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = reader.parsed(self.lake.endpoints[endpoint], manifests).persist()
            return self._cache[key]

    def _change(self, plan: Plan) -> Change:
        from pyspark.sql import functions as F

        spec = plan.spec
        inputs = SparkInputs(plan, self.lake, self.spark, self._parsed)
        rows = spec.transform(inputs).select(
            *[F.col(f"`{c.name}`").cast(c.type).alias(c.name) for c in spec.columns]
        )
        if plan.base is None:
            return Change(rows, None, days=ALL_DAYS)
        marked = self._marked(plan, rows).where("_op IS NOT NULL").persist()
        counts = marked.agg(*_counts(spec)).collect()[0]
        days = (counts["first_day"], counts["last_day"]) if counts["first_day"] else None
        if days is None and (counts["inserted"] or counts["updated"] or counts["deleted"]):
            days = ALL_DAYS
        return Change(marked, counts["inserted"], counts["updated"], counts["deleted"], days)

    def _marked(self, plan: Plan, rows: "DataFrame") -> "DataFrame":
        """Add `_op` to the rows: I where the key is new, U where a value differs, else null."""
        from pyspark.sql import functions as F

        rows = rows.persist()
        published = self._published(plan, rows)
        source, target = rows.alias("s"), published.alias("t")
        on = F.expr(" AND ".join(f"s.`{key}` <=> t.`{key}`" for key in plan.spec.keys))
        removes = plan.replaced is not None or plan.rebuild
        joined = source.join(target, on, "full" if removes else "left")
        # Rows of another transformation have no say against this one's.
        wins = None if plan.rebuild else plan.spec.replaces
        operation = F.expr(_operation(plan.spec, removes, wins))
        kept = [
            F.coalesce(f"s.{c.name}", f"t.{c.name}").alias(c.name)
            if c.name in plan.spec.keys
            else F.col(f"s.{c.name}").alias(c.name)
            for c in plan.spec.columns
        ]
        return joined.select(*kept, operation.alias("_op"))

    def _published(self, plan: Plan, rows: "DataFrame") -> "DataFrame":
        """Return the published rows of the days that are replaced, or else that `rows` touch.

        The rest need not be read.
        """
        from pyspark.sql import functions as F

        assert plan.base is not None  # noqa: S101  without a base nothing is published
        published = version_of(self.spark, plan.spec.name, plan.base)
        column = plan.spec.day_column
        if column is None or plan.rebuild:
            return published
        if plan.replaced is not None:
            # Not the days of `rows`: a day that has none any more would keep its old ones.
            return _of_days(published, column, plan.replaced)
        # As text: Python takes time stamps as local ones, and an hour of autumn comes twice.
        ends = (end(column).cast("string") for end in (F.min, F.max))
        first, last = rows.agg(*ends).collect()[0]
        if first is None:
            return published.where("false")
        kind = plan.spec.column(column).type
        days = (F.lit(end).cast(kind) for end in (first, last))
        return published.where(F.col(column).between(*days))

    def _write_audit_publish(self, plan: Plan, change: Change) -> TableResult:
        spec = plan.spec
        snapshot, change = self._write(plan, change)
        checks, days = (
            ([], None) if change.is_empty else audit(self._audited_rows(spec, change.days), spec)
        )
        result = TableResult(
            table=spec.name,
            status="unchanged" if change.is_empty else "published",
            rows=live_rows(snapshot),
            inserted=change.inserted or 0,
            updated=change.updated,
            deleted=change.deleted,
            raw_files=_files(plan),
            snapshot_id=snapshot.snapshot_id,
            changed=days if change.days == ALL_DAYS else change.days,
            checks=checks,
        )
        if any(check.blocking and not check.passed for check in result.checks):
            raise AuditFailedError(result)
        table = self._publish(plan, snapshot.snapshot_id)
        rows = sample(table, SAMPLE, spec.day_column, change.days)
        return result.model_copy(update={"preview": rows})

    def _write(self, plan: Plan, change: Change) -> tuple[Snapshot, Change]:
        """Write the change to the audit branch; returns the branch's snapshot."""
        table = self.lake.catalog.load_table(identifier(plan.spec.name))
        self._still_writer()
        self._branch(table, plan.base)
        start = table.refresh().refs()[AUDIT_BRANCH].snapshot_id
        self._still_writer()
        target = f"{CATALOG}.{identifier(plan.spec.name)}.branch_{AUDIT_BRANCH}"
        state = self._next_state(plan, change)
        if change.only_inserts:
            self._append(plan.spec, change, target, state)
        else:
            self._merge(plan.spec, change, target)
            self._seal(table, state)
        snapshot = _written_alone(table.refresh(), start, commits=1 if change.only_inserts else 2)
        if change.inserted is None:
            change = replace(change, inserted=live_rows(snapshot))
        return snapshot, change

    def _append(self, spec: TableSpec, change: Change, target: str, state: TableState) -> None:
        """Append rows, with the state in the same snapshot."""
        rows = change.frame.drop("_op").sortWithinPartitions(*_clustered(spec))
        writer = rows.writeTo(target).option("fanout-enabled", "true")
        for key, value in state.summary.items():
            writer = writer.option(f"snapshot-property.{key}", value)
        writer.append()

    def _seal(self, table: Table, state: TableState) -> None:
        """Commit the state after a MERGE, which can't carry any."""
        table.refresh()
        merged = table.refs()[AUDIT_BRANCH].snapshot_id
        table.append(
            table.schema().as_arrow().empty_table(),
            snapshot_properties=state.model_copy(update={"covers": merged}).summary,
            branch=AUDIT_BRANCH,
        )

    def _branch(self, table: Table, base: int | None) -> None:
        """Point the audit branch at the published snapshot; what an earlier run left is dropped."""
        left_over = AUDIT_BRANCH in table.refs()
        with table.manage_snapshots() as snapshots:
            if left_over:
                snapshots.remove_branch(AUDIT_BRANCH)
            if base is not None:
                snapshots.create_branch(base, AUDIT_BRANCH)
        if base is None:
            # Only Spark can make a branch of a table that has no snapshot yet.
            name = ".".join(table.name()[-2:])
            self.spark.sql(f"ALTER TABLE {CATALOG}.{name} CREATE BRANCH {AUDIT_BRANCH}")

    def _drop_left_over(self, table: Table) -> None:
        """Drop the branch of a build that died or was overtaken: its files would be kept for ever."""
        if AUDIT_BRANCH in table.refs():
            self._still_writer()
            with table.manage_snapshots() as snapshots:
                snapshots.remove_branch(AUDIT_BRANCH)

    def _merge(self, spec: TableSpec, change: Change, target: str) -> None:
        on = " AND ".join(f"t.`{key}` <=> s.`{key}`" for key in spec.keys)
        values = ", ".join(f"`{c.name}` = s.`{c.name}`" for c in spec.columns)
        names = ", ".join(f"`{c.name}`" for c in spec.columns)
        sources = ", ".join(f"s.`{c.name}`" for c in spec.columns)
        try:
            self.spark.sql(
                f"MERGE INTO {target} t USING {{change}} s ON {on}{_day_bounds(spec, change)}"
                f" WHEN MATCHED AND s._op = 'D' THEN DELETE"
                f" WHEN MATCHED THEN UPDATE SET {values}"
                f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({sources})",
                change=change.frame,
            )
        except Exception as error:
            # Two rows for one published key: Spark refuses before the audit could.
            if "MERGE_CARDINALITY_VIOLATION" not in str(error):
                raise
            doubled = change.frame.groupBy(*spec.keys).count().where("count > 1").count()
            check = check_result(spec.keys_check, doubled, change.frame)
            result = TableResult(table=spec.name, status="unchanged", rows=0, checks=[check])
            raise AuditFailedError(result) from error

    def _audited_rows(self, spec: TableSpec, days: tuple[str, str] | None) -> "DataFrame":
        rows = version_of(self.spark, spec.name, AUDIT_BRANCH)
        if spec.day_column is None or days in (None, ALL_DAYS):
            return rows
        assert days is not None  # noqa: S101  excluded above
        return _of_days(rows, spec.day_column, days)

    def _publish(self, plan: Plan, head: int) -> Table:
        """Move `main` to the audited snapshot, if nobody moved it meanwhile; returns the table."""
        table = self.lake.catalog.load_table(identifier(plan.spec.name))
        current = table.current_snapshot()
        if (current.snapshot_id if current else None) != plan.base:
            raise CommitConflictError(plan.spec.name, "published")
        self._still_writer()
        with table.manage_snapshots() as snapshots:
            snapshots.set_current_snapshot(snapshot_id=head)
            snapshots.remove_branch(AUDIT_BRANCH)
        return table


def _written_alone(table: Table, start: int, commits: int) -> Snapshot:
    """Return the audit branch's head, if it is this build's commits on `start` and nothing else.

    Two writers append to one branch without a conflict that Iceberg would see: only the lock keeps
    them apart, and it may be lost with its connection.
    """
    head = found = table.snapshot_by_name(AUDIT_BRANCH)
    for _ in range(commits):
        parent = found.parent_snapshot_id if found else None
        found = table.snapshot_by_id(parent) if parent is not None else None
    if head is None or found is None or found.snapshot_id != start:
        raise CommitConflictError(table.name()[-1], "wrote to its audit branch")
    return head


def _of_days(rows: "DataFrame", column: str, days: tuple[str, str]) -> "DataFrame":
    from pyspark.sql import functions as F

    first, last = (F.lit(day).cast("date") for day in days)
    return rows.where(F.col(column).cast("date").between(first, last))


def _held(plan: Plan, change: Change) -> frozenset[str]:
    """Return the blocking checks that every row will have passed once this build is published.

    A check that is newer than some of the rows is not among them.
    """
    declared = frozenset(check.fingerprint for check in plan.spec.audited if check.blocking)
    if plan.base is None or plan.rebuild:
        return declared
    return plan.state.held if change.is_empty else plan.state.held & declared


def _files(plan: Plan) -> int:
    return sum(len(manifest.files) for manifest in plan.manifests)


def _counts(spec: TableSpec) -> list[Any]:
    from pyspark.sql import functions as F

    day = F.col(spec.day_column).cast("date") if spec.day_column else F.lit(None).cast("date")
    counted = [
        F.count_if(F.col("_op") == operation).alias(name)
        for operation, name in (("I", "inserted"), ("U", "updated"), ("D", "deleted"))
    ]
    return [
        *counted,
        F.min(day).cast("string").alias("first_day"),
        F.max(day).cast("string").alias("last_day"),
    ]


def _operation(spec: TableSpec, removes: bool, wins: str | None) -> str:
    """SQL that gives the operation of a joined row.

    Lineage is not compared: the same figures fetched again are no change.
    """
    compared = [
        c.name
        for c in spec.columns
        if c.name not in spec.keys and c.name not in {"fetched_at", "raw_key"}
    ]
    # Keys are never null, so a null key says which side is missing.
    key = spec.keys[0]
    differs = " OR ".join(f"NOT (s.`{n}` <=> t.`{n}`)" for n in compared) or "false"
    if wins is not None:
        differs = f"({differs}) AND ({wins})"
    removed = f"WHEN s.`{key}` IS NULL THEN 'D'" if removes else ""
    return f"CASE {removed} WHEN t.`{key}` IS NULL THEN 'I' WHEN {differs} THEN 'U' END"


def _day_bounds(spec: TableSpec, change: Change) -> str:
    """SQL that lets Iceberg skip the files of other days."""
    if spec.day_column is None or change.days in (None, ALL_DAYS):
        return ""
    assert change.days is not None  # noqa: S101  excluded above
    first, last = change.days
    kind = spec.column(spec.day_column).type
    if kind == "date":
        return f" AND t.`{spec.day_column}` BETWEEN DATE'{first}' AND DATE'{last}'"
    return (
        f" AND t.`{spec.day_column}` >= TIMESTAMP'{first} 00:00:00'"
        f" AND t.`{spec.day_column}` < TIMESTAMP'{last} 00:00:00' + INTERVAL 1 DAY"
    )


def _clustered(spec: TableSpec) -> tuple[str, ...]:
    return spec.sort_order or spec.keys
