"""Plots are pictures of the declared columns, or nothing; previews are safe Markdown."""

import io
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dataplatform.assets.plots import cell, draw, plot_metadata, preview_markdown, short_number
from dataplatform.lake.plot import Plot, TablePlot
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


def test_one_moment_makes_no_line() -> None:
    rows = pa.Table.from_pylist(
        [{"a": date(2025, 1, 1), "b": 1.0}, {"a": date(2025, 1, 1), "b": 2}]
    )
    assert draw(Plot("line", "a", ("b",)), rows, "t") is None


def test_a_series_is_one_line_for_each_value() -> None:
    days = [date(2025, 1, day) for day in (1, 2, 3)]
    long = [{"d": d, "coin": c, "v": v + d.day} for d in days for c, v in (("x", 1), ("y", 5))]
    wide = [{"d": d, "x": 1 + d.day, "y": 5 + d.day} for d in days]
    by_series = TablePlot("line", "d", ("v",), title="t", series="coin")
    both = Plot("line", "d", ("x", "y"))
    assert draw(by_series, pa.Table.from_pylist(long), "t") == draw(
        both, pa.Table.from_pylist(wide), "t"
    )


def test_a_line_is_broken_where_nothing_is_known() -> None:
    known = range(100)
    assert widest_gap(*known, 130) < 5
    assert widest_gap(*known, 140, 141) > 50
    # A point that stands alone is seen all the same.
    assert widest_gap(*known, 200) > 50


def widest_gap(*days: int) -> int:
    """Draw a line through these days and return its widest gap in pixels."""
    rows = [{"d": date(2025, 1, 1) + timedelta(days=n), "v": n} for n in days]
    png = draw(Plot("line", "d", ("v",)), pa.Table.from_pylist(rows), "t")
    assert png
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    is_line = pixels[:, :, 2] > pixels[:, :, 0] + 60  # violet: more blue than red
    return int(np.diff(np.flatnonzero(is_line.any(axis=0))).max())


@pytest.mark.parametrize("changes", [{"logarithmic": True}, {"series": "c"}])
def test_what_a_table_declares_changes_its_picture(changes: dict[str, Any]) -> None:
    rows = pa.Table.from_pylist(
        [{"d": date(2025, 1, n), "v": 10.0**n, "c": str(n % 2)} for n in range(1, 9)]
    )
    plain = TablePlot("line", "d", ("v",), title="t")
    assert draw(plain, rows, "t") != draw(replace(plain, **changes), rows, "t")


def test_an_axis_shows_the_unit() -> None:
    rows = pa.Table.from_pylist([{"d": date(2025, 1, n), "v": n / 8} for n in range(1, 9)])
    plot = Plot("line", "d", ("v",))
    pictures = [draw(plot, rows, "t", {"v": unit}) for unit in ("fraction a year", "%", "USD")]
    assert len(set(pictures)) == 3
    assert pictures[2] == draw(plot, rows, "t")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (999, "999"),
        (1000, "1k"),
        (52_500, "52.5k"),
        (-1.5e6, "-1.5M"),
        (2.15e9, "2.15B"),
        (1.38e12, "1.38T"),
    ],
)
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert short_number(value) == text


def test_a_heatmap_of_one_half_names_every_row_and_column() -> None:
    plot = Plot("heatmap", "a", ("b",), "c")
    half = [("x", "y", 0.5), ("x", "z", 0.1), ("y", "z", -1.0)]
    rows = [{"a": a, "b": b, "c": c} for a, b, c in half]
    corner = {"a": "z", "b": "z", "c": 1.0}
    # `z` has its row and its column without the corner, so that nothing moves when it is known.
    sizes = [_size(draw(plot, pa.Table.from_pylist(r), "t")) for r in (rows, [*rows, corner])]
    assert sizes[0] == sizes[1]


def _size(png: bytes | None) -> tuple[int, int]:
    assert png
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


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
