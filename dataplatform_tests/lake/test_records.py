from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.manifest import Cursor, Manifest
from dataplatform.lake.records import RecordReader
from dataplatform.raw.inbox import inbox, land_file
from dataplatform_tests.lake.tiny_lake import QUOTES, TinyLake, at

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

GOOD = '{"coin": "a", "day": "2025-01-01", "price": 1, "trades": 7.0}'
BROKEN = {
    '{"coin": "nan", "day": "2025-01-01", "price": "NaN"}': "price: not a finite number",
    '{"coin": "inf", "day": "2025-01-01", "price": "Infinity"}': "price: not a finite number",
    '{"coin": "text", "day": "2025-01-01", "price": "cheap"}': "price: not a double",
    '{"coin": "null", "day": "2025-01-01", "price": null}': "price: missing",
    '{"coin": "none", "day": "2025-01-01"}': "price: missing",
    '{"coin": "less", "day": "2025-01-01", "price": -1}': "price: below 0",
    '{"coin": "vast", "day": "2025-01-01", "price": 1e30}': "price: above 1e+12",
    '{"coin": "half", "day": "2025-01-01", "price": 1, "trades": 7.5}': "trades: not a int",
    '{"coin": "when", "day": "soon", "price": 1}': "day: malformed",
    '{"day": "soon", "price": 1}': "coin: missing; day: malformed",
}


@pytest.fixture
def lake(tmp_path: Path, spark: "SparkSession") -> TinyLake:
    return TinyLake(tmp_path / "lake", spark)


def parsed(lake: TinyLake, endpoint: Endpoint, *manifests: Manifest) -> list[dict[str, Any]]:
    frame = RecordReader(lake.spark, lake.zone).parsed(endpoint, manifests)
    return [row.asDict() for row in frame.collect()]


def landed(lake: TinyLake, body: bytes) -> Manifest:
    lake.land("2025-01-03T10:00:00", body)
    (arrival,) = lake.zone.arrivals(Cursor())
    manifest = lake.zone.manifest(arrival.slot)
    assert manifest is not None
    return manifest


def test_one_bad_field_costs_its_record_and_says_why(lake: TinyLake) -> None:
    manifest = landed(lake, f"[{', '.join([GOOD, *BROKEN])}]".encode())
    rows = parsed(lake, QUOTES, manifest)
    good = [row for row in rows if not row["reject_reason"]]
    assert [(row["coin"], row["price"], row["trades"]) for row in good] == [("a", 1.0, 7)]
    bad = [row for row in rows if row["reject_reason"]]
    assert sorted(row["reject_reason"] for row in bad) == sorted(BROKEN.values())
    assert len({row["record_hash"] for row in rows}) == len(rows)
    assert {row["raw_key"] for row in rows} == {manifest.files[0].key}


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b'[{"coin": "a"', b""])
def test_an_unreadable_body_is_one_rejected_record(lake: TinyLake, body: bytes) -> None:
    (row,) = parsed(lake, QUOTES, landed(lake, body))
    assert row["reject_reason"]
    assert row["raw_key"]


def test_a_file_of_unknown_type_is_one_row_with_its_problem(lake: TinyLake) -> None:
    landing = land_file(lake.zone, "prices.docx", b"PK", at("2025-01-03T10:00:00"), "live")
    (row,) = parsed(lake, inbox, landing.manifest)
    assert row["reject_reason"].startswith("unknown type '.docx'")
    assert row["raw_key"] == landing.manifest.files[0].key


def test_a_date_that_no_calendar_has_is_rejected(lake: TinyLake) -> None:
    text = "date,coingecko_coin_id,price_usd\n31-02-2026,a,1\n28-02-2026,a,2\n2026-02-27,a,3\n"
    landing = land_file(lake.zone, "p.csv", text.encode(), at("2026-03-01T10:00:00"), "live")
    rows = parsed(lake, inbox, landing.manifest)
    assert {row["date"]: row["reject_reason"] for row in rows} == {
        "31-02-2026": "date: not valid",
        "28-02-2026": "",
        "2026-02-27": "",
    }


@pytest.mark.parametrize("day", ["15-03-2205", "0205-03-15", "02-03-2026"])
def test_a_mistyped_year_or_a_day_to_come_is_rejected(lake: TinyLake, day: str) -> None:
    text = f"date,coingecko_coin_id,price_usd\n{day},a,1\n"
    landing = land_file(lake.zone, "p.csv", text.encode(), at("2026-02-28T10:00:00"), "live")
    (row,) = parsed(lake, inbox, landing.manifest)
    assert row["reject_reason"] == "date: not valid"


@pytest.mark.parametrize("name", ["_prices.csv", "Übersicht (1).csv", ".x/_p.jsonl"])
def test_a_file_whose_name_spark_would_pass_over_is_read(lake: TinyLake, name: str) -> None:
    text = "date,coingecko_coin_id,price_usd\n28-02-2026,a,2\n"
    if name.endswith("jsonl"):
        text = '{"date": "28-02-2026", "coingecko_coin_id": "a", "price_usd": 2}\n'
    landing = land_file(lake.zone, name, text.encode(), at("2026-03-01T10:00:00"), "live")
    (row,) = parsed(lake, inbox, landing.manifest)
    assert (row["price_usd"], row["reject_reason"]) == (2.0, "")


def test_quoted_csv_columns_keep_their_places(lake: TinyLake) -> None:
    text = (
        'date,coingecko_coin_id,"name, long",price_usd,price_eur\n'
        '28-02-2026,a,"say ""a"", b\\",2,3\n27-02-2026,b,plain,4,5\n'
    )
    landing = land_file(lake.zone, "p.csv", text.encode(), at("2026-03-01T10:00:00"), "live")
    rows = parsed(lake, inbox, landing.manifest)
    found = {r["coingecko_coin_id"]: (r["price_usd"], r["price_eur"]) for r in rows}
    assert found == {"a": (2.0, 3.0), "b": (4.0, 5.0)}
