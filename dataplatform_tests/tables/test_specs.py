"""What holds for every declared table."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataplatform import tables
from dataplatform.lake.spec import LINEAGE, TableSpec
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform_tests.tables.memory_inputs import MemoryInputs, schema_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

every_table = pytest.mark.parametrize("spec", all_specs().values(), ids=all_specs().keys())


def test_every_file_is_a_table_that_comes_after_what_it_reads() -> None:
    names = list(all_specs())
    files = {path.stem for path in Path(tables.__file__).parent.glob("[!_]*.py")}
    assert set(names) == files
    for spec in all_specs().values():
        assert all(names.index(upstream) < names.index(spec.name) for upstream in spec.upstream)


@every_table
def test_what_a_table_names_is_declared(spec: TableSpec) -> None:
    names = {column.name for column in spec.columns}
    layout = {re.sub(r".*\(|\)", "", transform) for transform in spec.partitioning}
    endpoints = set(all_endpoints())
    assert len(names) == len(spec.columns)
    assert {*spec.keys, *spec.sort_order, *layout} <= names
    assert spec.day_column is None or spec.day_column in names
    assert set(spec.endpoints) <= endpoints
    assert set(spec.upstream) <= set(all_specs())
    assert "origin" in names


@every_table
def test_a_plot_names_columns_of_its_table(spec: TableSpec) -> None:
    if spec.plot:
        assert set(spec.plot.columns) <= {column.name for column in spec.columns}
        assert spec.plot.title
        assert (spec.plot.kind == "line") == bool(spec.plot.days)


@every_table
def test_everything_is_documented(spec: TableSpec) -> None:
    assert spec.description.endswith(".")
    for column in spec.columns:
        assert column.doc.endswith("."), column.name
        has_unit = column.type not in {"double", "timestamp", "date"} or column.unit
        assert has_unit, f"{column.name} has no unit"
    names = [check.name for check in spec.audited]
    assert len(names) == len(set(names))
    assert all(check.description.endswith(".") for check in spec.audited)


def test_tables_made_of_raw_files_carry_their_lineage() -> None:
    names = {column.name for column in LINEAGE}
    for spec in all_specs().values():
        if spec.endpoints:
            assert names <= {column.name for column in spec.columns}, spec.name


@every_table
def test_a_transformation_gives_the_declared_columns(
    spec: TableSpec, spark: "SparkSession"
) -> None:
    frame = spec.transform(MemoryInputs(spark, spec))
    declared = spark.createDataFrame([], schema_of(spec))
    assert set(frame.columns) == set(declared.columns)
    ordered = frame.select(*[f"`{name}`" for name in declared.columns])
    assert dict(ordered.dtypes) == dict(declared.dtypes)


@every_table
def test_every_rule_is_sql_over_the_columns(spec: TableSpec, spark: "SparkSession") -> None:
    from pyspark.sql.functions import expr

    rows = spark.createDataFrame([], schema_of(spec))
    for check in spec.audited:
        if check.per is None:
            rows.where(check.violated)
        else:
            rows.groupBy(*check.per).agg(expr(check.violated).cast("boolean"))
    if spec.replaces:
        rows.alias("s").crossJoin(rows.alias("t")).selectExpr(f"CAST({spec.replaces} AS BOOLEAN)")


def test_nothing_new_gives_no_row(spark: "SparkSession") -> None:
    for spec in all_specs().values():
        assert MemoryInputs(spark, spec).rows() == [], spec.name
