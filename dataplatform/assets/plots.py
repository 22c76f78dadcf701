"""Small plots and previews for an asset's page, as Markdown with the picture inside.

matplotlib is imported when the first plot is drawn (0.5 s), and only its Agg canvas: no window, no
global state. A plot is decoration: what has nothing to draw gives None.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Final

from dagster import MarkdownMetadataValue, MetadataValue

from dataplatform.lake.plot import Plot, TablePlot

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Formatter

ATTRIBUTION: Final = "Data provided by CoinGecko"
_WIDTH_INCHES: Final = 7.0
_DPI: Final = 80
_COLOURS: Final = ("#4f43dd", "#e8833a", "#2a9d8f", "#b23a48", "#6c757d")
_MARKED: Final = 40
"""A line of more points than this shows the line only."""
_GAP: Final = timedelta(days=31)
"""A line is broken where nothing is known for longer."""
_ANNOTATED: Final = 15
"""A heat map of more rows than this carries no numbers: they would overlap."""
_CELL_CHARACTERS: Final = 60
_THOUSAND: Final = 1000.0
"""From here on a number shows two decimals; below, six significant digits."""


def plot_metadata(
    plot: Plot, rows: "pa.Table", title: str, units: Mapping[str, str] | None = None
) -> MarkdownMetadataValue | None:
    """Draw a declared plot of `rows`; None where no row has all it needs.

    Args:
        plot: kind and columns.
        rows: the rows to draw, in the order of a bar plot's bars.
        title: the heading and the alternative text.
        units: of columns, where declared; `fraction` and `%` are shown as percentages.
    """
    png = draw(plot, rows, title, units)
    if png is None:
        return None
    data = base64.b64encode(png).decode()
    return MetadataValue.md(f"![{title}](data:image/png;base64,{data})")


def draw(
    plot: Plot, rows: "pa.Table", title: str, units: Mapping[str, str] | None = None
) -> bytes | None:
    """Return the plot as PNG, or None where there is nothing to draw.

    One moment makes no line: it is left to the preview.
    """
    found = rows.select(list(dict.fromkeys(plot.columns))).to_pylist()
    points = [row for row in found if None not in row.values()]
    if not points or (plot.kind == "line" and len({row[plot.x] for row in points}) == 1):
        return None
    drawing = {"bar": _bar, "line": _line, "heatmap": _heatmap}[plot.kind]
    return _png(drawing(plot, points, (units or {}).get(plot.y[0], "")), title)


def _bar(plot: Plot, points: Sequence[dict[str, Any]], unit: str) -> "Figure":
    shown = points[: plot.limit][::-1]
    # Title, axis and attribution need an inch; the layout fails where the bars have no room left.
    figure, axes = _figure(1.2 + 0.22 * len(shown) * (1 + 0.4 * (len(plot.y) - 1)))
    height = 0.8 / len(plot.y)
    for number, column in enumerate(plot.y):
        positions = [index - number * height for index in range(len(shown))]
        values = [row[column] for row in shown]
        axes.barh(positions, values, height, label=column, color=_COLOURS[number % len(_COLOURS)])
    axes.set_yticks(range(len(shown)), [str(row[plot.x])[:30] for row in shown])
    axes.margins(y=0.01)
    axes.axvline(0, color="#333333", linewidth=0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.xaxis.set_major_formatter(_formatter(unit))
    _label(figure, axes, plot.y)
    return figure


def _line(plot: Plot, points: Sequence[dict[str, Any]], unit: str) -> "Figure":
    figure, axes = _figure(3.0)
    lines = _lines(plot, sorted(points, key=lambda row: row[plot.x]))
    for number, (label, line) in enumerate(lines.items()):
        broken = list(_broken(line))
        alone = _alone([value for _, value in broken])
        axes.plot(
            [at for at, _ in broken],
            [value for _, value in broken],
            label=label,
            color=_COLOURS[number % len(_COLOURS)],
            marker=".",
            markevery=None if len(line) <= _MARKED else alone,
            linewidth=1.2,
        )
    if isinstance(plot, TablePlot) and plot.logarithmic:
        axes.set_yscale("log")
    _date_axis(axes, points[0][plot.x])
    axes.yaxis.set_major_formatter(_formatter(unit))
    axes.grid(alpha=0.3)
    _label(figure, axes, list(lines))
    return figure


def _lines(plot: Plot, points: Sequence[dict[str, Any]]) -> dict[str, list[tuple[Any, Any]]]:
    """Return the points of each line: one for each column, or for each value of the series."""
    series = plot.series if isinstance(plot, TablePlot) else None
    lines: dict[str, list[tuple[Any, Any]]] = {}
    for column in plot.y:
        for row in points:
            label = column if series is None else str(row[series])
            lines.setdefault(label, []).append((row[plot.x], row[column]))
    return dict(sorted(lines.items())) if series else lines


def _broken(line: Sequence[tuple[Any, float]]) -> Iterator[tuple[Any, float]]:
    """Yield the points of a line, and a blank one in each gap: what is not known is not drawn."""
    for (at, value), (following, _) in pairwise([*line, line[-1]]):
        yield at, value
        if isinstance(at, date) and following - at > _GAP:
            yield following, nan


def _alone(values: Sequence[float]) -> list[int]:
    """Return where a point stands between blanks: no line shows it."""
    around = [nan, *values, nan]
    return [n for n in range(len(values)) if isnan(around[n]) and isnan(around[n + 2])]


def _date_axis(axes: "Axes", value: object) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if isinstance(value, date):
        locator = AutoDateLocator(minticks=4, maxticks=9)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _formatter(unit: str) -> "Formatter":
    """Return how an axis writes its numbers: 1.5T rather than 1.5e12, 12 % rather than 0.12."""
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    if unit.startswith("fraction"):
        return PercentFormatter(1.0, symbol=" %")
    if unit == "%":
        return PercentFormatter(100.0, symbol=" %")
    return FuncFormatter(lambda value, _: short_number(value))


def short_number(value: float) -> str:
    """Return a number with at most four digits and the suffix k, M, B (1e9) or T (1e12)."""
    for suffix, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def _heatmap(plot: Plot, points: Sequence[dict[str, Any]], _: str) -> "Figure":
    names = list(
        dict.fromkeys(str(row[column]) for column in (plot.x, plot.y[0]) for row in points)
    )
    cells = {(str(r[plot.x]), str(r[plot.y[0]])): r[plot.value or ""] for r in points}
    grid = [[cells.get((a, b), float("nan")) for a in names] for b in names]
    figure, axes = _figure(1.6 + 0.28 * len(names))
    picture = axes.imshow(grid, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=8)
    figure.colorbar(picture, shrink=0.8).ax.tick_params(labelsize=8)
    if len(names) <= _ANNOTATED:
        for (x, y), value in _written(grid).items():
            colour = "white" if abs(value) > 0.6 else "black"  # noqa: PLR2004  on the dark end
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def _written(grid: Sequence[Sequence[float]]) -> dict[tuple[int, int], float]:
    cells = {(x, y): value for y, row in enumerate(grid) for x, value in enumerate(row)}
    return {place: value for place, value in cells.items() if not isnan(value)}


def _figure(height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI, layout="constrained")
    return figure, figure.subplots()


def _label(figure: "Figure", axes: "Axes", labels: Sequence[str]) -> None:
    axes.tick_params(labelsize=8)
    if len(labels) > 1:
        figure.legend(fontsize=8, loc="outside upper right", ncols=len(labels))
    else:
        axes.set_title(labels[0], fontsize=8, loc="left")


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
    return markdown_table(head.column_names, [list(row.values()) for row in head.to_pylist()])


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows of values as a Markdown table."""
    return markdown_lines([cell(name) for name in names], [[cell(v) for v in row] for row in rows])


def markdown_lines(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text, whole and as they are, as a Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
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
