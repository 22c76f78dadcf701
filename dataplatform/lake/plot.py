"""How a plot for an asset's page is declared, of a view or of a table."""

from dataclasses import dataclass
from typing import Final, Literal

PlotKind = Literal["bar", "line", "heatmap"]

PLOT_LIMIT: Final = 25


@dataclass(frozen=True)
class Plot:
    """What is drawn of which columns.

    Args:
        kind: bar, line or heatmap.
        x: the bars' names, the lines' axis, or the heat map's columns.
        y: what is measured; of a heat map, its rows.
        value: the colour of a heat map.
        limit: how many bars.
    """

    kind: PlotKind
    x: str
    y: tuple[str, ...]
    value: str | None = None
    limit: int = PLOT_LIMIT

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return (self.x, *self.y, *([self.value] if self.value else []))


@dataclass(frozen=True, kw_only=True)
class TablePlot(Plot):
    """A plot of a table, with the rows that it shows of it.

    Args:
        title: what it shows, in which unit.
        where: which rows, as a filter of pyiceberg such as `vs_currency = 'usd'`.
        days: the newest so many days; 0, only the newest moment in the table's `day_column`.
        series: one line for each value of this column.
        logarithmic: equal steps are equal ratios, so that prices of any size fit.
    """

    title: str
    where: str = ""
    days: int = 0
    series: str | None = None
    logarithmic: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return (*super().columns, *([self.series] if self.series else []))
