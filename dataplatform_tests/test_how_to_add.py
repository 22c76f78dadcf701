"""docs/how-to-add.md: its blocks work as they stand there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.landing import records_in
from dataplatform.lake.schema import iceberg_schema
from dataplatform.lake.spec import TableSpec
from dataplatform.lake.view_sql import column_docs, validate
from dataplatform.lake.views import parse_view, relation_schemas
from dataplatform_tests.tables.memory_inputs import at, lineage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PAGE = Path(__file__).parents[1] / "docs" / "how-to-add.md"
ANSWER = [
    {
        "id": "ethereum",
        "chain_identifier": 1,
        "name": "Ethereum",
        "native_coin_id": "ethereum",
        "shortname": "Ethereum",
        "image": {},
    },
    {"id": "solana", "chain_identifier": None, "name": "Solana", "native_coin_id": ""},
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def executed(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102  our own page
    return names


@dataclass
class Records:
    """The records of one endpoint, as a transformation reads them."""

    spark: "SparkSession"
    frame: "DataFrame"

    def sql(self, query: str) -> "DataFrame":
        return self.spark.sql(query, asset_platforms=self.frame)


def the_endpoint() -> Endpoint:
    return executed(blocks("python")[0])["endpoint"]


def the_table() -> TableSpec:
    return executed(blocks("python")[1])["spec"]


def test_the_endpoint_declares_every_field_of_an_answer() -> None:
    endpoint = the_endpoint()
    count, unknown = records_in(endpoint, ANSWER)
    assert count == 2
    known = {field.name for field in endpoint.fields} | endpoint.ignored
    assert unknown - known == set()
    assert {name for record in ANSWER for name in record} <= known


def test_the_table_reads_the_endpoint(spark: "SparkSession") -> None:
    spec, endpoint = the_table(), the_endpoint()
    assert spec.endpoints == (endpoint.name,)
    fetched = lineage(at("2026-01-31 12:00"))
    fields = ", ".join(f"{field.name}: {field.type}" for field in endpoint.fields)
    rows = [{**{f.name: r[f.name] for f in endpoint.fields}, **fetched} for r in ANSWER]
    kinds = "raw_key: string, slot_at: timestamp, fetched_at: timestamp, origin: string"
    frame = spark.createDataFrame(rows, f"{fields}, {kinds}")
    built = spec.transform(Records(spark, frame))  # ty: ignore[invalid-argument-type]
    assert built.columns == [column.name for column in spec.columns]
    found = {row["platform"]: row.asDict() for row in built.collect()}
    assert found["ethereum"]["chain_id"] == 1
    assert found["solana"]["native_coin_id"] is None
    assert not built.where(spec.checks[0].violated).count()
    assert len(iceberg_schema(spec.columns).fields) == len(spec.columns)


def test_the_view_answers_from_the_table() -> None:
    view = parse_view("evm_chains", blocks("sql")[0])
    validate(view, relation_schemas([the_table()]))
    assert all(column_docs(view).values())
    assert view.order == "chain_id"
