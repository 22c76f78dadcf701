"""`dp query`, `dp export`, `dp tables`, `dp table`: look into the lake without Dagster or Spark."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import (
    ATTRIBUTION,
    Heading,
    UserError,
    add_answer,
    add_row,
    grid,
    minute,
    show_lines,
    size_text,
    user_errors,
)
from dataplatform.cli.lake import open_engine, views_here
from dataplatform.lake.spec import NAMESPACE

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from dataplatform.lake.export import FileFormat
    from dataplatform.lake.sql_engine import QueryResult
    from dataplatform.lake.view_engine import QueryEngine
    from dataplatform.lake.views import Relation

DEFAULT_ROWS: Final = 100
_NUMBERS: Final = ("bigint", "integer", "double", "decimal", "real")


class OutputFormat(StrEnum):
    """What `dp query` can write."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class ExportFormat(StrEnum):
    """What `dp export` can write."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@user_errors
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL")],
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=0, help=f"Most rows; a table shows {DEFAULT_ROWS}."),
    ] = None,
    output_format: Annotated[
        OutputFormat | None, typer.Option("--format", "-f", help="Default: by FILE, else table.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to FILE.", metavar="FILE")
    ] = None,
) -> None:
    """Ask the lake in Trino's SQL.

    SQL is one SELECT, SHOW, DESCRIBE or EXPLAIN; - reads it from stdin.
    Tables are warehouse.NAME, views analytics.NAME; `dp tables` lists them.
    Example: dp query "select * from analytics.latest_prices limit 5"
    """
    asked = sys.stdin.read() if sql == "-" else sql
    chosen = output_format or _format_of(output)
    engine = open_engine()
    if chosen is OutputFormat.TABLE:
        if output is not None:
            raise UserError("A table is for the screen. Remedy: --format csv, json or parquet.")
        _show(engine.query(asked, limit=DEFAULT_ROWS if limit is None else limit), _source(engine))
    else:
        _write(engine, asked, ExportFormat(chosen.value), output, limit)


def _format_of(output: Path | None) -> OutputFormat:
    if output is None:
        return OutputFormat.TABLE
    try:
        return OutputFormat(output.suffix.removeprefix(".").lower())
    except ValueError:
        raise UserError(
            f"{output.name}: the ending names no format. Remedy: end it in .csv, .json or .parquet,"
            " or add --format."
        ) from None


@user_errors
def export(
    name: Annotated[str, typer.Argument(metavar="TABLE_OR_VIEW")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: NAME.FORMAT here."),
    ] = None,
    output_format: Annotated[
        ExportFormat | None, typer.Option("--format", "-f", help="Default: by FILE, else csv.")
    ] = None,
) -> None:
    """Write all rows of a table or a view to a file.

    Example: dp export analytics.latest_prices -o prices.parquet
    """
    engine = open_engine()
    relation = engine.resolve(name)
    chosen = output_format or ExportFormat(
        (_format_of(output) if output else OutputFormat.CSV).value
    )
    target = output or Path(f"{relation.name}.{chosen}")
    _write(engine, f"SELECT * FROM {relation}", chosen, target, None)  # noqa: S608  resolved


def _write(
    engine: "QueryEngine",
    sql: str,
    chosen: ExportFormat,
    output: Path | None,
    limit: int | None,
) -> None:
    from dataplatform.lake import export as files

    if output is None and chosen is ExportFormat.PARQUET and sys.stdout.isatty():
        raise UserError("Parquet is no text for a terminal. Remedy: add -o FILE.")
    file_format: FileFormat = files.SUFFIXES[f".{chosen}"]
    stream = engine.answer(sql, limit)
    if output is None:
        files.export(stream, sys.stdout.buffer, file_format)
        sys.stdout.buffer.flush()
        console.err().print(_source(engine), style="dim")
        return
    rows = files.export_file(stream, output, file_format)
    console.err().print(f"{rows:,} rows written to {output}. [dim]{_source(engine)}[/]")


def _source(engine: "QueryEngine") -> str:
    return f"{engine.origin} lake · {ATTRIBUTION}"


def _show(result: "QueryResult", source: str, title: str | None = None) -> None:
    table = grid(result.columns, [kind.startswith(_NUMBERS) for kind in result.types])
    table.title = title
    for row in result.rows:
        add_answer(table, row)
    screen = console.out()
    screen.print(table)
    more = "first " if result.truncated else ""
    rows = "row" if len(result.rows) == 1 else "rows"
    screen.print(f"{more}{len(result.rows):,} {rows} · {source}", style="dim")
    if result.truncated:
        console.err().print("There are more rows: --limit shows more, -o FILE writes all.")


@user_errors
def tables() -> None:
    """List tables and views: rows, size, last change, and what they hold."""
    engine = open_engine()
    show_lines(_LISTED, [*_table_rows(engine), *_view_rows(engine)])
    console.out().print(f"dp table NAME shows one · {_source(engine)}", style="dim")


_LISTED: Final = (
    Heading("name"),
    Heading("rows", right=True),
    Heading("size", right=True, from_width=70),
    Heading("files", right=True, from_width=110),
    Heading("last change (UTC)", from_width=110),
    Heading("what it holds"),
)


def _table_rows(engine: "QueryEngine") -> list[list[str]]:
    from dataplatform.lake.inspect import footprint
    from dataplatform.tables import all_specs

    rows = []
    specs = all_specs()
    for name in sorted({*specs, *engine.tables()}):
        summary = _first_sentence(specs[name].description) if name in specs else ""
        found = engine.load(name)
        if found is None:
            rows.append([f"warehouse.{name}", "not built", "", "", "", summary])
            continue
        now = footprint(found)
        files = str(now.data_files) + (f" + {now.delete_files}" if now.delete_files else "")
        changed = minute(now.updated_at)
        rows.append(
            [f"warehouse.{name}", f"{now.rows:,}", size_text(now.size), files, changed, summary]
        )
    return rows


def _view_rows(engine: "QueryEngine") -> list[list[str]]:
    views = views_here()
    deployed = engine.deployed()
    rows = []
    for name in sorted({*views, *deployed}):
        state = "view" if name in deployed else "not deployed"
        summary = (
            _first_sentence(views[name].description) if name in views else "(no file any more)"
        )
        rows.append([f"analytics.{name}", state, "", "", "", summary])
    return rows


def _first_sentence(description: str) -> str:
    return " ".join(description.split("\n\n", maxsplit=1)[0].split()).split(". ")[0].rstrip(".")


@user_errors
def table(
    name: Annotated[str, typer.Argument(metavar="TABLE_OR_VIEW")],
    at: Annotated[
        str | None,
        typer.Option(help="Rows as of a snapshot id or a time (UTC), such as '2026-01-31 12:00'."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows to preview.")] = 5,
    history: Annotated[int, typer.Option(min=0, help="Snapshots and partitions to list.")] = 10,
) -> None:
    """Show one table or view: columns, snapshots, files, partitions, newest rows, now or in the past.

    Example: dp table daily_prices --at '2026-01-31 12:00'
    """
    engine = open_engine()
    relation = engine.resolve(name)
    found = engine.load(relation.name) if relation.schema == NAMESPACE else None
    version = _version_clause(relation, at) if at else ""
    preview = engine.query(f"SELECT * FROM {relation}{version}{_order(relation)} LIMIT {rows}")  # noqa: S608  resolved above
    _show_columns(engine, relation, found)
    if found is not None:
        _show_storage(found, history)
    _show(preview, _source(engine), f"{relation} as of {at}" if at else str(relation))


def _order(relation: "Relation") -> str:
    """Return the clause that puts a table's newest rows first; a view has an order of its own."""
    from dataplatform.tables import all_specs

    spec = all_specs().get(relation.name) if relation.schema == NAMESPACE else None
    if spec is None or spec.day_column is None:
        return ""
    keys = [key for key in spec.keys if key != spec.day_column]
    return " ORDER BY " + ", ".join([f"{spec.day_column} DESC NULLS LAST", *keys])


def _version_clause(relation: "Relation", at: str) -> str:
    if relation.schema != NAMESPACE:
        raise UserError(f"{relation} is a view and has no snapshots. Remedy: --at with a table.")
    literal = at.replace("'", "''")
    return f" FOR VERSION AS OF {at}" if at.isdigit() else f" FOR TIMESTAMP AS OF '{literal}'"


def _show_columns(engine: "QueryEngine", relation: "Relation", found: "Table | None") -> None:
    types = engine.describe(str(relation))
    docs: dict[str, str] = {}
    description = ""
    if found is not None:
        docs = {field.name: field.doc or "" for field in found.schema().fields}
        description = found.properties.get("comment", "")
    elif relation.name in views_here():
        from dataplatform.lake.view_sql import column_docs

        view = views_here()[relation.name]
        docs, description = column_docs(view), view.description
    listing = grid(["column", "type", "meaning"], named=True)
    for column, kind in types.items():
        add_row(listing, [column, kind, docs.get(column)])
    screen = console.out()
    screen.print(str(relation), style="bold")
    screen.print(description, markup=False, highlight=False)
    screen.print(listing)


def _show_storage(found: "Table", history: int) -> None:
    from dataplatform.lake import inspect

    now = inspect.footprint(found)
    screen = console.out()
    screen.print(
        f"{now.rows:,} rows; data files: {now.data_files}, delete files: {now.delete_files},"
        f" {size_text(now.size)}. Partitioned by {inspect.partitioning(found)}."
    )
    taken = inspect.snapshots(found)
    _listing(
        f"snapshots ({len(taken)})",
        ["snapshot", "committed (UTC)", "operation", "added", "removed", "rows"],
        [
            [s.snapshot_id, s.committed_at, s.operation, s.added, s.removed, s.rows]
            for s in taken[:history]
        ],
    )
    parts = inspect.partitions(found)
    _listing(
        f"partitions ({len(parts)})",
        ["partition", "stored rows", "files", "size"],
        [
            [p.partition, p.rows, p.files, size_text(p.size)]
            for p in parts[-history or len(parts) :]
        ],
    )


def _listing(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    if rows:
        listing = grid(columns, [isinstance(value, int) for value in rows[0]])
        listing.title = title
        for row in rows:
            add_row(listing, row)
        console.out().print(listing)
