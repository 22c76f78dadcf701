"""Which rows of a published table its plot shows."""

from typing import Any

import pytest

from dataplatform.assets.plots import draw
from dataplatform.lake.plot import TablePlot
from dataplatform.lake.plot_rows import plot_rows
from dataplatform.lake.schema import identifier
from dataplatform.tables import all_specs
from dataplatform_tests.views.small_lake import SmallLake, at, day

PRICES = TablePlot(
    "line", "day", ("price",), title="t", where="vs_currency = 'usd'", days=2, series="coin_id"
)
LARGEST = TablePlot("bar", "name", ("market_cap",), title="t", where="vs_currency = 'usd'", limit=2)


def price(coin: str, on: str, value: float | None, currency: str = "usd") -> dict[str, Any]:
    return {"coin_id": coin, "vs_currency": currency, "day": day(on), "price": value}


def cap(name: str, taken: str, value: float | None, currency: str = "usd") -> dict[str, Any]:
    row = {"coin_id": name.lower(), "name": name, "market_cap": value, "vs_currency": currency}
    return row | {"snapshot_at": at(taken)}


def shown(lake: SmallLake, table: str, plot: TablePlot) -> list[dict[str, Any]]:
    loaded = lake.catalog.load_table(identifier(table))
    return plot_rows(loaded, plot, all_specs()[table].day_column).to_pylist()


def test_the_newest_days_of_the_chosen_rows(lake: SmallLake) -> None:
    lake.insert(
        "daily_prices",
        [price("a", "2025-01-01", 1), price("a", "2025-01-30", 2), price("a", "2025-01-31", 3)],
    )
    lake.insert("daily_prices", [price("b", "2025-01-31", 4)])
    lake.insert("daily_prices", [price("a", "2025-02-01", 9, "eur")])
    # A day without a price is not among those that are shown.
    lake.insert("daily_prices", [price("a", "2025-03-05", None)])
    found = shown(lake, "daily_prices", PRICES)
    assert sorted((row["coin_id"], row["price"]) for row in found) == [("a", 2), ("a", 3), ("b", 4)]
    assert set(found[0]) == {"coin_id", "day", "price"}


def test_the_newest_snapshot_from_the_largest(lake: SmallLake) -> None:
    lake.insert("market_snapshots", [cap("Old", "2025-01-01T10:00:00", 99)])
    now = "2025-01-02T10:00:00.000123"
    lake.insert(
        "market_snapshots",
        [cap("A", now, 1), cap("B", now, 3), cap("C", now, 2), cap("D", now, None)],
    )
    lake.insert("market_snapshots", [cap("Euro", "2025-01-03T10:00:00", 7, "eur")])
    assert [row["name"] for row in shown(lake, "market_snapshots", LARGEST)] == ["B", "C"]


@pytest.mark.parametrize("name", [name for name, spec in all_specs().items() if spec.plot])
def test_the_plot_of_every_table_finds_its_columns(lake: SmallLake, name: str) -> None:
    spec = all_specs()[name]
    assert spec.plot
    lake.create(name)
    rows = plot_rows(lake.catalog.load_table(identifier(name)), spec.plot, spec.day_column)
    assert set(spec.plot.columns) <= set(rows.column_names)
    assert draw(spec.plot, rows, "t") is None
