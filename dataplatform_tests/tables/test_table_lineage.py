"""The column lineage of tables, read from the SQL of their transformations without Spark."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Any, cast

import pytest
from sqlglot import exp
from sqlglot.lineage import lineage

from dataplatform.assets.lineage import relation_key
from dataplatform.assets.raw import build_raw_assets
from dataplatform.assets.tables import build_table_assets
from dataplatform.lake.api.endpoint import RECORD_COLUMNS
from dataplatform.lake.spec import Inputs, TableSpec
from dataplatform.lake.table_lineage import LineageUnknownError, table_lineage
from dataplatform.lake.views import Relation
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

OF_NO_COLUMN = {
    "coins": {"status"},  # being in a list
    "market_daily": {"coins"},  # count(*)
    "quarantine": {"source", "endpoint"},  # the endpoint's declaration
}


def sources(name: str) -> dict[str, set[str]]:
    """Return the sources of each column as text, such as `raw.ohlc.open`."""
    found = table_lineage(all_specs()[name], all_specs(), all_endpoints())
    return {c: {f"{relation}.{source}" for relation, source in of} for c, of in found.items()}


def prices(transform: Callable[[Inputs], "DataFrame"]) -> TableSpec:
    return replace(all_specs()["coin_metrics_daily"], transform=transform)


@pytest.mark.parametrize("spec", all_specs().values(), ids=all_specs().keys())
def test_every_column_comes_from_columns_that_the_table_declares_to_read(spec: TableSpec) -> None:
    found = table_lineage(spec, all_specs(), all_endpoints())
    assert list(found) == [column.name for column in spec.columns]
    assert {name for name, of in found.items() if not of} == OF_NO_COLUMN.get(spec.name, set())
    for relation, name in {source for of in found.values() for source in of}:
        if relation.schema == "raw":
            assert relation.name in spec.endpoints
            fields = {field.name for field in all_endpoints()[relation.name].fields}
            assert name in fields | set(RECORD_COLUMNS)
        else:
            assert relation.name in spec.upstream
            assert all_specs()[relation.name].column(name)


def test_sources_are_columns_of_assets_that_the_ui_knows() -> None:
    schemas = {
        spec.key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for asset in (*build_raw_assets(), build_table_assets())
        for spec in asset.specs
    }
    for spec in all_specs().values():
        for of in table_lineage(spec, all_specs(), all_endpoints()).values():
            for relation, name in of:
                assert name in schemas[relation_key(relation)]


def test_generators_structs_and_lambdas_are_followed_field_by_field() -> None:
    daily = sources("daily_prices")
    assert daily["price"] == {
        "raw.inbox.price_chf",
        "raw.inbox.price_eur",
        "raw.inbox.price_usd",
        "warehouse.market_snapshots.price",
        "warehouse.price_points.price",
    }
    assert daily["day"] == {
        "raw.inbox.date",
        "warehouse.market_snapshots.snapshot_at",
        "warehouse.price_points.observed_at",
    }
    metrics = sources("coin_metrics_daily")
    assert metrics["day"] == {"warehouse.daily_prices.day"}
    for name in ("price_usd", "return_365d", "volatility_30d", "drawdown", "ma_200d"):
        assert metrics[name] == {"warehouse.daily_prices.price"}, name
    pairs = sources("correlations")
    assert pairs["coin_a"] == pairs["coin_b"] == {"warehouse.daily_prices.coin_id"}
    assert pairs["correlation"] == {"warehouse.daily_prices.price"}
    versions = sources("coins")
    assert versions["valid_from"] == versions["valid_to"] == {"raw.coins_list.slot_at"}
    assert {"raw.coins_list.symbol", "raw.coins_list.name"} < versions["change"]
    assert sources("coin_platforms")["contract_address"] == {"raw.coins_list.platforms"}


@dataclass(frozen=True)
class Captured:
    """The SQL of a transformation that is one query over one endpoint."""

    endpoint: str

    def sql(self, query: str) -> str:
        (name,) = {name for _, name, _, _ in Formatter().parse(query) if name}
        return query.format_map({name: f"raw.`{name}`"})


@pytest.mark.parametrize(
    "name",
    ["categories", "exchanges", "global_market", "market_snapshots", "ohlc", "price_points"],
)
def test_where_sqlglot_gets_through_it_finds_the_same(name: str) -> None:
    spec = all_specs()[name]
    (endpoint,) = spec.endpoints
    fields = {field.name: field.type for field in all_endpoints()[endpoint].fields}
    query = cast("str", spec.transform(cast("Inputs", Captured(endpoint))))
    schema = {"raw": {endpoint: fields | dict(RECORD_COLUMNS)}}
    oracle = {
        column: {
            f"raw.{endpoint}.{leaf.name.rsplit('.', 1)[-1]}"
            for leaf in node.walk()
            if isinstance(leaf.expression, exp.Table)
        }
        for column, node in lineage(None, query, schema, dialect="spark").items()
    }
    assert sources(name) == oracle


def of_column(sql: str) -> set[str]:
    """Return the columns of daily_prices that the column `coin_id` of a query comes from."""
    spec = replace(prices(lambda inputs: inputs.sql(sql)), columns=all_specs()["coins"].columns[:1])
    found = table_lineage(spec, all_specs(), all_endpoints())["coin_id"]
    assert {relation for relation, _ in found} <= {Relation("warehouse", "daily_prices")}
    return {name for _, name in found}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("upper(coin_id)", {"coin_id"}),
        ("'x'", set()),
        ("IF(source = 'x', price, market_cap)", {"source", "price", "market_cap"}),
        ("IF(source = 'x', price, NULL)", {"price"}),
        ("CASE WHEN price > 1 THEN 'dear' ELSE 'cheap' END", {"price"}),
        ("row_number() OVER (PARTITION BY coin_id ORDER BY price)", {"coin_id", "price"}),
        ("lag(price) OVER (PARTITION BY coin_id ORDER BY day)", {"price"}),
        ("struct(day AS d, price AS p).p", {"price"}),
        ("element_at(array(struct(day AS d, price AS p)), 1).d", {"day"}),
        ("transform(array(price), (one, i) -> one + i + volume_24h)", {"price", "volume_24h"}),
        (
            "aggregate(array(price), 0D, (total, one) -> total + one * source_rank)",
            {"price", "source_rank"},
        ),
        ("(SELECT max(day) FROM {daily_prices})", {"day"}),
    ],
)
def test_an_expression(expression: str, expected: set[str]) -> None:
    assert of_column(f"SELECT {expression} AS coin_id FROM {{daily_prices}}") == expected  # noqa: S608


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM (SELECT price AS coin_id FROM {daily_prices})", {"price"}),
        ("SELECT a.* FROM (SELECT day AS coin_id FROM {daily_prices}) a, {self} b", {"day"}),
        ("SELECT coin_id FROM {self}", set()),
        ("SELECT day AS coin_id FROM {daily_prices} UNION ALL SELECT price FROM {daily_prices}", {"day", "price"}),
        ("WITH a AS (SELECT day AS x FROM {daily_prices}), b AS (SELECT x FROM a) SELECT x AS coin_id FROM b", {"day"}),
        ("SELECT inline(array(struct(price AS coin_id), struct(day AS coin_id))) FROM {daily_prices}", {"price", "day"}),
        ("SELECT coin_id FROM (SELECT price, day FROM {daily_prices}) LATERAL VIEW stack(2, price, 1, day, 2) s AS coin_id, n", {"price", "day"}),
        ("SELECT position AS coin_id FROM {daily_prices} LATERAL VIEW posexplode(array(price)) p AS position, one", set()),
    ],
)  # fmt: skip
def test_a_query(sql: str, expected: set[str]) -> None:
    assert of_column(sql) == expected


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda inputs: inputs.table("daily_prices").where("price > 1"), r"DataFrame\.where"),
        (lambda inputs: inputs.sql("SELECT cost FROM {daily_prices}"), "the column cost"),
        (lambda inputs: inputs.sql("SELECT 1 AS x FROM elsewhere"), "the relation elsewhere"),
        (lambda inputs: inputs.sql("SELECT ("), "coin_metrics_daily: "),
        (lambda inputs: inputs.sql("SELECT 1 AS coin_id"), "no column day, price_usd"),
        (lambda inputs: inputs.sql("SELECT 1 AS d").first()["d"], "TypeError"),
    ],
)
def test_what_cannot_be_followed_is_said(transform: Any, message: str) -> None:
    with pytest.raises(LineageUnknownError, match=message):
        table_lineage(prices(transform), all_specs(), all_endpoints())
