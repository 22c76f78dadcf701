"""A lake with one endpoint and tables of a few rows, built by the real engine."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from dataplatform.lake.api.endpoint import Endpoint, Field, price
from dataplatform.lake.build import Builder, TableResult
from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.landing import write_body
from dataplatform.lake.manifest import Manifest, RawFile, RawZone, Slot, sha256
from dataplatform.lake.plan import Lake
from dataplatform.lake.schema import identifier
from dataplatform.lake.spark import lake_session
from dataplatform.lake.spec import LINEAGE, Check, Column, Inputs, TableSpec
from dataplatform.lake.store.object_store import open_folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

QUOTES = Endpoint(
    name="quotes",
    description="Prices.",
    path="/quotes",
    every="hour",
    source="test",
    fields=(
        Field("coin", required=True),
        Field("day", required=True, pattern=r"\d{4}-\d{2}-\d{2}"),
        price("price", required=True),
        Field("trades", "int"),
    ),
)


def _quotes(inputs: Inputs) -> "DataFrame":
    return inputs.sql("""
        SELECT coin, CAST(day AS date) AS day, price, trades, origin, fetched_at, raw_key
        FROM {quotes}
    """)


PRICES = TableSpec(
    name="prices",
    description="Prices.",
    columns=(
        Column("coin", "string", "The coin."),
        Column("day", "date", "The day."),
        Column("price", "double", "The price.", required=True),
        Column("trades", "int", "How many trades."),
        *LINEAGE,
    ),
    keys=("coin", "day"),
    partitioning=("month(day)",),
    sort_order=("coin",),
    transform=_quotes,
    endpoints=("quotes",),
    day_column="day",
    checks=(Check("below_1000", "price >= 1000", "Every price is below 1000."),),
)


def at(text: str) -> datetime:
    """Read a UTC time stamp."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(text: str) -> date:
    """Read a day."""
    return date.fromisoformat(text)


def quote(coin: str, on: str, price: object, trades: object = 1) -> dict[str, object]:
    """Return one record of the endpoint."""
    return {"coin": coin, "day": on, "price": price, "trades": trades}


@dataclass
class TinyLake:
    """One lake: land records, build specs, look at rows and snapshots."""

    root: Path
    jvm: "SparkSession"
    endpoints: dict[str, Endpoint] = field(default_factory=lambda: {"quotes": QUOTES})

    @cached_property
    def zone(self) -> RawZone:
        return RawZone(open_folder(self.root / "datalake"))

    @cached_property
    def catalog(self) -> Catalog:
        return SqliteCatalog(self.root / "catalog.db", self.root / "warehouse").open()

    @cached_property
    def spark(self) -> "SparkSession":
        conf = SqliteCatalog(self.root / "catalog.db", self.root / "warehouse").spark_conf()
        return lake_session(self.jvm, conf)

    def land(
        self,
        fetched_at: str,
        records: Sequence[Mapping[str, object]] | bytes,
        endpoint: str = "quotes",
    ) -> str:
        """Commit one slot that holds these records (or this body); return its file's key."""
        body = records if isinstance(records, bytes) else json.dumps(records).encode()
        fetched = at(fetched_at)
        slot = Slot(source="test", endpoint=endpoint, day=fetched.date(), name=f"{fetched:%H%M%S}")
        key, size = write_body(self.zone.store.put, slot, "body", "json", body)
        self._commit(slot, fetched, key, size, body)
        return key

    def _commit(self, slot: Slot, fetched: datetime, key: str, size: int, body: bytes) -> None:
        file = RawFile(
            key=key, request="/quotes", sha256=sha256(body), size=size, fetched_at=fetched
        )
        manifest = Manifest(
            slot=slot, origin="live", tier="demo", fetched_at=fetched, files=(file,)
        )
        assert self.zone.commit(manifest)

    def builder(
        self, *specs: TableSpec, still_writer: Callable[[], None] = lambda: None
    ) -> Builder:
        """Return a builder of these tables."""
        lake = Lake(self.zone, self.catalog, self.endpoints, "live")
        named = {spec.name: spec for spec in specs}
        return Builder(lake, named, lambda: self.spark, still_writer)

    def build(self, *specs: TableSpec) -> list[TableResult]:
        """Build the tables, prices where none is named."""
        chosen = specs or (PRICES,)
        return list(self.builder(*chosen).build([spec.name for spec in chosen]))

    def table(self, name: str = "prices") -> Table:
        return self.catalog.load_table(identifier(name))

    def rows(self, name: str = "prices", *columns: str) -> list[tuple[Any, ...]]:
        """Return the published rows in order, by default coin, day as ISO, price."""
        wanted = columns or ("coin", "day", "price")
        found = self.table(name).scan(selected_fields=wanted).to_arrow().to_pylist()
        return sorted(tuple(_plain(row[c]) for c in wanted) for row in found)

    def files(self) -> set[str]:
        """Return every file of the warehouse but the metadata's."""
        return {str(p) for p in (self.root / "warehouse").rglob("*.parquet")}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def changed(spec: TableSpec, **changes: Any) -> TableSpec:
    """Return the spec with some of its declaration replaced."""
    return replace(spec, **changes)


def reading(transform: Callable[[Inputs], "DataFrame"], **changes: Any) -> TableSpec:
    """Return a table of prices that reads the table `prices`."""
    return replace(
        PRICES,
        name="derived",
        transform=transform,
        endpoints=(),
        upstream=("prices",),
        **changes,
    )
