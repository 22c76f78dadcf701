"""The embedded query engine: Trino SQL on DuckDB, over the Iceberg tables and the deployed views.

A query sees exactly what the catalog names at that moment: each table that it references, directly
or through views, is registered as a scan of the table's current metadata file. Positional deletes
and evolved schemas are DuckDB's iceberg extension's to read; it comes as a wheel, so nothing is
downloaded.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
from pyiceberg.catalog import Catalog
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
from dataplatform.lake.spec import NAMESPACE
from dataplatform.lake.sql_engine import ResultStream, SqlEngine, snapshot_at
from dataplatform.lake.view_sql import DIALECT, normalized, relations
from dataplatform.lake.views import VIEW_SCHEMA, Relation, ViewSpec

_EXTENSIONS: Final = ("avro", "iceberg")
_BATCH_ROWS: Final = 10_000


class EmbeddedEngine(SqlEngine):
    """DuckDB over an embedded lake.

    Views are files `<name>.sql` in the lake's folder `views`, Trino SQL as it is in the repository.
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
        super().__init__(catalog, declared)
        self._lake = lake
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

    def stream(self, sql: str, params: Sequence[Any] | None = None) -> ResultStream:
        """Answer a SELECT batch by batch; arguments and errors as for `query`."""
        engine_sql = self._translate(parse_query(sql), Relation("", "the query"))
        cursor = self._connection.cursor()
        with _engine_errors():
            cursor.execute(engine_sql, list(params or ()))
            engine_types = [str(column[1]) for column in cursor.description or ()]
            reader = _narrowed(cursor.to_arrow_reader(_BATCH_ROWS), engine_types)
        return ResultStream(reader, tuple(trino_type(name) for name in engine_types))

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
        relation = self._referenced(table)
        version = table.args.get("version")
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

    def explain(self, sql: str) -> list[str]:
        """Return DuckDB's plan of a SELECT, which is not run."""
        engine_sql = self._translate(parse_query(sql), Relation("", "the query"))
        with _engine_errors():
            plan = self._connection.execute(f"EXPLAIN {engine_sql}").fetchall()
        return [row[-1] for row in plan]

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


def _point(table: exp.Table, relation: Relation) -> None:
    """Make a reference name what was registered, under the name that the query gave it."""
    if not table.alias:
        table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
    table.set("catalog", None)
    table.set("db", exp.to_identifier(relation.schema))
    table.set("this", exp.to_identifier(relation.name, quoted="@" in relation.name))
    table.set("version", None)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
