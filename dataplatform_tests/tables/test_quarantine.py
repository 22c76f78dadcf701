"""Rejected records of every endpoint, once each, traceable to their file."""

from typing import TYPE_CHECKING

from dataplatform.tables.quarantine import SOURCES, spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def reject(key: str, digest: str, reason: str) -> Row:
    return {
        "raw_key": key,
        "record_hash": digest,
        "record": '{"price": "NaN"}',
        "reject_reason": reason,
        "fetched_at": at("2026-01-01"),
        "origin": "recorded",
    }


def test_rejects_of_all_endpoints_are_gathered(spark: "SparkSession") -> None:
    rejected = {e.name: [reject(f"{e.name}.json", "h", "price: below 0")] for e in SOURCES}
    rows = MemoryInputs(spark, spec, rejected=rejected).rows()
    assert {(row["source"], row["endpoint"]) for row in rows} == {
        (e.source, e.name) for e in SOURCES
    }
    assert {row["raw_key"] for row in rows} == {f"{e.name}.json" for e in SOURCES}
    assert ("files", "inbox") in {(row["source"], row["endpoint"]) for row in rows}


def test_the_same_record_twice_in_a_file_is_one_row(spark: "SparkSession") -> None:
    given = [reject("a", "h", "x: missing"), reject("a", "h", "x: missing"), reject("b", "h", "x")]
    rows = MemoryInputs(spark, spec, rejected={"global": given}).rows()
    assert [(row["raw_key"], row["reason"]) for row in rows] == [("a", "x: missing"), ("b", "x")]
