"""A small embedded lake with hand-made rows, written by pyiceberg: no JVM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog

from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.place import LocalLake
from dataplatform.lake.query import EmbeddedEngine
from dataplatform.lake.schema import ensure_table
from dataplatform.lake.spec import NAMESPACE
from dataplatform.lake.view_engine import verify
from dataplatform.lake.views import Relation, ViewSpec
from dataplatform.tables import all_specs
from dataplatform.views import all_views

Row = Mapping[str, Any]


def at(text: str) -> datetime:
    """Read a UTC time stamp."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(text: str) -> date:
    return date.fromisoformat(text)


@dataclass(frozen=True)
class SmallLake:
    folders: LocalLake
    catalog: Catalog
    engine: EmbeddedEngine

    def create(self, *names: str) -> None:
        for name in names:
            ensure_table(self.catalog, all_specs()[name])

    def insert(self, name: str, rows: Sequence[Row]) -> None:
        """Append rows; columns that they leave out are null, lineage columns have defaults."""
        table = ensure_table(self.catalog, all_specs()[name])
        schema = table.schema().as_arrow()
        defaults = {"origin": "recorded", "fetched_at": at("2025-03-01"), "raw_key": "key"}
        known = {key: value for key, value in defaults.items() if key in schema.names}
        unknown = {column for row in rows for column in row} - set(schema.names)
        assert not unknown, f"{name} has no {unknown}"
        table.append(pa.Table.from_pylist([{**known, **row} for row in rows], schema=schema))

    def create_for(self, view: ViewSpec) -> None:
        self.create(*(r.name for r in view.references if r.schema == NAMESPACE))

    def answer(self, name: str) -> list[dict[str, Any]]:
        """Deploy a view of the package over the tables that exist, and return its rows in order."""
        view = all_views()[name]
        self.create_for(view)
        self.engine.deploy(view)
        return verify(self.engine, view).sample.arrow.to_pylist()


def make_lake(home: Path) -> SmallLake:
    folders = LocalLake(home, "recorded")
    catalog = SqliteCatalog(folders.catalog_db, folders.warehouse).open()
    declared = [Relation(NAMESPACE, name) for name in all_specs()]
    declared += [view.relation for view in all_views().values()]
    return SmallLake(folders, catalog, EmbeddedEngine(folders, catalog, declared))
