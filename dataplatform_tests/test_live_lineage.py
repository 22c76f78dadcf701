"""The live path end to end, against a local server that speaks the official OpenAPI."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance

from dataplatform.lake.manifest import Manifest
from dataplatform.lake.schema import identifier
from dataplatform.resources.lake import LakeResource
from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.stored import holding

KEY = "CG-a1b2c3d4e5f6g7h8i9j0"
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
PASSWORD = "horse-battery-staple"
COINS = 260
"""More than one page of /coins/markets, which holds 250."""


@pytest.fixture
def server() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer(Market(COINS), key=KEY) as running:
        yield running


def home(root: Path, server: CoinGeckoServer, key: str = KEY) -> DagsterHome:
    return DagsterHome(
        root,
        {
            "DATAPLATFORM_ORIGIN": "live",
            "DATAPLATFORM_COINGECKO_BASE_URL": server.url.replace("://", f"://me:{PASSWORD}@"),
            "DATAPLATFORM_COINGECKO_API_KEY": key,
            "DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE": "60000",
            "DATAPLATFORM_COINS": "bitcoin,ethereum,not-a-coin",
        },
    )


def manifests(lake: Path, endpoint: str) -> list[Manifest]:
    found = (lake / "live/datalake/coingecko" / endpoint).rglob("manifest.json")
    return [Manifest.model_validate_json(p.read_bytes()) for p in sorted(found)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lineage_on_an_api_that_misbehaves(tmp_path: Path, server: CoinGeckoServer) -> None:
    server.market.extra_fields["brand_new_field"] = 1
    error = {"status": {"error_code": 429, "error_message": "slow down"}}
    server.script(
        Fault(429, json.dumps(error).encode(), {"retry-after": "1"}, path="/coins/markets"),
        Fault(status=503, path="/global"),
        Fault(kind="truncate", path="/coins/list"),
        Fault(kind="cut_json", path="/exchanges"),
    )
    dagster = home(tmp_path, server)
    done = dagster.materialize(partition=YESTERDAY)
    assert done.returncode == 0, done.stdout[-4000:]
    assert server.violations == []

    (markets,) = manifests(dagster.lake, "coins_markets")
    assert [file.records for file in markets.files] == [250, COINS - 250]
    assert markets.unknown_fields == ("brand_new_field",)
    catalog = LakeResource(home=str(dagster.lake), origin="live").catalog()
    counts = {
        name: catalog.load_table(identifier(name)).scan().to_arrow().num_rows
        for name in ("market_snapshots", "coins", "exchanges", "global_market", "quarantine")
    }
    assert counts == {
        "market_snapshots": COINS,
        "coins": COINS,
        "exchanges": 260,
        "global_market": 1,
        "quarantine": 0,
    }
    prices = catalog.load_table(identifier("price_points")).scan().to_arrow()
    assert set(prices["coin_id"].to_pylist()) == {"bitcoin", "ethereum"}
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        for asset, check in (
            ("coins_markets", "no_unknown_fields"),
            ("market_chart", "no_missing_coins"),
        ):
            key = AssetCheckKey(AssetKey(["raw", asset]), check)
            record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
            assert record.status.value == "FAILED", f"{check} says nothing"

    assert holding(tmp_path, KEY) + holding(tmp_path, PASSWORD) == []
    assert holding(tmp_path, "brand_new_field"), "the search finds what is there"

    asked = len(server.seen)
    again = dagster.materialize("group:raw", partition=YESTERDAY)
    assert again.returncode == 0, again.stdout[-4000:]
    hour_has_turned = len(manifests(dagster.lake, "coins_markets")) > 1
    assert hour_has_turned or len(server.seen) == asked


@pytest.mark.slow
def test_a_wrong_key_fails_the_run_with_cause_and_remedy(
    tmp_path: Path, server: CoinGeckoServer
) -> None:
    wrong = "CG-thiskeyisnotknown0000"
    done = home(tmp_path, server, wrong).materialize("key:raw/global")
    assert done.returncode != 0
    assert "DATAPLATFORM_COINGECKO_API_KEY" in done.stdout, "no remedy"
    assert "10002" in done.stdout, "no cause"
    assert len(server.seen) == 1, "a wrong key does not get right by asking again"
    assert holding(tmp_path, server.url), "the search finds the address, without its password"
    assert holding(tmp_path, wrong) + holding(tmp_path, PASSWORD) == []


@pytest.mark.slow
def test_a_failed_blocking_check_fails_the_command(tmp_path: Path, server: CoinGeckoServer) -> None:
    low_above_high = [[1772496000000, 10.0, 5.0, 20.0, 10.0]]
    server.script(Fault(200, json.dumps(low_above_high).encode(), path="/coins/bitcoin/ohlc"))
    dagster = home(tmp_path, server)
    done = dagster.materialize("key:raw/ohlc or key:warehouse/ohlc")
    assert done.returncode != 0
    assert "ohlc: not published: candle_ordered: 1 violation" in done.stdout
    catalog = LakeResource(home=str(dagster.lake), origin="live").catalog()
    assert catalog.load_table(identifier("ohlc")).scan().to_arrow().num_rows == 0
