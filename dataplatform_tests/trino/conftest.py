"""One Trino for the tests of this folder, and lakes in it."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from dataplatform.lake.manifest import Origin
from dataplatform.lake.trino.client import Progress, TrinoClient, TrinoServer
from dataplatform.lake.trino.engine import TrinoEngine
from dataplatform.lake.views import Relation
from dataplatform.tables import all_specs
from dataplatform.views import all_views
from dataplatform_tests.trino import servers as running
from dataplatform_tests.trino.servers import CATALOGS, Servers


@dataclass(frozen=True)
class TrinoLake:
    """A Trino catalog and the engine over it."""

    servers: Servers
    name: str
    engine: TrinoEngine
    client: TrinoClient
    reports: list[Progress]

    def adopt(self, source: Catalog) -> None:
        """Make the tables of another catalog, in its files, the ones of this catalog."""
        rows = [
            (CATALOGS[self.name], *identifier, source.load_table(identifier).metadata_location)
            for identifier in source.list_tables("warehouse")
        ]
        connection = psycopg2.connect(self.servers.postgres("catalog"))
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM iceberg_tables WHERE catalog_name = %s AND table_namespace = 'warehouse'",
                (CATALOGS[self.name],),
            )
            cursor.executemany(
                "INSERT INTO iceberg_tables VALUES (%s, %s, %s, %s, NULL, 'TABLE')", rows
            )
        connection.close()


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    # Not below pytest's own folder, which PostgreSQL's user may not enter.
    root = Path(tempfile.mkdtemp(prefix="trino-"))
    root.chmod(0o755)
    try:
        with running.started(root) as found:
            yield found
    finally:
        shutil.rmtree(root, ignore_errors=True)


def open_lake(servers: Servers, name: str, origin: Origin) -> TrinoLake:
    reports: list[Progress] = []
    client = TrinoClient(TrinoServer(servers.trino_url, "dagster", name), report=reports.append)
    for schema in ("warehouse", "analytics"):
        client.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}", repeatable=True)
    catalog = SqlCatalog(
        CATALOGS[name],
        uri=servers.postgres("catalog").replace("postgresql", "postgresql+psycopg2", 1),
        warehouse=servers.warehouse(name).as_uri(),
        init_catalog_tables="false",
    )
    declared = [Relation("warehouse", spec) for spec in all_specs()]
    declared += [view.relation for view in all_views().values()]
    return TrinoLake(servers, name, TrinoEngine(client, catalog, origin, declared), client, reports)


@pytest.fixture
def trino(servers: Servers) -> Iterator[TrinoLake]:
    """Give a lake without views and tables."""
    lake = open_lake(servers, "lake", "live")
    yield lake
    for view in lake.engine.deployed():
        lake.engine.drop(view)
    servers.execute("catalog", "DELETE FROM iceberg_tables WHERE catalog_name = 'live'")
    lake.client.close()
