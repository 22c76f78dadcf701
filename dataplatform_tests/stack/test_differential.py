"""The same raw files give the same tables and views, embedded and on the real servers."""

import math
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import LakePlace, LocalLake
from dataplatform.lake.spec import NAMESPACE
from dataplatform.lake.sql_engine import QueryResult
from dataplatform.lake.store.object_store import ObjectStore
from dataplatform.lake.view_engine import QueryEngine
from dataplatform.profiles import lake_place
from dataplatform.tables import all_specs
from dataplatform.views import all_views
from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.stack.fixtures import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

DAY = "2025-01-05"
TOLERANCE = 1e-9
"""Relative: sums of doubles depend on the order of their terms, which engines choose."""


def on_stack(stack: RunningStack, root: Path, origin: Origin) -> DagsterHome:
    return DagsterHome(root, {**stack.env, "DATAPLATFORM_ORIGIN": origin}, stack.dagster_home)


def place(stack: RunningStack, origin: Origin) -> LakePlace:
    return lake_place(stack.settings, origin)


def copied(source: ObjectStore, target: ObjectStore) -> int:
    """Copy every object, markers before manifests as their writers do; returns how many."""
    keys = [stored.key for stored in source.list("")]
    for key in sorted(keys, key=lambda key: key.endswith("manifest.json")):
        target.put(key, source.get(key))
    return len(keys)


def rows_of(lake: LakePlace, table: str, leave_out: Collection[str] = ()) -> pa.Table:
    loaded = lake.open_catalog().load_table(f"{NAMESPACE}.{table}").scan().to_arrow()
    kept = loaded.select([name for name in loaded.schema.names if name not in leave_out])
    return kept.sort_by([(key, "ascending") for key in all_specs()[table].keys])


def everything(engine: QueryEngine, view: str) -> QueryResult:
    return engine.query(f"SELECT * FROM analytics.{view}")  # noqa: S608  declared names


def in_order(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Sort rows by what is exactly equal in both engines."""
    return sorted(rows, key=lambda row: [str(v) for v in row if not isinstance(v, float)])


def same(one: object, other: object) -> bool:
    if not (isinstance(one, float) and isinstance(other, float)):
        return one == other
    both_nan = math.isnan(one) and math.isnan(other)
    return both_nan or math.isclose(one, other, rel_tol=TOLERANCE)


def assert_same_tables(
    ours: LakePlace,
    theirs: LakePlace,
    tables: Iterable[str] | None = None,
    leave_out: Collection[str] = (),
) -> int:
    compared = 0
    for table in tables or all_specs():
        one, other = (rows_of(lake, table, leave_out) for lake in (ours, theirs))
        assert one.schema.names == other.schema.names
        assert one.schema.names == other.schema.names
        assert one.to_pylist() == other.to_pylist(), table
        compared += one.num_rows
    return compared


def assert_same_views(ours: LakePlace, theirs: LakePlace) -> int:
    embedded, trino = ours.engine(), theirs.engine()
    compared = 0
    for view in all_views():
        one, other = everything(embedded, view), everything(trino, view)
        assert one.columns == other.columns
        assert one.types == other.types, view
        assert len(one.rows) == len(other.rows), view
        for left, right in zip(in_order(one.rows), in_order(other.rows), strict=True):
            assert all(map(same, left, right)), f"{view}: {left} / {right}"
        compared += len(one.rows)
    return compared


@pytest.fixture
def server() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer(Market(260)) as running:
        yield running


def test_the_recorded_lineage_is_the_same_in_both(stack: RunningStack, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "stack").mkdir()
    embedded = DagsterHome(tmp_path / "local", {"DATAPLATFORM_ORIGIN": "recorded"})
    for home in (embedded, on_stack(stack, tmp_path / "stack", "recorded")):
        done = home.materialize(partition=DAY)
        assert done.returncode == 0, done.stdout[-4000:]
    ours, theirs = LocalLake(embedded.lake, "recorded"), place(stack, "recorded")
    assert assert_same_tables(ours, theirs) > 50_000
    assert assert_same_views(ours, theirs) > 100
    maintained = on_stack(stack, tmp_path / "stack", "recorded").execute("maintenance_job")
    assert maintained.returncode == 0, maintained.stdout[-4000:]
    assert assert_same_tables(ours, theirs) > 50_000


def test_a_live_lineage_is_the_same_in_both_day_by_day(
    stack: RunningStack, tmp_path: Path, server: CoinGeckoServer
) -> None:
    settings = {
        "DATAPLATFORM_ORIGIN": "live",
        "DATAPLATFORM_COINGECKO_BASE_URL": server.url,
        "DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE": "60000",
        "DATAPLATFORM_COINS": "bitcoin,ethereum",
    }
    (tmp_path / "stack").mkdir()
    embedded = DagsterHome(tmp_path, settings)
    servers = on_stack(stack, tmp_path / "stack", "live")
    ours, theirs = LocalLake(embedded.lake, "live"), place(stack, "live")
    for back in (2, 1):
        day = (datetime.now(UTC) - timedelta(days=back)).date().isoformat()
        done = embedded.materialize(partition=day)
        assert done.returncode == 0, done.stdout[-4000:]
        assert copied(ours.store, theirs.store) > 0
        built = servers.materialize("group:tables or group:views")
        assert built.returncode == 0, built.stdout[-4000:]
        assert_same_tables(ours, theirs)
        assert_same_views(ours, theirs)
