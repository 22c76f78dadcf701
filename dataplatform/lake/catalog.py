"""The Iceberg catalog as pyiceberg sees it, from the same description that Spark gets."""

from pathlib import Path

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from dataplatform.lake.spec import CATALOG, NAMESPACE


def open_sqlite_catalog(catalog_db: Path, warehouse: Path) -> Catalog:
    """Open (and make) the embedded catalog.

    The catalog's name is part of each row of its tables, so Spark must use the same one.
    """
    warehouse.mkdir(parents=True, exist_ok=True)
    catalog = SqlCatalog(CATALOG, uri=f"sqlite:///{catalog_db}", warehouse=_location(warehouse))
    catalog.create_namespace_if_not_exists(NAMESPACE)
    return catalog


def sqlite_spark_conf(catalog_db: Path, warehouse: Path) -> dict[str, str]:
    """Return the Spark settings of the catalog that `open_sqlite_catalog` opens."""
    prefix = f"spark.sql.catalog.{CATALOG}"
    return {
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        f"{prefix}.type": "jdbc",
        f"{prefix}.uri": f"jdbc:sqlite:{catalog_db}",
        f"{prefix}.jdbc.schema-version": "V1",
        f"{prefix}.warehouse": _location(warehouse),
        # pyiceberg commits beside Spark: a cached table would be a stale one.
        f"{prefix}.cache-enabled": "false",
    }


def _location(warehouse: Path) -> str:
    """Return the folder as Iceberg names it.

    Not `Path.as_uri()`: pyiceberg, Hadoop and DuckDB all take what follows `file://` as it stands,
    so an encoded blank would be a folder named `%20` somewhere else.
    """
    return f"file://{warehouse}"
