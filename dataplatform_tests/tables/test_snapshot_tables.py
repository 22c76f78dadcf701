"""Categories, exchanges and the whole market: one row a snapshot, nothing read into nulls."""

from typing import TYPE_CHECKING

from dataplatform.tables import all_specs
from dataplatform_tests.tables.memory_inputs import MemoryInputs, at, lineage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SLOT = at("2026-11-23T10:00:07")


def test_a_category_keeps_what_was_updated_last(spark: "SparkSession") -> None:
    def category(updated: str | None, cap: float | None) -> dict[str, object]:
        moment = at(updated) if updated else None
        record = {"id": "defi", "name": "DeFi", "market_cap": cap, "updated_at": moment}
        return record | lineage(SLOT, record_hash=str(cap))

    records = [category("2026-11-23T09:00:00", 1.0), category("2026-11-23T09:30:00", 2.0)]
    records += [category(None, 3.0)]
    (row,) = MemoryInputs(spark, all_specs()["categories"], {"coins_categories": records}).rows()
    assert row["market_cap_usd"] == 2.0
    assert row["top_coins"] is None
    assert row["snapshot_at"] == SLOT


def test_an_exchange_on_two_pages_is_kept_from_the_later(spark: "SparkSession") -> None:
    def exchange(page: str, volume: float) -> dict[str, object]:
        record = {"id": "gdax", "name": "Coinbase", "trade_volume_24h_btc": volume, "country": ""}
        return record | lineage(SLOT, params={"page": page})

    records = [exchange("10", 1.0), exchange("9", 2.0)]
    (row,) = MemoryInputs(spark, all_specs()["exchanges"], {"exchanges": records}).rows()
    assert row["volume_24h_btc"] == 1.0
    assert row["country"] is None
    assert row["trust_score_rank"] is None


def test_the_whole_market_is_read_in_dollars_and_seconds(spark: "SparkSession") -> None:
    record = {
        "active_cryptocurrencies": 17111,
        "total_market_cap": {"usd": 2.5e12, "btc": 3.3e7},
        "total_volume": {"usd": 1e11},
        "market_cap_percentage": {"btc": 60.5, "eth": 7.25},
        "updated_at": 1744025333,
        **lineage(SLOT),
    }
    (row,) = MemoryInputs(spark, all_specs()["global_market"], {"global": [record]}).rows()
    assert row["updated_at"] == at("2025-04-07T11:28:53")
    assert (row["total_market_cap_usd"], row["total_volume_usd"]) == (2.5e12, 1e11)
    assert (row["btc_dominance_pct"], row["eth_dominance_pct"]) == (60.5, 7.25)
    assert row["markets"] is None
