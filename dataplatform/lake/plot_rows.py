"""The rows that a table's plot shows, read by pyiceberg: no more columns and files than it needs."""

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from pyiceberg.conversions import from_bytes
from pyiceberg.table import Table
from pyiceberg.types import DateType
from pyiceberg.utils.datetime import days_to_date, micros_to_timestamptz

from dataplatform.lake.plot import TablePlot

if TYPE_CHECKING:
    import pyarrow as pa


def plot_rows(table: Table, plot: TablePlot, day_column: str | None) -> "pa.Table":
    """Return the published rows that `plot` shows, those of a bar plot from the largest.

    They have the plot's columns and the day column.

    Args:
        table: the table.
        plot: says which rows and columns.
        day_column: the column that says when; None, rows of any time are shown.
    """
    conditions = [f"{column} is not null" for column in plot.y]
    if plot.where:
        conditions.append(f"({plot.where})")
    if day_column is not None:
        newest = _newest(table, " and ".join(conditions), day_column)
        if newest is not None:
            conditions.append(_recent(day_column, newest, plot.days))
    columns = {*plot.columns, *([day_column] if day_column else [])}
    rows = table.scan(" and ".join(conditions), selected_fields=tuple(columns)).to_arrow()
    if plot.kind != "bar":
        return rows
    return rows.sort_by([(plot.y[0], "descending")]).slice(0, plot.limit)


def _recent(column: str, newest: date, days: int) -> str:
    if not days:
        return f"{column} = '{newest.isoformat()}'"
    return f"{column} > '{(newest - timedelta(days=days)).isoformat()}'"


def _newest(table: Table, where: str, column: str) -> date | datetime | None:
    """Return the newest day or moment by the files' statistics, without reading a row."""
    field = table.schema().find_field(column)
    bounds = [
        from_bytes(field.field_type, task.file.upper_bounds[field.field_id])
        for task in table.scan(where).plan_files()
        if field.field_id in task.file.upper_bounds
    ]
    if not bounds:
        return None
    read = days_to_date if isinstance(field.field_type, DateType) else micros_to_timestamptz
    return read(max(bounds))
