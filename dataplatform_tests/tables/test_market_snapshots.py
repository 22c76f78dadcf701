"""One row a coin and snapshot, whatever shifted while the pages were read."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dataplatform.tables.market_snapshots import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SLOT = at("2026-11-23T10:00:07")


def market(coin: str, page: int, updated: datetime | None, **changes: Any) -> Row:
    """Return a record of /coins/markets on one page of the slot."""
    record = {
        "id": coin,
        "symbol": coin[:3],
        "name": coin.title(),
        "current_price": 1.0,
        "last_updated": updated,
    }
    where = lineage(SLOT, raw_key=f"slot/page={page}.json.gz", params={"page": str(page)})
    return record | where | changes


def test_a_coin_on_two_pages_is_kept_once_with_its_newest_figures(spark: "SparkSession") -> None:
    early, late = at("2026-11-23T09:59:00"), at("2026-11-23T10:00:00")
    records = [
        market("solana", 2, early, current_price=1.0),
        market("solana", 1, late, current_price=2.0),
        market("cardano", 1, late, current_price=3.0),
        market("cardano", 2, late, current_price=4.0),
        market("dead", 1, None, current_price=5.0),
        market("dead", 2, early, current_price=6.0),
    ]
    rows = MemoryInputs(spark, spec, {"coins_markets": records}).rows()
    prices = {row["coin_id"]: row["price"] for row in rows}
    assert prices == {"solana": 2.0, "cardano": 4.0, "dead": 6.0}
    assert {row["snapshot_at"] for row in rows} == {SLOT}


def test_the_id_identifies_not_the_symbol_and_currencies_stay_apart(spark: "SparkSession") -> None:
    records = [
        market("bitcoin", 1, SLOT, symbol="btc"),
        market("batcat", 1, SLOT, symbol="btc"),
        market("bitcoin", 1, SLOT, symbol="btc", params={"vs_currency": "EUR"}),
    ]
    rows = MemoryInputs(spark, spec, {"coins_markets": records}).rows()
    assert [(row["coin_id"], row["vs_currency"]) for row in rows] == [
        ("batcat", "usd"),
        ("bitcoin", "eur"),
        ("bitcoin", "usd"),
    ]


def test_unknown_figures_stay_null_and_the_old_name_of_a_change_counts(
    spark: "SparkSession",
) -> None:
    record = market("old", 1, SLOT, current_price=None, price_change_percentage_24h=-4.5)
    (row,) = MemoryInputs(spark, spec, {"coins_markets": [record]}).rows()
    unknown = ("price", "market_cap_rank", "max_supply", "fully_diluted_valuation", "change_7d_pct")
    assert all(row[name] is None for name in unknown)
    assert row["change_24h_pct"] == -4.5
