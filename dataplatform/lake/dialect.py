"""Between Trino's SQL and DuckDB's: parsing, naming, typing, and what to say when it fails."""

import re
from typing import Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from dataplatform.lake.view_sql import DIALECT, is_named, nested
from dataplatform.lake.views import Schemas

ENGINE_DIALECT: Final = "duckdb"
# Whole numbers are divided as fractions, and the quotient is cast back.
_DIVIDED_BY_ZERO: Final = re.compile(r"Type DOUBLE with value -?(?:inf|nan) can't be cast")
_WRITES: Final = (exp.DML, exp.DDL, exp.Into)


class QueryError(ValueError):
    """A query that can't be answered; the message says why and what to do."""


class EngineFailedError(QueryError):
    """The engine could not do its work: disk, memory, a file that is gone. It may next time."""


class FileMissingError(EngineFailedError):
    """A table points to a file that is not in the store."""

    def __init__(self, file: str) -> None:
        """Name the file."""
        super().__init__(
            f"A table points to {file}, which is not in the store. Remedy: see that the store is the"
            " one that the tables were written to (DATAPLATFORM_S3_ENDPOINT), or bring the file back"
            " (docs/backup.md)."
        )


_NO_LOCATION: Final = re.compile(r"Location does not exist: (\S+)")


def missing_file(message: str) -> str | None:
    """Return the file that the REST catalog does not find, as it says; None for any other error."""
    found = _NO_LOCATION.search(message)
    return found[1] if found else None


def parse_query(sql: str) -> exp.Query:
    """Parse one reading statement of Trino SQL.

    Raises:
        QueryError: it is no SQL, several statements, or one that writes.
    """
    try:
        statements = [s for s in sqlglot.parse(sql, read=DIALECT) if s is not None]
    except SqlglotError as error:
        raise QueryError(readable(error)) from None
    if not statements:
        raise QueryError('There is no statement. Such as: "select * from analytics.latest_prices"')
    if len(statements) > 1:
        raise QueryError("One statement at a time, please.")
    query = statements[0]
    if not isinstance(query, exp.Query) or any(query.find_all(*_WRITES)):
        raise QueryError("Only reading is possible here: SELECT, SHOW, DESCRIBE or EXPLAIN.")
    return query


def readable(error: SqlglotError) -> str:
    """Return sqlglot's error as one line, without its terminal colours."""
    problems = getattr(error, "errors", None)
    if problems:
        first = problems[0]
        near = f"{first['start_context'][-20:]}»{first['highlight']}«".strip()
        return f"Not Trino SQL: {_said(first['description'])} at line {first['line']}: …{near}"
    return re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()[0]


def _said(description: str) -> str:
    """Return what sqlglot expected, without the names of its own classes."""
    expected = description.split(" but got <", maxsplit=1)[0]
    return "something is missing" if "<class" in expected else expected


def name_columns(query: exp.Query) -> None:
    """Give unnamed columns the names that Trino gives them."""
    if not isinstance(query, exp.Select):
        return
    for number, item in enumerate(list(query.expressions)):
        if not is_named(item):
            item.replace(exp.alias_(item.copy(), f"_col{number}"))


def to_engine(query: exp.Query, schemas: Schemas) -> str:
    """Return a query in DuckDB's dialect, its columns and types resolved.

    Without types, `/` between integers would be a fraction; in Trino it is a whole number.

    Raises:
        SqlglotError: a column can't be resolved.
    """
    name_columns(query)
    schema = nested(schemas)
    qualified = qualify(query, dialect=DIALECT, schema=schema, quote_identifiers=False)
    return annotate_types(qualified, schema=schema, dialect=DIALECT).sql(ENGINE_DIALECT)


def trino_type(engine_type: str) -> str:
    """Return Trino's name of a DuckDB type; Trino sums bigint to bigint, DuckDB to 128 bits."""
    narrowed = engine_type.replace("HUGEINT", "BIGINT")
    named = exp.DataType.build(narrowed, dialect=ENGINE_DIALECT).sql(DIALECT).lower()
    # DuckDB's time stamps are microseconds, as Iceberg's are.
    return re.sub(r"\btimestamp\b(?!\()", "timestamp(6)", named)


def engine_message(message: str) -> str:
    """Return DuckDB's error as one line, in Trino's words where it can't be understood here."""
    if _DIVIDED_BY_ZERO.search(message):
        return "Division by zero. Remedy: divide by nullif(…, 0), which gives null instead."
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:2])


def version_literal(version: exp.Expression) -> tuple[str, str]:
    """Return kind and value of `FOR VERSION|TIMESTAMP AS OF`."""
    kind = str(version.args["this"]).upper()
    value = version.expression
    literal = value.find(exp.Literal)
    if literal is None:
        raise QueryError(f"{value.sql(DIALECT)}: time travel needs a literal.")
    return kind, literal.name
