"""Whether every engine reads what every other wrote: pyiceberg, Spark and Trino over one catalog."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NamespaceNotEmptyError

from dataplatform.lake.spec import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dataplatform.lake.trino.client import TrinoClient

NAMESPACE: Final = "doctor"
_COLUMN: Final = "writer"


def round_trip(
    catalog: Catalog, spark: "SparkSession", trino: "TrinoClient"
) -> dict[str, frozenset[str]]:
    """Have each engine write a row to a table of its own namespace, and read what all wrote.

    The table is dropped again, whatever happens.

    Returns:
        engine → the writers whose rows it does not see; empty where all is well.
    """
    catalog.create_namespace_if_not_exists(NAMESPACE)
    name = f"{NAMESPACE}.probe_{uuid4().hex[:12]}"
    table = catalog.create_table(name, pa.schema([(_COLUMN, pa.string())]))
    try:
        table.append(pa.table({_COLUMN: ["pyiceberg"]}))
        spark.sql(f"INSERT INTO {CATALOG}.{name} VALUES ('spark')")  # noqa: S608  our own name
        trino.execute(f"INSERT INTO {name} VALUES ('trino')")  # noqa: S608  likewise
        seen = {engine: read(name) for engine, read in _readers(catalog, spark, trino).items()}
    finally:
        catalog.purge_table(name)
        with suppress(NamespaceNotEmptyError):  # Somebody else's doctor is at it.
            catalog.drop_namespace(NAMESPACE)
    missed = {engine: frozenset(seen) - found for engine, found in seen.items()}
    return {engine: writers for engine, writers in missed.items() if writers}


def _readers(
    catalog: Catalog, spark: "SparkSession", trino: "TrinoClient"
) -> Mapping[str, Callable[[str], frozenset[str]]]:
    def _by_pyiceberg(name: str) -> frozenset[str]:
        return frozenset(catalog.load_table(name).scan().to_arrow()[_COLUMN].to_pylist())

    def _by_spark(name: str) -> frozenset[str]:
        return frozenset(row[0] for row in spark.table(f"{CATALOG}.{name}").collect())

    def _by_trino(name: str) -> frozenset[str]:
        return frozenset(row[0] for row in trino.query(f"SELECT {_COLUMN} FROM {name}").rows)  # noqa: S608  our own name

    return {"pyiceberg": _by_pyiceberg, "spark": _by_spark, "trino": _by_trino}
