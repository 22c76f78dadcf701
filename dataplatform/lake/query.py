"""The embedded query engine: Trino SQL on DuckDB, over the Iceberg tables and the deployed views.

A query sees exactly what the catalog names at that moment: each table that it references, directly
or through views, is registered as a scan of the table's current metadata file. Positional deletes
and evolved schemas are DuckDB's iceberg extension's to read; it comes as a wheel, so nothing is
downloaded.
"""

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dataplatform.lake.dialect import (
    EngineFailedError,
    QueryError,
    engine_message,
    parse_query,
    readable,
    to_engine,
    trino_type,
    version_literal,
)
from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import LocalLake
from dataplatform.lake.schema import load_table
from dataplatform.lake.spec import CATALOG, NAMESPACE
from dataplatform.lake.view_sql import DIALECT, normalized, relations
from dataplatform.lake.views import VIEW_SCHEMA, Relation, ViewSpec

_EXTENSIONS: Final = ("avro", "iceberg")
_BATCH_ROWS: Final = 10_000
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
    """An answer that is read batch by batch: for exports larger than memory."""

    reader: pa.RecordBatchReader
    types: tuple[str, ...]

    def read(self, limit: int | None = None) -> QueryResult:
        """Read up to `limit` rows, all where None."""
        batches: list[pa.RecordBatch] = []
        rows = 0
        for batch in self.reader:
            batches.append(batch)
            rows += batch.num_rows
            if limit is not None and rows > limit:
                break
        table = pa.Table.from_batches(batches, schema=self.reader.schema)
        cut = limit is not None and rows > limit
        return QueryResult(table.slice(0, limit) if cut else table, self.types, truncated=cut)


class EmbeddedEngine:
    """Answers Trino SQL from an embedded lake, and keeps its deployed views.

    Views are files `<name>.sql` in the lake's folder `views`, Trino SQL as it is in the repository.
    Only reading is possible: any statement but SELECT, SHOW, DESCRIBE and EXPLAIN is refused.
    """

    def __init__(
        self, lake: LocalLake, catalog: Catalog, declared: Iterable[Relation] = ()
    ) -> None:
        """Describe the engine; DuckDB is started by the first query.

        Args:
            lake: the folders.
            catalog: the Iceberg catalog of the same lake.
            declared: relations that a run would build, to tell "not built yet" from "unknown".
        """
        self._lake = lake
        self._catalog = catalog
        self._declared = frozenset(declared)
        self._registered: dict[Relation, str] = {}
        self._columns: dict[Relation, dict[str, str]] = {}

    @property
    def title(self) -> str:
        """DuckDB, with its version."""
        return f"DuckDB {duckdb.__version__}"

    @property
    def origin(self) -> Origin:
        """Where the lake's data come from: live or recorded."""
        return self._lake.origin

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        # Nothing is installed or loaded behind our back, and time stamps are UTC as Trino's are.
        connection = duckdb.connect(
            config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        for name in _EXTENSIONS:
            connection.execute(f"LOAD '{extension_file(name)}'")
        # GLOBAL, as every cursor is a session of its own.
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        for schema in (NAMESPACE, VIEW_SCHEMA):
            connection.execute(f"CREATE SCHEMA {schema}")
        # Whatever a query says, it reads the warehouse and no other file.
        folder, spill = (_quoted(str(self._lake.root / n)) for n in ("warehouse", "spill"))
        connection.execute(f"SET temp_directory = '{spill}'")
        connection.execute(f"SET allowed_directories = ['{folder}', 'file://{folder}']")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

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

    def stream(self, sql: str, params: Sequence[Any] | None = None) -> ResultStream:
        """Answer a SELECT batch by batch; arguments and errors as for `query`."""
        engine_sql = self._translate(parse_query(sql), Relation("", "the query"))
        cursor = self._connection.cursor()
        with _engine_errors():
            cursor.execute(engine_sql, list(params or ()))
            engine_types = [str(column[1]) for column in cursor.description or ()]
            reader = _narrowed(cursor.to_arrow_reader(_BATCH_ROWS), engine_types)
        return ResultStream(reader, tuple(trino_type(name) for name in engine_types))

    def load(self, name: str) -> Table | None:
        """Return an Iceberg table, or None while it is not built."""
        return load_table(self._catalog, name)

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        return sorted(identifier[-1] for identifier in self._catalog.list_tables(NAMESPACE))

    def deployed(self) -> list[str]:
        """Return the names of the views that are deployed, sorted."""
        return sorted(path.stem for path in self._lake.views.glob("*.sql"))

    def definition(self, name: str) -> str | None:
        """Return the Trino SQL of a deployed view, or None where there is none."""
        path = self._view_file(name)
        return path.read_text(encoding="utf-8") if path.exists() else None

    def deploy(self, view: ViewSpec) -> bool:
        """Create or replace a view; a definition that does not bind leaves the old one.

        Returns:
            whether the definition changed, comments and layout aside.

        Raises:
            QueryError: it reads what does not exist, or its SQL is wrong.
        """
        live = self.definition(view.name)
        self._register_view(view.relation, view.text)
        path = self._view_file(view.name)
        if live != view.text:
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_suffix(".tmp")
            written.write_text(view.text, encoding="utf-8")
            written.replace(path)
        return live is None or normalized(live) != normalized(view.text)

    def drop(self, name: str) -> None:
        """Remove a deployed view; one that is already gone is no error."""
        self._view_file(name).unlink(missing_ok=True)

    def _view_file(self, name: str) -> Path:
        return self._lake.views / f"{name}.sql"

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

    def _translate(self, query: exp.Query, name: Relation) -> str:
        """Register what `query` reads and return it in DuckDB's dialect."""
        schemas = {}
        with _sql_errors(name):
            tables = relations(query)
        for table in tables:
            relation = self._register(table)
            schemas[relation] = self._engine_columns(relation)
        with _sql_errors(name):
            return to_engine(query, schemas)

    def _register(self, table: exp.Table) -> Relation:
        """Register one reference and point it at what was registered."""
        if not isinstance(table.this, exp.Identifier):
            raise QueryError(
                f"{table.this.sql(DIALECT)} is no table: only tables and views are read."
            )
        if "$" in table.name:
            raise QueryError(f"{table.name}: use `dp table {table.name.split('$')[0]}` instead.")
        parts = [part for part in (table.catalog, table.db, table.name) if part]
        relation = self.resolve(".".join(parts))
        version = table.args.get("version")
        if relation.schema == VIEW_SCHEMA and version:
            raise QueryError(f"{relation} is a view: time travel needs a table.")
        if relation.schema == VIEW_SCHEMA:
            self._register_view(relation, self.definition(relation.name) or "")
        else:
            relation = self._register_table(relation, version)
        _point(table, relation)
        return relation

    def _register_table(self, relation: Relation, version: exp.Expression | None) -> Relation:
        table = self._catalog.load_table((relation.schema, relation.name))
        scan, at = f"'{_quoted(table.metadata_location)}'", ""
        if version is not None:
            snapshot = snapshot_at(table, *version_literal(version))
            scan, at = f"{scan}, snapshot_from_id = {snapshot}", f"@{snapshot}"
        registered = Relation(relation.schema, relation.name + at)
        self._define(registered, f"FROM iceberg_scan({scan})")
        return registered

    def _register_view(self, relation: Relation, text: str) -> None:
        self._define(relation, self._translate(parse_query(text), relation))

    def _define(self, relation: Relation, engine_sql: str) -> None:
        """Give a relation its meaning, unless it has it: opening an Iceberg table takes 20 ms."""
        if self._registered.get(relation) == engine_sql:
            return
        with _engine_errors():
            self._connection.execute(
                f'CREATE OR REPLACE VIEW {relation.schema}."{relation.name}" AS {engine_sql}'
            )
        if relation in self._registered:
            # What reads it may have other types now.
            self._columns.clear()
        self._registered[relation] = engine_sql

    def _engine_columns(self, relation: Relation) -> dict[str, str]:
        if relation not in self._columns:
            described = self._connection.execute(f'DESCRIBE {relation.schema}."{relation.name}"')
            self._columns[relation] = {row[0]: trino_type(row[1]) for row in described.fetchall()}
        return self._columns[relation]

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
            engine_sql = self._translate(parse_query(match[1]), Relation("", "the query"))
            with _engine_errors():
                plan = self._connection.execute(f"EXPLAIN {engine_sql}").fetchall()
            return _listing({"plan": [row[-1] for row in plan]})
        return None

    def describe(self, name: str) -> dict[str, str]:
        """Return the columns of a table or a deployed view with their Trino types."""
        table = exp.to_table(name, dialect=DIALECT)
        return self._engine_columns(self._register(table))


def extension_file(name: str) -> Path:
    """Return the file of one of DuckDB's extensions, as its wheel brought it.

    Raises:
        QueryError: the wheel is not installed.
    """
    package = find_spec(f"duckdb_extension_{name}")
    if package is None or package.origin is None:
        raise QueryError(
            f"DuckDB's extension {name} is missing. Remedy: pip install duckdb-extension-{name}"
            f"=={duckdb.__version__}, or make setup."
        )
    folder = Path(package.origin).parent / "extensions" / f"v{duckdb.__version__}"
    return folder / f"{name}.duckdb_extension"


@contextmanager
def _sql_errors(name: Relation) -> Generator[None]:
    try:
        yield
    except SqlglotError as error:
        where = f"{name}: " if name.schema else ""
        raise QueryError(where + readable(error)) from None


@contextmanager
def _engine_errors() -> Generator[None]:
    try:
        yield
    except duckdb.Error as error:
        failed = isinstance(error, duckdb.OperationalError)
        raise (EngineFailedError if failed else QueryError)(engine_message(str(error))) from error


def _narrowed(reader: pa.RecordBatchReader, engine_types: Sequence[str]) -> pa.RecordBatchReader:
    """Bring 128-bit sums, which arrive as decimals, back to the bigint they are in Trino."""
    if "HUGEINT" not in engine_types:
        return reader
    schema = reader.schema
    for number, kind in enumerate(engine_types):
        if kind == "HUGEINT":
            schema = schema.set(number, schema.field(number).with_type(pa.int64()))
    return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in reader))


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


def _point(table: exp.Table, relation: Relation) -> None:
    """Make a reference name what was registered, under the name that the query gave it."""
    if not table.alias:
        table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
    table.set("catalog", None)
    table.set("db", exp.to_identifier(relation.schema))
    table.set("this", exp.to_identifier(relation.name, quoted="@" in relation.name))
    table.set("version", None)


def _listing(columns: dict[str, list[str]]) -> QueryResult:
    arrow = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return QueryResult(arrow, ("varchar",) * len(columns))


def _quoted(text: str) -> str:
    return text.replace("'", "''")


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
