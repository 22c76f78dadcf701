"""Plots are pictures of the declared columns, or nothing; previews are safe Markdown."""

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from dataplatform.assets.plots import cell, draw, plot_metadata, preview_markdown
from dataplatform.lake.views import Plot
from dataplatform_tests.views.small_lake import at

PNG = b"\x89PNG"


@pytest.mark.parametrize(
    ("plot", "rows"),
    [
        (Plot("bar", "a", ("b",)), [{"a": "x", "b": 1.0}]),
        (Plot("bar", "a", ("b", "c")), [{"a": "x", "b": 1.0, "c": -2}, {"a": "y", "b": 0, "c": 1}]),
        (Plot("line", "a", ("b",)), [{"a": date(2025, 1, day), "b": day} for day in (3, 1, 2)]),
        (Plot("heatmap", "a", ("b",), "c"), [{"a": "x", "b": "x", "c": 1.0}]),
        # Of the pair (x, y) only one half is known: the other cell stays blank.
        (
            Plot("heatmap", "a", ("b",), "c"),
            [{"a": "x", "b": "y", "c": 0.5}, {"a": "y", "b": "y", "c": 1.0}],
        ),
    ],
)
def test_each_kind_is_drawn(plot: Plot, rows: list[dict[str, Any]]) -> None:
    png = draw(plot, pa.Table.from_pylist(rows), "title")
    assert png is not None
    assert png.startswith(PNG)


def test_rows_with_nulls_are_left_out_and_nothing_gives_none() -> None:
    plot = Plot("bar", "a", ("b",))
    schema = pa.schema([("a", pa.string()), ("b", pa.float64())])
    assert draw(plot, pa.Table.from_pylist([], schema=schema), "t") is None
    nulls = pa.Table.from_pylist([{"a": "x", "b": None}, {"a": None, "b": 1.0}], schema=schema)
    assert draw(plot, nulls, "t") is None
    assert plot_metadata(plot, nulls, "t") is None
    some = pa.Table.from_pylist([{"a": "x", "b": None}, {"a": "y", "b": 1.0}], schema=schema)
    only = pa.Table.from_pylist([{"a": "y", "b": 1.0}], schema=schema)
    assert draw(plot, some, "t") == draw(plot, only, "t")


def test_a_bar_plot_keeps_to_its_limit() -> None:
    rows = pa.Table.from_pylist([{"a": str(n), "b": n} for n in range(1000)])
    few = Plot("bar", "a", ("b",), limit=3)
    assert draw(few, rows, "t") == draw(few, rows.slice(0, 3), "t")


def test_a_preview_is_a_markdown_table_that_nothing_breaks() -> None:
    rows = pa.Table.from_pylist([{"a|b": "x|y\nz", "n": 1234567.5, "none": None}])
    assert preview_markdown(rows).splitlines()[-1] == "| x\\|y z | 1,234,567.50 |  |"
    many = pa.Table.from_pylist([{"a": n} for n in range(50)])
    assert len(preview_markdown(many, limit=10).splitlines()) == 12


def test_cells_are_short() -> None:
    assert cell("x" * 200) == "x" * 59 + "…"
    assert cell(at("2025-01-02T03:04:05")) == "2025-01-02 03:04:05"
    assert cell(0.000012345678) == "1.23457e-05"
