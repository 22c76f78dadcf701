"""Candles: length from the request, close as the time stamp, the newest response wins."""

import json
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from dataplatform.tables.ohlc import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def candle(closed_ms: float, fetched_at: datetime, params: dict[str, str], **prices: Any) -> Row:
    """Return one record of /coins/{id}/ohlc."""
    record = {"closed_at": float(closed_ms), "open": 2.0, "high": 3.0, "low": 1.0, "close": 2.5}
    where = {"id": "bitcoin", "vs_currency": "usd"} | params
    return record | lineage(fetched_at, params=where) | prices


@pytest.mark.parametrize(
    ("params", "minutes"),
    [
        ({"days": "1"}, 30),
        ({"days": "7"}, 240),
        ({"days": "30"}, 240),
        ({"days": "90"}, 5760),
        ({"days": "max"}, 5760),
        ({"days": "30", "interval": "daily"}, 1440),
        ({"days": "30", "interval": "hourly"}, 60),
    ],
)
def test_the_length_follows_from_the_request(
    params: dict[str, str], minutes: int, spark: "SparkSession"
) -> None:
    record = candle(1709395200000, at("2024-03-03"), params)
    (row,) = MemoryInputs(spark, spec, {"ohlc": [record]}).rows()
    assert row["candle_minutes"] == minutes
    assert row["closed_at"] == at("2024-03-02T16:00:00")


def test_the_newest_response_wins(spark: "SparkSession") -> None:
    records = [
        candle(1709395200000, at("2024-03-04"), {"days": "7"}, close=2.2),
        candle(1709395200000, at("2024-03-03"), {"days": "30"}, close=2.9),
    ]
    for given in (records, records[::-1]):
        (row,) = MemoryInputs(spark, spec, {"ohlc": given}).rows()
        assert row["close"] == 2.2


def test_recorded_candles_keep_every_rule(spark: "SparkSession") -> None:
    name = "coins_bitcoin_ohlc_days_7_vs_currency_usd.json"
    path = files("dataplatform.raw") / "recordings" / "coingecko_ruby" / name
    recorded = json.loads(path.read_text())
    records = [
        candle(
            c[0],
            at("2021-05-16"),
            {"days": "7"},
            open=float(c[1]),
            high=float(c[2]),
            low=float(c[3]),
            close=float(c[4]),
        )
        for c in recorded
    ]
    inputs = MemoryInputs(spark, spec, {"ohlc": records})
    assert [row["open"] for row in inputs.rows()] == [candle[1] for candle in sorted(recorded)]
    frame = spec.transform(inputs)
    assert all(frame.where(check.violated).count() == 0 for check in spec.checks)
