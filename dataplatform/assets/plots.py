"""Small plots and previews for an asset's page, as Markdown with the picture inside.

matplotlib is imported when the first plot is drawn (0.5 s), and only its Agg canvas: no window, no
global state. A plot is decoration: what has nothing to draw gives None.
"""

import base64
import io
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dagster import MarkdownMetadataValue, MetadataValue

from dataplatform.lake.views import Plot

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ATTRIBUTION: Final = "Data provided by CoinGecko"
_WIDTH_INCHES: Final = 7.0
_DPI: Final = 80
_COLOURS: Final = ("#4f43dd", "#e8833a", "#2a9d8f", "#b23a48", "#6c757d")
_MARKED: Final = 40
"""A line of more points than this shows the line only."""
_ANNOTATED: Final = 15
"""A heat map of more rows than this carries no numbers: they would overlap."""
_CELL_CHARACTERS: Final = 60
_THOUSAND: Final = 1000.0
"""From here on a number shows two decimals; below, six significant digits."""


def plot_metadata(plot: Plot, rows: "pa.Table", title: str) -> MarkdownMetadataValue | None:
    """Draw a declared plot of `rows`; None where no row has all it needs.

    Args:
        plot: kind and columns.
        rows: the rows to draw, in the order of a bar plot's bars.
        title: the heading and the alternative text.
    """
    png = draw(plot, rows, title)
    if png is None:
        return None
    data = base64.b64encode(png).decode()
    return MetadataValue.md(f"![{title}](data:image/png;base64,{data})")


def draw(plot: Plot, rows: "pa.Table", title: str) -> bytes | None:
    """Return the plot as PNG, or None where there is nothing to draw."""
    needed = [plot.x, *plot.y, *([plot.value] if plot.value else [])]
    points = [row for row in rows.select(needed).to_pylist() if None not in row.values()]
    if not points:
        return None
    drawing = {"bar": _bar, "line": _line, "heatmap": _heatmap}[plot.kind]
    return _png(drawing(plot, points), title)


def _bar(plot: Plot, points: Sequence[dict[str, Any]]) -> "Figure":
    shown = points[: plot.limit][::-1]
    # Title, axis and attribution need an inch; the layout fails where the bars have no room left.
    figure, axes = _figure(1.2 + 0.22 * len(shown) * (1 + 0.4 * (len(plot.y) - 1)))
    height = 0.8 / len(plot.y)
    for number, column in enumerate(plot.y):
        positions = [index - number * height for index in range(len(shown))]
        values = [row[column] for row in shown]
        axes.barh(positions, values, height, label=column, color=_COLOURS[number % len(_COLOURS)])
    axes.set_yticks(range(len(shown)), [str(row[plot.x])[:30] for row in shown])
    axes.axvline(0, color="#333333", linewidth=0.6)
    axes.grid(axis="x", alpha=0.3)
    _label(figure, axes, plot)
    return figure


def _line(plot: Plot, points: Sequence[dict[str, Any]]) -> "Figure":
    figure, axes = _figure(3.0)
    ordered = sorted(points, key=lambda row: row[plot.x])
    marker = "." if len(ordered) <= _MARKED else ""
    for number, column in enumerate(plot.y):
        values = [row[column] for row in ordered]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            [row[plot.x] for row in ordered], values, label=column, color=colour, marker=marker
        )
    axes.tick_params(axis="x", rotation=30)
    axes.grid(alpha=0.3)
    _label(figure, axes, plot)
    return figure


def _heatmap(plot: Plot, points: Sequence[dict[str, Any]]) -> "Figure":
    names = list(dict.fromkeys(str(row[plot.x]) for row in points))
    cells = {(str(r[plot.x]), str(r[plot.y[0]])): r[plot.value or ""] for r in points}
    grid = [[cells.get((a, b), float("nan")) for a in names] for b in names]
    figure, axes = _figure(2.0 + 0.35 * len(names))
    picture = axes.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(picture, shrink=0.8)
    if len(names) <= _ANNOTATED:
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 else "black"  # noqa: PLR2004  on the dark end
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def _figure(height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _label(figure: "Figure", axes: "Axes", plot: Plot) -> None:
    axes.tick_params(labelsize=8)
    if len(plot.y) > 1:
        figure.legend(fontsize=8, loc="outside upper right", ncols=len(plot.y))
    else:
        axes.set_title(plot.y[0], fontsize=8, loc="left")


def _png(figure: "Figure", title: str) -> bytes:
    figure.suptitle(title, fontsize=10, x=0.02, horizontalalignment="left")
    # A label rather than a text: the layout keeps room for it.
    figure.supxlabel(ATTRIBUTION, x=0.99, ha="right", fontsize=6, color="#666666")
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def preview_markdown(rows: "pa.Table", limit: int = 10) -> str:
    """Return the first rows as a Markdown table."""
    head = rows.slice(0, limit)
    lines = [[cell(name) for name in head.column_names], ["---"] * head.num_columns]
    lines += [[cell(value) for value in row.values()] for row in head.to_pylist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """Return a value as short text for one cell of a Markdown table; null is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= _THOUSAND else f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= _CELL_CHARACTERS else f"{text[: _CELL_CHARACTERS - 1]}…"
