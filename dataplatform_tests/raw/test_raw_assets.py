import logging
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetsDefinition,
    DagsterInstance,
    ExecuteInProcessResult,
    PartitionKeyRange,
    materialize,
)

from dataplatform.assets import raw
from dataplatform.assets.partitions import DAILY
from dataplatform.assets.raw import NO_RUN_RETRY, build_raw_assets
from dataplatform.raw import all_endpoints
from dataplatform.raw.coingecko.global_ import endpoint as global_
from dataplatform.raw.inbox import inbox
from dataplatform.resources.coingecko import CoinGeckoResource
from dataplatform.resources.lake import LakeResource
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault
from dataplatform_tests.stored import holding

KEY = "CG-verysecretkey123"
PASSWORD = "horse-battery-staple"
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date()
ASSETS = {asset.key.path[1]: asset for asset in build_raw_assets()}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    home = tmp_path / "dagster"
    home.mkdir()
    with DagsterInstance.local_temp(str(home)) as made:
        yield made


def run(
    tmp_path: Path,
    instance: DagsterInstance,
    assets: Sequence[AssetsDefinition],
    url: str = "http://127.0.0.1:1",
    origin: str = "live",
    patience: float = 0.5,
    **options: Any,
) -> ExecuteInProcessResult:
    resources = {
        "lake": LakeResource(home=str(tmp_path), origin=origin),
        "coingecko": CoinGeckoResource(
            base_url=url,
            state_folder=str(tmp_path),
            calls_per_minute=600_000,
            coins=["bitcoin", "ethereum"],
            total_timeout=patience,
        ),
    }
    return materialize(
        assets, resources=resources, instance=instance, raise_on_error=False, **options
    )


def metadata(result: ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(f"raw__{name}")
    return {key: value.value for key, value in event.metadata.items()}


def test_every_asset_is_described() -> None:
    assert set(ASSETS) == set(all_endpoints())
    for name, endpoint in all_endpoints().items():
        asset = ASSETS[name]
        (spec,) = asset.specs
        assert spec.group_name == "raw"
        assert spec.description
        assert spec.owners
        assert spec.kinds
        assert asset.op.pool == (None if endpoint == inbox else "coingecko_api")
        assert (spec.partitions_def == DAILY) == (endpoint.every == "partition")
        assert {check.blocking for check in asset.check_specs} == {False}


def test_all_live_then_again(
    tmp_path: Path, instance: DagsterInstance, server: CoinGeckoServer
) -> None:
    everything = list(ASSETS.values())
    first = run(tmp_path, instance, everything, server.url, partition_key=str(YESTERDAY))
    assert first.success
    asked = len(server.seen)
    seen = metadata(first, "coins_markets")
    assert (seen["files"], seen["dagster/row_count"], seen["origin"]) == (1, 40, "live")
    assert seen["tier"] == "keyless"
    assert "| bitcoin | bitcoin | Bitcoin |" in seen["preview"]
    assert all(check.passed for check in first.get_asset_check_evaluations())

    again = run(tmp_path, instance, everything, server.url, partition_key=str(YESTERDAY))
    assert again.success
    assert len(server.seen) == asked
    assert metadata(again, "coins_markets")["slots_fetched"] == 0


def test_the_recorded_lake_asks_nobody(tmp_path: Path, instance: DagsterInstance) -> None:
    everything = list(ASSETS.values())
    result = run(tmp_path, instance, everything, origin="recorded", partition_key="2025-01-01")
    assert result.success
    assert metadata(result, "inbox")["slots"] == 25
    assert metadata(result, "coins_list")["origin"] == "recorded"


def test_a_range_of_days_is_one_run_and_one_slot(
    tmp_path: Path, instance: DagsterInstance, server: CoinGeckoServer
) -> None:
    first = YESTERDAY - timedelta(days=9)
    tags = {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(YESTERDAY),
    }
    result = run(tmp_path, instance, [ASSETS["market_chart"]], server.url, tags=tags)
    assert result.success
    assert len(server.seen) == 2
    partitions = instance.get_materialized_partitions(AssetKey(["raw", "market_chart"]))
    wanted = DAILY.get_partition_keys_in_range(PartitionKeyRange(str(first), str(YESTERDAY)))
    assert set(partitions) == set(wanted)


def test_a_permanent_failure_is_not_tried_again(
    tmp_path: Path, instance: DagsterInstance, server: CoinGeckoServer
) -> None:
    server.script(*[Fault.error(401, {"error": {"status": {"error_code": 10002}}})] * 5)
    result = run(tmp_path, instance, [ASSETS["global"]], server.url)
    assert not result.success
    assert len(server.seen) == 1
    stored = instance.get_run_by_id(result.run_id)
    assert stored is not None
    assert NO_RUN_RETRY.items() <= stored.tags.items()
    data = result.failure_data_for_node("raw__global")
    assert data is not None
    assert "no API key was sent" in str(data.error)
    assert data.user_failure_data is not None
    assert "DATAPLATFORM_COINGECKO_API_KEY" in str(data.user_failure_data.metadata["remedy"].value)


def test_a_transient_failure_asks_for_a_retry(
    tmp_path: Path,
    instance: DagsterInstance,
    server: CoinGeckoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The policy as it is, but for its minute of delay.
    monkeypatch.setattr(raw, "RETRY", raw.RETRY._replace(delay=0.1))
    server.script(Fault())
    result = run(tmp_path, instance, [raw.raw_asset(global_)], server.url)
    assert result.success
    assert len(server.seen) == 2
    retries = [e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    assert len(retries) == 1


def test_drift_and_retired_coins_warn_and_do_not_fail(
    tmp_path: Path, instance: DagsterInstance, server: CoinGeckoServer
) -> None:
    server.market.extra_fields = {"sentiment": 1}
    server.market.retired = {"ethereum"}
    chosen = [ASSETS["coins_markets"], ASSETS["ohlc"]]
    result = run(tmp_path, instance, chosen, server.url)
    assert result.success
    found = {
        (check.asset_key.path[1], check.check_name): check.metadata["found"].value
        for check in result.get_asset_check_evaluations()
        if not check.passed
    }
    assert found == {
        ("coins_markets", "no_unknown_fields"): ["sentiment"],
        ("ohlc", "no_missing_coins"): ["ethereum"],
    }


def test_an_unreadable_drop_warns(tmp_path: Path, instance: DagsterInstance) -> None:
    folder = tmp_path / "live" / "datalake" / "inbox"
    folder.mkdir(parents=True)
    (folder / "prices.xlsx").write_bytes(b"PK")
    os.utime(folder / "prices.xlsx", (1_700_000_000, 1_700_000_000))
    result = run(tmp_path, instance, [ASSETS["inbox"]])
    (failed,) = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert failed.check_name == "no_unreadable_files"
    assert failed.description == "Every dropped file can be read."
    assert "prices.xlsx: unknown type '.xlsx'" in str(failed.metadata["found"].value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("refused", [False, True])
def test_secrets_are_nowhere(
    tmp_path: Path,
    instance: DagsterInstance,
    server: CoinGeckoServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    refused: bool,
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    proxy = server.url.replace("://", f"://me:{PASSWORD}@")
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_BASE_URL", proxy)
    caplog.set_level(logging.DEBUG)
    server.key = KEY
    if refused:
        # An API that repeats them in its refusal, at the first and at a later request.
        server.script(Fault.error(500, {"error": f"bad {KEY} {PASSWORD}"}))
        server.script(Fault.error(401, {"error": f"{KEY} has expired"}, path="/ohlc"))
    chosen = [ASSETS["coins_list"], ASSETS["ohlc"]]
    result = run(tmp_path, instance, chosen, server.url, patience=10)
    assert {seen.headers.get("x-cg-demo-api-key") for seen in server.seen} == {KEY}
    assert all(seen.headers["authorization"].startswith("Basic ") for seen in server.seen)
    logs = instance.all_logs(result.run_id)
    captured = capfd.readouterr()
    told = "".join(str(log) for log in logs) + captured.out + captured.err + caplog.text
    # The search finds what is there: the run in Dagster's database, the coins in the lake.
    assert holding(tmp_path, result.run_id)
    assert holding(tmp_path, '"id": "bitcoin"')
    for secret in (KEY, PASSWORD):
        assert holding(tmp_path, secret) == []
        assert secret not in told
    if refused:
        assert holding(tmp_path, "*** has expired")
