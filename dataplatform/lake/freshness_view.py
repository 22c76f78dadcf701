"""The view `data_freshness`, written by `dp docs` from the declared tables.

A view names its columns and tables; this one names every table, and each has its own day column.
Generated, it never misses one, and stays a file of SQL like the others.
"""

from collections.abc import Iterable

from dataplatform.lake.spec import NAMESPACE, TableSpec

_HEAD = """\
-- How much each table holds and how fresh it is: rows, newest data, newest fetch.
--
-- Ages count from the newest fetch of the whole lake rather than from now, so the view gives the same
-- answer until something is fetched; a table that falls behind the others shows at once. Tables
-- computed from others have no fetch of their own.
--
-- order: table_name
-- plot: bar x=table_name y=row_count
WITH tables AS ( -- written by `make docs`, one SELECT a declared table
"""
_TAIL = """
),

lake AS (
    SELECT max(t.fetched_at) AS fetched_at
    FROM tables AS t
)

SELECT
    t.table_name, -- table in the schema warehouse
    t.row_count, -- rows as published
    t.newest_day, -- day of the newest data, UTC
    date_diff('day', t.newest_day, CAST(l.fetched_at AS date)) AS days_behind, -- from the newest data to the lake's newest fetch
    t.fetched_at AS newest_fetched_at, -- when the newest raw file in it was received, UTC
    (to_unixtime(l.fetched_at) - to_unixtime(t.fetched_at)) / 3.6e3 AS hours_behind -- from its newest fetch to the lake's newest
FROM tables AS t
CROSS JOIN lake AS l
"""


def freshness_view(specs: Iterable[TableSpec]) -> str:
    """Return the file `data_freshness.sql` for these tables, sorted by name."""
    selects = (_select(spec) for spec in sorted(specs, key=lambda spec: spec.name))
    return _HEAD + "\n    UNION ALL\n".join(selects) + _TAIL


def _select(spec: TableSpec) -> str:
    fetched = any(column.name == "fetched_at" for column in spec.columns)
    fetched_at = "max(fetched_at)" if fetched else "CAST(NULL AS timestamp(6) with time zone)"
    newest = f"max({spec.day_column})" if spec.day_column else fetched_at
    return f"""\
    SELECT
        '{spec.name}' AS table_name,
        count(*) AS row_count,
        CAST({newest} AS date) AS newest_day,
        {fetched_at} AS fetched_at
    FROM {NAMESPACE}.{spec.name}"""  # noqa: S608  names declared in this repository
