"""What an engine must do for views, whichever stands behind the profile: DuckDB or Trino."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING, Any, Protocol

from dataplatform.lake.manifest import Origin
from dataplatform.lake.views import Relation, ViewSpec

if TYPE_CHECKING:
    from pyiceberg.table import Table

    from dataplatform.lake.sql_engine import QueryResult, ResultStream


class ViewEngine(Protocol):
    """Keeps view definitions in Trino SQL and answers queries over them."""

    def deploy(self, view: ViewSpec) -> bool:
        """Create or replace a view; return whether its definition changed."""
        ...

    def definition(self, name: str) -> str | None:
        """Return the live SQL of a view, or None where there is none."""
        ...

    def deployed(self) -> list[str]:
        """Return the names of the live views."""
        ...

    def drop(self, name: str) -> None:
        """Remove a live view."""
        ...

    def query(
        self, sql: str, params: Sequence[Any] | None = None, limit: int | None = None
    ) -> "QueryResult":
        """Answer one Trino SQL statement."""
        ...


class QueryEngine(ViewEngine, Protocol):
    """What `dp` asks of a lake beside: tables, names and answers larger than memory."""

    @property
    def title(self) -> str:
        """What to call it: name and version."""
        ...

    @property
    def origin(self) -> Origin:
        """Whether the lake holds live or recorded data."""
        ...

    def watch(self, run_id: str, report: Callable[[str], None]) -> None:
        """Say which run asks, and be told how far its long statements are."""
        ...

    def answer(self, sql: str, limit: int | None = None) -> "ResultStream":
        """Answer any reading statement batch by batch."""
        ...

    def load(self, name: str) -> "Table | None":
        """Return an Iceberg table, or None while it is not built."""
        ...

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        ...

    def resolve(self, name: str) -> Relation:
        """Return the table or view that a user means; raises QueryError where there is none."""
        ...

    def describe(self, name: str) -> dict[str, str]:
        """Return the columns of a table or view with their Trino types."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a view says when it is asked once.

    Args:
        row_count: all its rows.
        sample: its first rows in the view's preview order.
    """

    row_count: int
    sample: "QueryResult"


def verify(engine: ViewEngine, view: ViewSpec, rows: int = 1000) -> Answer:
    """Run a deployed view once, all of it.

    Args:
        engine: where it is deployed.
        view: its declaration.
        rows: the most rows to keep as a sample.
    """
    order = f" ORDER BY {view.order}" if view.order else ""
    # The ad-hoc `*` asks for today's columns, which is the point; a stored one would freeze them.
    sample = engine.query(f"SELECT * FROM {view.relation}{order}", limit=rows)  # noqa: S608
    if not sample.truncated:
        return Answer(sample.arrow.num_rows, sample)
    counted = engine.query(f"SELECT count(*) AS n FROM {view.relation}")  # noqa: S608
    return Answer(counted.rows[0][0], sample)


def drift(engine: ViewEngine, view: ViewSpec) -> str | None:
    """Compare the live definition with the declared one, comments and layout aside.

    Returns:
        None where they are equal, else a unified diff from declared to live; the empty string where
        the view is not deployed.
    """
    from dataplatform.lake.view_sql import normalized

    live = engine.definition(view.name)
    if live is None:
        return ""
    ours, theirs = normalized(view.sql).splitlines(), normalized(live).splitlines()
    return "\n".join(unified_diff(ours, theirs, "declared", "live", lineterm="")) or None


def staleness(engine: ViewEngine, view: ViewSpec) -> str | None:
    """Return why a deployed view no longer answers, or None where it does.

    Trino stores a view's columns and their types: when a table that it reads gets a wider type or
    loses a column, the view fails until it is deployed again.

    Raises:
        EngineFailedError: the engine could not tell.
    """
    from dataplatform.lake.dialect import EngineFailedError, QueryError

    try:
        engine.query(f"SELECT * FROM {view.relation} LIMIT 0")  # noqa: S608  a declared name
    except EngineFailedError:
        raise
    except QueryError as error:
        return str(error)
    return None


def stale(engine: ViewEngine, views: Mapping[str, ViewSpec]) -> dict[str, str]:
    """Return the deployed views that no longer answer, each with the reason."""
    deployed = set(engine.deployed())
    reasons = {n: staleness(engine, view) for n, view in views.items() if n in deployed}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def repair(engine: ViewEngine, views: Mapping[str, ViewSpec]) -> list[str]:
    """Deploy again the views that differ from their files or are stale; return their names.

    Args:
        engine: where they are deployed.
        views: by name, each after those it reads.

    Raises:
        QueryError: one can't be: a column that it reads is gone.
    """
    repaired = []
    for name, view in views.items():
        if drift(engine, view) is not None or staleness(engine, view) is not None:
            engine.deploy(view)
            repaired.append(name)
    return repaired


def orphans(engine: ViewEngine, views: Mapping[str, ViewSpec]) -> list[str]:
    """Return the live views that no file declares any more."""
    return [name for name in engine.deployed() if name not in views]


def prune(engine: ViewEngine, views: Mapping[str, ViewSpec]) -> list[str]:
    """Drop the live views that no file declares any more; return their names."""
    gone = orphans(engine, views)
    for name in gone:
        engine.drop(name)
    return gone
