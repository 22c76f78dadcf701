"""Raw files to an Iceberg table with polars and pyiceberg, by hand: the peer of `peer`.

`python -m benchmarks.polars_peer ROOT`: reads every manifest of coins_markets below ROOT, writes
`warehouse.market_snapshots` of the catalog in ROOT/peer. No quarantine, no audit, no state: a
record that breaks the schema would end it.
"""

import gzip
import json
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
from pyiceberg.catalog.sql import SqlCatalog

from dataplatform.lake.schema import iceberg_schema, partition_spec, sort_order
from dataplatform.tables.market_snapshots import spec

_RENAMED = {
    "id": "coin_id",
    "symbol": "symbol",
    "name": "name",
    "current_price": "price",
    "market_cap": "market_cap",
    "market_cap_rank": "market_cap_rank",
    "fully_diluted_valuation": "fully_diluted_valuation",
    "total_volume": "total_volume",
    "high_24h": "high_24h",
    "low_24h": "low_24h",
    "price_change_percentage_1h_in_currency": "change_1h_pct",
    "price_change_percentage_24h_in_currency": "change_24h_pct",
    "price_change_percentage_7d_in_currency": "change_7d_pct",
    "price_change_percentage_30d_in_currency": "change_30d_pct",
    "circulating_supply": "circulating_supply",
    "total_supply": "total_supply",
    "max_supply": "max_supply",
    "ath": "ath",
    "ath_date": "ath_at",
    "atl": "atl",
    "atl_date": "atl_at",
    "last_updated": "last_updated_at",
}
_TYPES = {"string": pl.String, "int": pl.Int32, "double": pl.Float64, "timestamp": pl.String}
_SCHEMA = {source: _TYPES[spec.column(name).type] for source, name in _RENAMED.items()}


def read(root: Path) -> pl.DataFrame:
    """Return the records of all files with their lineage."""
    pages = []
    for path in root.glob("datalake/coingecko/coins_markets/dt=*/*/manifest.json"):
        manifest = json.loads(path.read_bytes())
        pages += [_page(root, manifest, file) for file in manifest["files"]]
    return pl.concat(pages)


def _page(root: Path, manifest: dict[str, str], file: dict[str, str]) -> pl.DataFrame:
    body = gzip.decompress((root / "datalake" / file["key"]).read_bytes())
    return pl.read_json(body, schema=_SCHEMA).with_columns(
        vs_currency=pl.lit("usd"),
        snapshot_at=pl.lit(datetime.fromisoformat(manifest["fetched_at"])),
        origin=pl.lit(manifest["origin"]),
        fetched_at=pl.lit(datetime.fromisoformat(file["fetched_at"])),
        raw_key=pl.lit(file["key"]),
    )


def transform(records: pl.DataFrame) -> pl.DataFrame:
    """Rename, type, and keep the last updated row of each coin and snapshot."""
    stamps = [c.name for c in spec.columns if c.type == "timestamp"]
    moments = [
        pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC")
        for name in ("ath_at", "atl_at", "last_updated_at")
    ]
    return (
        records.rename(_RENAMED)
        .with_columns(moments)
        .with_columns(pl.col(stamps).cast(pl.Datetime("us", "UTC")))
        .sort("last_updated_at", descending=True, nulls_last=True)
        .unique(list(spec.keys), keep="first", maintain_order=True)
        .sort("snapshot_at", *spec.sort_order)
        .select([c.name for c in spec.columns])
    )


def write(root: Path, rows: pl.DataFrame) -> None:
    """Append to a new table with the partitioning of ours."""
    folder = root / "peer"
    folder.mkdir()
    catalog = SqlCatalog("lake", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("warehouse")
    schema = iceberg_schema(spec.columns)
    table = catalog.create_table(
        "warehouse.market_snapshots",
        schema,
        partition_spec=partition_spec(spec, schema),
        sort_order=sort_order(spec, schema),
        properties={"write.parquet.compression-codec": "zstd"},
    )
    table.append(rows.to_arrow().cast(table.schema().as_arrow()))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write(place, transform(read(place)))
