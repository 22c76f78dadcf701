"""What the SQL of a view says, read with sqlglot: columns, their lineage, and the rules it must keep.

Import it inside functions: sqlglot takes 0.3 s.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Final

import sqlglot
from sqlglot import exp
from sqlglot.errors import OptimizeError, ParseError, SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope

from dataplatform.lake.normal_form import normal_form
from dataplatform.lake.views import Relation, Schemas, ViewError, ViewSpec

DIALECT: Final = "trino"
_UNPORTABLE: Final = {"FORMAT_DATETIME": "date_format, or a cast to varchar"}
"""Functions that Trino has and DuckDB does not, with what to write instead."""


def parse_select(name: str, sql: str) -> exp.Query:
    """Parse one SELECT.

    Args:
        name: what the error message calls it.
        sql: Trino SQL.

    Raises:
        ViewError: it is no SQL, several statements, or no SELECT.
    """
    try:
        statements = sqlglot.parse(sql, read=DIALECT)
    except SqlglotError as error:
        raise ViewError(f"{name}: not Trino SQL: {_first_problem(error)}.") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise ViewError(f"{name}: a view is exactly one SELECT.")
    return statements[0]


def _first_problem(error: SqlglotError) -> str:
    if isinstance(error, ParseError) and error.errors:
        problem = error.errors[0]
        return f"{problem['description']} (line {problem['line']}, column {problem['col']})"
    return str(error).splitlines()[0].rstrip(".")


@cache
def normalized(sql: str) -> str:
    """Return a SELECT in its normal form: two equal definitions give the same text."""
    return normal_form(sql)


def relations(query: exp.Expr) -> tuple[exp.Table, ...]:
    """Return the table references of a query that mean tables or views, not its own CTEs."""
    found = {
        id(source): source
        for scope in traverse_scope(query)
        for source in scope.sources.values()
        if isinstance(source, exp.Table)
    }
    return tuple(found.values())


def is_named(item: exp.Expr) -> bool:
    """Return whether a select item has a name of its own: a column, an alias or a star."""
    return isinstance(item, exp.Alias | exp.Column | exp.Star)


def column_docs(view: ViewSpec) -> dict[str, str]:
    """Return the output columns in order, each with the comment behind its select item."""
    return {
        item.alias_or_name: " ".join(comment.strip() for comment in item.comments or ())
        for item in parse_select(view.name, view.sql).selects
    }


def validate(view: ViewSpec, schemas: Schemas) -> None:
    """Check that the view is one SELECT over known columns, all named.

    Args:
        view: the view.
        schemas: the columns of every table and of every view before it.

    Raises:
        ViewError: it breaks a rule; the message says which, and what to write instead.
    """
    query = parse_select(view.name, view.sql)
    _refuse_stars(view, query)
    _refuse_unportable(view, query)
    _refuse_unknown_relations(view, query, schemas)
    for item in query.selects:
        if not is_named(item):
            raise ViewError(f"{view.name}: give `{item.sql(DIALECT)}` a name: `… AS name`.")
    _refuse_unknown_columns(view, schemas)


def _refuse_stars(view: ViewSpec, query: exp.Query) -> None:
    for star in query.find_all(exp.Star):
        # count(*) names no column; everything else would freeze today's columns into the view.
        if not isinstance(star.parent, exp.Count):
            raise ViewError(
                f"{view.name}: name the columns instead of `*`. Trino stores the columns that `*`"
                " had when the view was made; when the table grows, the view is stale and fails."
            )


def _refuse_unportable(view: ViewSpec, query: exp.Query) -> None:
    for call in query.find_all(exp.Anonymous):
        instead = _UNPORTABLE.get(call.name.upper())
        if instead:
            raise ViewError(f"{view.name}: {call.name.lower()} is Trino only. Remedy: {instead}.")


def _refuse_unknown_relations(view: ViewSpec, query: exp.Query, schemas: Schemas) -> None:
    for table in relations(query):
        relation = Relation(table.db, table.name)
        if relation not in schemas:
            near = get_close_matches(str(relation), [str(known) for known in schemas], n=3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            raise ViewError(
                f"{view.name}: there is no {relation if table.db else table.name}.{hint}"
                " Tables are written warehouse.<table>, views analytics.<view>."
            )


def _refuse_unknown_columns(view: ViewSpec, schemas: Schemas) -> None:
    try:
        _qualified(view, schemas)
    except OptimizeError as error:
        raise ViewError(f"{view.name}: {str(error).splitlines()[0]}.") from None


def nested(schemas: Schemas) -> dict[str, object]:
    """Return the schemas as sqlglot takes them: schema → relation → column → type."""
    mapping: dict[str, dict[str, dict[str, str]]] = {}
    for relation, columns in schemas.items():
        mapping.setdefault(relation.schema, {})[relation.name] = dict(columns)
    return {**mapping}


def _qualified(view: ViewSpec, schemas: Schemas) -> exp.Query:
    query = parse_select(view.name, view.sql)
    return qualify(query, dialect=DIALECT, schema=nested(schemas), quote_identifiers=False)


def output_types(view: ViewSpec, schemas: Schemas) -> dict[str, str]:
    """Return the output columns with the Trino types that follow from their expressions.

    A type that sqlglot can't tell is `unknown`; the engine knows all of them.
    """
    typed = annotate_types(_qualified(view, schemas), schema=nested(schemas), dialect=DIALECT)
    return {
        item.alias_or_name: item.type.sql(DIALECT).lower() if item.type else "unknown"
        for item in typed.selects
    }


def column_lineage(view: ViewSpec, schemas: Schemas) -> dict[str, tuple[tuple[Relation, str], ...]]:
    """Return for each output column the columns of tables and views that its value comes from.

    Columns that only filter, join or sort are not among them.
    """
    nodes = lineage(None, view.sql, nested(schemas), dialect=DIALECT)
    return {name: tuple(sorted(_sources(node))) for name, node in nodes.items()}


def _sources(node: Node) -> set[tuple[Relation, str]]:
    return {
        (Relation(leaf.expression.db, leaf.expression.name), leaf.name.rsplit(".", 1)[-1])
        for leaf in node.walk()
        if isinstance(leaf.expression, exp.Table) and leaf.expression.db
    }


def checked_schemas(views: Iterable[ViewSpec], tables: Schemas) -> Schemas:
    """Validate views, which come in order, and return the schemas of tables and views.

    Raises:
        ViewError: the first view that breaks a rule.
    """
    schemas = dict(tables)
    for view in views:
        validate(view, schemas)
        schemas[view.relation] = output_types(view, schemas)
    return schemas
