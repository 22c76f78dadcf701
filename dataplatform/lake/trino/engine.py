"""Views and queries on a real Trino: the same names, limits and messages as the embedded engine's.

Views lie in the schema `analytics` of the lake's catalog. Their SQL names no catalog: Trino keeps such
a name as it was written, and would not find it under another.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pyiceberg.catalog import Catalog
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dataplatform.lake.dialect import QueryError, parse_query, readable, version_literal
from dataplatform.lake.manifest import Origin
from dataplatform.lake.sql_engine import ResultStream, SqlEngine, snapshot_at
from dataplatform.lake.trino.client import TrinoClient, literal, quoted
from dataplatform.lake.trino.errors import UnknownRelationError
from dataplatform.lake.trino.types import spoken
from dataplatform.lake.view_engine import staleness
from dataplatform.lake.view_sql import DIALECT, column_docs, normalized, relations
from dataplatform.lake.views import VIEW_SCHEMA, Relation, ViewSpec

FEDERATED_CATALOG: Final = "postgres"
"""Trino's catalog of Dagster's database, beside the lake's."""
_CREATED: Final = re.compile(
    r"CREATE VIEW \S+(?:\s+COMMENT '(?P<comment>(?:[^']|'')*)')?\s+SECURITY (?P<security>\w+)"
    r"(?:\s+WITH \(.*?\))?\s+AS\s+(?P<sql>.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class LiveView:
    """A view as Trino has it.

    Args:
        sql: its SELECT, in Trino's layout.
        comment: what it is, in Markdown.
        security: INVOKER or DEFINER.
    """

    sql: str
    comment: str
    security: str


class TrinoEngine(SqlEngine):
    """Trino over one lake: the Trino catalog `lake` or `recorded`."""

    def __init__(
        self,
        client: TrinoClient,
        catalog: Catalog,
        origin: Origin,
        declared: Iterable[Relation] = (),
    ) -> None:
        """Describe the engine; Trino is asked by the first query.

        Args:
            client: a client whose catalog is the lake's.
            catalog: the Iceberg catalog of the same lake.
            origin: live or recorded.
            declared: relations that a run would build, to tell "not built yet" from "unknown".
        """
        super().__init__(catalog, declared)
        self._client = client
        self._origin = origin

    @property
    def origin(self) -> Origin:
        """Where the lake's data come from: live or recorded."""
        return self._origin

    @property
    def title(self) -> str:
        """What to call it: Trino, with its version."""
        return f"Trino {self._client.version}"

    def watch(self, run_id: str, report: Callable[[str], None]) -> None:
        """Tag what is asked with the run's id, and report how far long statements are."""
        server = replace(self._client.server, client_tags=(f"dagster/run_id:{run_id}",))
        told = TrinoClient(server, self._client.authenticate, lambda now: report(f"Trino: {now}"))
        self._client = told

    def stream(self, sql: str, params: Sequence[Any] | None = None) -> ResultStream:
        """Answer a SELECT batch by batch; arguments and errors as for `query`."""
        return self._client.stream(self._pointed(sql), params)

    def explain(self, sql: str) -> list[str]:
        """Return Trino's plan of a SELECT, which is not run."""
        plan = self._client.query(f"EXPLAIN {self._pointed(sql)}").rows
        return [line for row in plan for line in str(row[0]).splitlines()]

    def describe(self, name: str) -> dict[str, str]:
        """Return the columns of a table or a deployed view with their Trino types."""
        return {column: kind for column, (kind, _) in self._columns(self.resolve(name)).items()}

    def deployed(self) -> list[str]:
        """Return the names of the views that are deployed, sorted."""
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'VIEW'"
        return sorted(str(row[0]) for row in self._client.query(sql, [VIEW_SCHEMA]).rows)

    def definition(self, name: str) -> str | None:
        """Return the SELECT of a deployed view in Trino's layout, or None where there is none."""
        live = self.live(name)
        return live.sql if live else None

    def live(self, name: str) -> LiveView | None:
        """Return a deployed view as Trino has it, or None where there is none."""
        try:
            created = self._client.query(f"SHOW CREATE VIEW {_view(name)}").rows[0][0]
        except UnknownRelationError:
            return None
        parts = _CREATED.fullmatch(created.strip())
        if parts is None:
            raise QueryError(f"{_view(name)}: what Trino shows of it can't be read: {created[:80]}")
        comment = (parts["comment"] or "").replace("''", "'")
        return LiveView(parts["sql"].strip() + "\n", comment, parts["security"])

    def deploy(self, view: ViewSpec) -> bool:
        """Create or replace a view; a definition that does not bind leaves the old one.

        A view that is as declared and not stale is left alone: each replacement is one more version
        of its metadata.
        """
        live = self.live(view.name)
        changed = live is None or normalized(live.sql) != normalized(view.sql)
        if live is None or changed or not self._as_declared(view, live):
            self._create(view, live)
        return changed

    def drop(self, name: str) -> None:
        """Remove a deployed view; one that is already gone is no error."""
        self._client.execute(f"DROP VIEW IF EXISTS {_view(name)}", repeatable=True)

    def _create(self, view: ViewSpec, live: LiveView | None) -> None:
        schema = quoted(VIEW_SCHEMA)
        self._client.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}", repeatable=True)
        if live is not None and live.security != "INVOKER":
            # Trino keeps DEFINER whatever the new definition says; so the old view goes first, once
            # the new one is known to bind.
            self._client.query(f"EXPLAIN (TYPE VALIDATE) {view.sql}")
            self.drop(view.name)
        self._client.execute(
            f"CREATE OR REPLACE VIEW {_view(view.name)} COMMENT {literal(view.description)}"
            f" SECURITY INVOKER AS\n{view.sql}",
            repeatable=True,
        )
        for column, comment in column_docs(view).items():
            if comment:
                self._client.execute(
                    f"COMMENT ON COLUMN {_view(view.name)}.{quoted(column)} IS {literal(comment)}",
                    repeatable=True,
                )

    def _as_declared(self, view: ViewSpec, live: LiveView) -> bool:
        """Return whether all but the SELECT is as declared, and Trino still answers it."""
        if (live.comment, live.security) != (view.description, "INVOKER"):
            return False
        comments = {name: comment for name, (_, comment) in self._columns(view.relation).items()}
        return comments == column_docs(view) and staleness(self, view) is None

    def _columns(self, relation: Relation) -> dict[str, tuple[str, str]]:
        """Return type and comment of each column."""
        rows = self._client.query(f"SHOW COLUMNS FROM {_name(relation)}").rows
        return {str(name): (spoken(kind), comment or "") for name, kind, _, comment in rows}

    def _pointed(self, sql: str) -> str:
        """Return a SELECT with each reference naming schema and table, as Trino needs it.

        A query that says all that by itself is sent as it was written.
        """
        query = parse_query(sql)
        try:
            tables = relations(query)
        except SqlglotError as error:
            raise QueryError(readable(error)) from None
        # A list, not `any(generator)`: each must be pointed.
        moved = [self._point(table) for table in tables]
        return query.sql(DIALECT) if any(moved) else sql.strip().removesuffix(";")

    def _point(self, table: exp.Table) -> bool:
        """Make a reference name what it means; return whether it changed.

        One into Dagster's database is Trino's own affair.
        """
        named = isinstance(table.this, exp.Identifier)  # Not one of the connector's functions.
        if named and table.catalog.lower() == FEDERATED_CATALOG:
            return False
        relation = self._referenced(table)
        version = table.args.get("version")
        if version is None and Relation(table.db, table.name) == relation and not table.catalog:
            return False
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        table.set("catalog", None)
        table.set("db", exp.to_identifier(relation.schema))
        table.set("this", exp.to_identifier(relation.name))
        if version is not None:
            found = self._catalog.load_table((relation.schema, relation.name))
            snapshot = snapshot_at(found, *version_literal(version))
            number = exp.Literal.number(snapshot)
            table.set("version", exp.Version(this="VERSION", kind="AS OF", expression=number))
        return True


def _view(name: str) -> str:
    return _name(Relation(VIEW_SCHEMA, name))


def _name(relation: Relation) -> str:
    return f"{quoted(relation.schema)}.{quoted(relation.name)}"
