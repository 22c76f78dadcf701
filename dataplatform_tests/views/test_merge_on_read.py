"""What Spark writes merge-on-read, DuckDB must read: position deletes hide rows."""

# ruff: noqa: S608  queries are what is tested

from typing import TYPE_CHECKING

import pytest

from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.inspect import footprint, partitions, snapshots
from dataplatform.lake.spark import lake_session
from dataplatform_tests.views.small_lake import SmallLake, day

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TABLE = "lake.warehouse.daily_prices"


@pytest.fixture
def session(lake: SmallLake, spark: "SparkSession") -> "SparkSession":
    rows = [
        {"coin_id": f"c{n:02}", "vs_currency": "usd", "day": day("2025-01-01"), "price": float(n)}
        for n in range(50)
    ]
    lake.insert("daily_prices", rows)
    conf = SqliteCatalog(lake.folders.catalog_db, lake.folders.warehouse).spark_conf()
    return lake_session(spark, conf)


def test_merged_updated_and_deleted_rows_are_read_once(
    lake: SmallLake, session: "SparkSession"
) -> None:
    before = lake.catalog.load_table("warehouse.daily_prices").current_snapshot()
    assert before
    session.sql(
        f"""
        MERGE INTO {TABLE} AS t
        USING (SELECT 'c05' AS coin_id, 500.0D AS price UNION ALL SELECT 'new', 7.0D) AS s
        ON t.coin_id = s.coin_id
        WHEN MATCHED THEN UPDATE SET t.price = s.price
        WHEN NOT MATCHED THEN INSERT (coin_id, vs_currency, day, price)
            VALUES (s.coin_id, 'usd', DATE '2026-02-01', s.price)
        """
    )
    session.sql(f"DELETE FROM {TABLE} WHERE coin_id = 'c07'")
    session.sql(f"UPDATE {TABLE} SET price = 501.0D WHERE coin_id = 'c05'")
    table = lake.catalog.load_table("warehouse.daily_prices")
    # The premise: there are delete files, or this test shows nothing.
    assert footprint(table).delete_files > 0

    expected = 1225.0 - 5.0 - 7.0 + 501.0 + 7.0
    (row,) = lake.engine.query(
        "SELECT count(*), sum(price), count_if(coin_id = 'c07'),"
        " max(CASE WHEN coin_id = 'c05' THEN price END) FROM warehouse.daily_prices"
    ).rows
    assert row == (50, expected, 0, 501.0)
    old = f"SELECT count(*), sum(price) FROM daily_prices FOR VERSION AS OF {before.snapshot_id}"
    assert lake.engine.query(old).rows == [(50, 1225.0)]
    # What `dp table` says of it comes from metadata alone, and must agree.
    assert footprint(table).rows == 50
    assert [snapshot.rows for snapshot in snapshots(table)] == [50, 50, 51, 50]
    assert [part.partition for part in partitions(table)] == [
        "day_year=2025",
        "day_year=2026",
    ]
