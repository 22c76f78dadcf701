"""Contracts: native coins have none, a repeated list writes nothing, changes are kept."""

from datetime import datetime
from typing import TYPE_CHECKING

from dataplatform.tables.coin_platforms import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage, merged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST, SECOND, THIRD = at("2026-01-01"), at("2026-01-02"), at("2026-01-03")


def listed(moment: datetime, platforms: dict[str, str] | None) -> list[Row]:
    record = {"id": "coin", "symbol": "c", "name": "Coin", "platforms": platforms}
    return [record | lineage(moment)]


def built(spark: "SparkSession", own: list[Row], *records: Row) -> list[Row]:
    return MemoryInputs(spark, spec, {"coins_list": records}, own=own).rows()


def test_native_coins_have_no_contract(spark: "SparkSession") -> None:
    records = listed(FIRST, {"": ""}) + listed(SECOND, {"ethereum": " "}) + listed(THIRD, None)
    assert built(spark, [], *records) == []


def test_only_changes_are_given_and_the_first_sighting_is_kept(spark: "SparkSession") -> None:
    lists = [
        listed(FIRST, {"ethereum": "0xa", "solana": "So1"}),
        listed(SECOND, {"ethereum": "0xa", "solana": "So1"}),
        listed(THIRD, {"ethereum": "0xb"}),
    ]
    table: list[Row] = []
    given = []
    for records in lists:
        rows = built(spark, table, *records)
        given.append([(row["platform"], row["contract_address"]) for row in rows])
        table = merged(spec, table, rows)
    assert given == [[("ethereum", "0xa"), ("solana", "So1")], [], [("ethereum", "0xb")]]
    assert [(row["first_seen_at"], row["fetched_at"]) for row in table] == [
        (FIRST, THIRD),
        (FIRST, FIRST),
    ]
    assert table == built(spark, [], *[record for records in lists for record in records])
