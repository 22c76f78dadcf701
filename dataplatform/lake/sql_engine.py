"""What every query engine does alike: names, limits, SHOW and DESCRIBE, and what it says when it can't.

An engine answers Trino SQL over one lake and keeps its deployed views; `EmbeddedEngine` is DuckDB,
`TrinoEngine` is Trino. What differs is how a SELECT is answered and where views are kept.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import ServerError
from pyiceberg.table import Table
from sqlglot import exp

from dataplatform.lake.dialect import FileMissingError, QueryError, missing_file
from dataplatform.lake.manifest import Origin
from dataplatform.lake.schema import load_table
from dataplatform.lake.spec import CATALOG, NAMESPACE
from dataplatform.lake.view_sql import DIALECT
from dataplatform.lake.views import VIEW_SCHEMA, Relation, ViewSpec

_SHOW_COLUMNS: Final = re.compile(
    r"(?:describe|desc|show\s+columns\s+(?:from|in))\s+(\S+)", re.IGNORECASE
)
_SHOW_CREATE: Final = re.compile(r"show\s+create\s+view\s+(\S+)", re.IGNORECASE)
_SHOW_TABLES: Final = re.compile(r"show\s+tables(?:\s+(?:from|in)\s+(\S+))?", re.IGNORECASE)
_EXPLAIN: Final = re.compile(r"explain\s+(?!analyze)(.*)", re.IGNORECASE | re.DOTALL)


class NotBuiltError(QueryError):
    """A declared table or view that no run has built yet."""


@dataclass(frozen=True)
class QueryResult:
    """Rows of an answer.

    Args:
        arrow: the rows.
        types: Trino type of each column.
        truncated: there are more rows than were asked for.
    """

    arrow: pa.Table
    types: tuple[str, ...]
    truncated: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(self.arrow.column_names)

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values."""
        # `strict` would fail for an answer without columns, which can't be.
        return list(zip(*(column.to_pylist() for column in self.arrow.columns), strict=True))


@dataclass(frozen=True)
class ResultStream:
    """An answer that is read batch by batch: for exports larger than memory.

    Args:
        reader: the rows.
        types: Trino type of each column.
        close: ends what still answers; reading to the end does too.
    """

    reader: pa.RecordBatchReader
    types: tuple[str, ...]
    close: Callable[[], None] = lambda: None

    def read(self, limit: int | None = None) -> QueryResult:
        """Read up to `limit` rows, all where None."""
        batches: list[pa.RecordBatch] = []
        rows = 0
        for batch in self.reader:
            batches.append(batch)
            rows += batch.num_rows
            if limit is not None and rows > limit:
                self.close()
                break
        table = pa.Table.from_batches(batches, schema=self.reader.schema)
        cut = limit is not None and rows > limit
        return QueryResult(table.slice(0, limit) if cut else table, self.types, truncated=cut)


class SqlEngine(ABC):
    """What DuckDB and Trino have in common; `view_engine.QueryEngine` is what callers see of it.

    Only reading is possible: any statement but SELECT, SHOW, DESCRIBE and EXPLAIN is refused.
    """

    def __init__(self, catalog: Catalog, declared: Iterable[Relation] = ()) -> None:
        """Describe the lake.

        Args:
            catalog: its Iceberg catalog.
            declared: relations that a run would build, to tell "not built yet" from "unknown".
        """
        self._catalog = catalog
        self._declared = frozenset(declared)

    @property
    @abstractmethod
    def origin(self) -> Origin:
        """Where the lake's data come from: live or recorded."""

    def watch(self, run_id: str, report: Callable[[str], None]) -> None:
        """Say who asks, and be told how far long statements are; nothing where there is no server.

        Args:
            run_id: the run of Dagster that asks.
            report: is given one line at a time.
        """
        del run_id, report

    @abstractmethod
    def stream(self, sql: str, params: Sequence[Any] | None = None) -> ResultStream:
        """Answer a SELECT batch by batch; arguments and errors as for `query`."""

    @abstractmethod
    def explain(self, sql: str) -> list[str]:
        """Return the engine's plan of a SELECT, which is not run."""

    @abstractmethod
    def describe(self, name: str) -> dict[str, str]:
        """Return the columns of a table or a deployed view with their Trino types."""

    @abstractmethod
    def deployed(self) -> list[str]:
        """Return the names of the views that are deployed, sorted."""

    @abstractmethod
    def definition(self, name: str) -> str | None:
        """Return the Trino SQL of a deployed view, or None where there is none."""

    @abstractmethod
    def deploy(self, view: ViewSpec) -> bool:
        """Create or replace a view; a definition that does not bind leaves the old one.

        Returns:
            whether the definition changed, comments and layout aside.

        Raises:
            QueryError: it reads what does not exist, or its SQL is wrong.
        """

    @abstractmethod
    def drop(self, name: str) -> None:
        """Remove a deployed view; one that is already gone is no error."""

    def query(
        self, sql: str, params: Sequence[Any] | None = None, limit: int | None = None
    ) -> QueryResult:
        """Answer a query.

        Args:
            sql: one Trino statement: SELECT, SHOW, DESCRIBE or EXPLAIN.
            params: values for `?` placeholders.
            limit: the most rows to return; `truncated` tells whether there were more.

        Raises:
            QueryError: it is refused, wrong, or names what does not exist.
        """
        described = self._describe_statement(sql.strip().rstrip(";").strip())
        if described is not None:
            return described
        return self.stream(sql, params).read(limit)

    def answer(self, sql: str, limit: int | None = None) -> ResultStream:
        """Answer any statement batch by batch; without `limit` nothing is held in memory."""
        described = self._describe_statement(sql.strip().rstrip(";").strip())
        if described is None and limit is None:
            return self.stream(sql)
        result = self.query(sql, limit=limit) if described is None else described
        return ResultStream(result.arrow.to_reader(), result.types)

    def load(self, name: str) -> Table | None:
        """Return an Iceberg table, or None while it is not built.

        Raises:
            FileMissingError: its metadata file is not in the store.
        """
        try:
            return load_table(self._catalog, name)
        except ServerError as error:
            if file := missing_file(str(error)):
                raise FileMissingError(file) from error
            raise

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        return sorted(identifier[-1] for identifier in self._catalog.list_tables(NAMESPACE))

    def resolve(self, name: str) -> Relation:
        """Return the table or view that a user means: `name`, `schema.name` or `lake.schema.name`.

        A name without schema means the view, else the table.

        Raises:
            QueryError: there is none; the message lists near names.
        """
        parts = [part.strip('"').lower() for part in name.split(".")]
        existing = self._existing()
        wanted = _candidates(parts)
        for relation in wanted:
            if relation in existing:
                return relation
        raise self._missing(name, wanted, existing)

    def _existing(self) -> set[Relation]:
        tables = {Relation(NAMESPACE, name) for name in self.tables()}
        return tables | {Relation(VIEW_SCHEMA, name) for name in self.deployed()}

    def _missing(
        self, name: str, wanted: Iterable[Relation], existing: set[Relation]
    ) -> QueryError:
        for relation in wanted:
            if relation in self._declared:
                return NotBuiltError(f"{relation} is not built yet. Remedy: run `dp run` first.")
        if not existing:
            return NotBuiltError("This lake is empty. Remedy: run `dp run` first.")
        near = _near(name.lower(), existing | self._declared)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`dp tables` lists what there is."
        return QueryError(f"There is no table or view {name}. {hint}")

    def _referenced(self, table: exp.Table) -> Relation:
        """Return what a table reference of a query means.

        Raises:
            QueryError: nothing that may be read.
        """
        if not isinstance(table.this, exp.Identifier):
            raise QueryError(
                f"{table.this.sql(DIALECT)} is no table: only tables and views are read."
            )
        if "$" in table.name:
            raise QueryError(f"{table.name}: use `dp table {table.name.split('$')[0]}` instead.")
        parts = [part for part in (table.catalog, table.db, table.name) if part]
        relation = self.resolve(".".join(parts))
        if relation.schema == VIEW_SCHEMA and table.args.get("version"):
            raise QueryError(f"{relation} is a view: time travel needs a table.")
        return relation

    def _describe_statement(self, sql: str) -> QueryResult | None:
        """Answer SHOW, DESCRIBE and EXPLAIN; None for any other statement."""
        if match := _SHOW_TABLES.fullmatch(sql):
            schema = (match[1] or "").removeprefix(f"{CATALOG}.")
            names = sorted(r for r in self._existing() if r.schema == schema or not schema)
            return _listing({"schema": [r.schema for r in names], "table": [r.name for r in names]})
        if re.fullmatch(r"show\s+schemas", sql, re.IGNORECASE):
            return _listing({"schema": [VIEW_SCHEMA, NAMESPACE]})
        if match := _SHOW_COLUMNS.fullmatch(sql):
            columns = self.describe(match[1])
            return _listing({"column": list(columns), "type": list(columns.values())})
        if match := _SHOW_CREATE.fullmatch(sql):
            return _listing({"view": [self.definition(self.resolve(match[1]).name) or ""]})
        if match := _EXPLAIN.fullmatch(sql):
            return _listing({"plan": self.explain(match[1])})
        return None


def _candidates(parts: Sequence[str]) -> list[Relation]:
    """Return what a dotted name may mean, best first."""
    match list(parts):
        case [name]:
            return [Relation(VIEW_SCHEMA, name), Relation(NAMESPACE, name)]
        case [schema, name]:
            return [Relation(schema, name)]
        case [catalog, schema, name] if catalog == CATALOG:
            return [Relation(schema, name)]
    return []


def _near(name: str, known: Iterable[Relation]) -> list[str]:
    """Return the relations whose name is like `name`: the same in another schema comes first."""
    bare = name.rsplit(".", 1)[-1]
    by_name: dict[str, list[str]] = {}
    for relation in sorted(known):
        by_name.setdefault(relation.name, []).append(str(relation))
    return [full for near in get_close_matches(bare, by_name, n=3) for full in by_name[near]]


def _listing(columns: dict[str, list[str]]) -> QueryResult:
    arrow = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return QueryResult(arrow, ("varchar",) * len(columns))


def snapshot_at(table: Table, kind: str, value: str) -> int:
    """Return the id of the snapshot that time travel means.

    Args:
        table: the Iceberg table.
        kind: `VERSION` (a snapshot id, branch or tag) or `TIMESTAMP` (ISO, UTC unless it says).
        value: the literal.

    Raises:
        QueryError: there is no such snapshot.
    """
    name = table.name()[-1]
    if kind == "TIMESTAMP":
        snapshot = table.snapshot_as_of_timestamp(_epoch_ms(value))
    elif value.isdigit():
        snapshot = table.snapshot_by_id(int(value))
    else:
        snapshot = table.snapshot_by_name(value)
    if snapshot is None:
        raise QueryError(
            f"{name} has no snapshot at {value}. `dp table {name}` lists those it still has."
        )
    return snapshot.snapshot_id


def _epoch_ms(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text.replace(" UTC", "+00:00").strip())
    except ValueError:
        raise QueryError(
            f"{text} is no time. Write it as 2025-01-31 or 2025-01-31 12:00."
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
