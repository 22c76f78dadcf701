"""`dp status`: fresh, stale, not built; and the API's budget."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.cli.status import Freshness, freshness
from dataplatform.lake.place import LocalLake
from dataplatform.profiles import Settings
from dataplatform.raw.coingecko.coins_categories import endpoint as coins_categories
from dataplatform.raw.recorded import land_recordings
from dataplatform_tests.views.small_lake import SmallLake, at, day, make_lake

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DATAPLATFORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("DATAPLATFORM_ORIGIN", "recorded")
    return tmp_path / ".dataplatform"


@pytest.fixture
def lake(home: Path) -> SmallLake:
    made = make_lake(home)
    made.insert("market_daily", [{"day": day("2025-01-01"), "coins": 2, "origin": "recorded"}])
    return made


def test_without_a_lake_the_remedy_is_to_run() -> None:
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 1
    assert "Remedy: run `dp run` first" in result.stderr


def test_a_built_lake_is_shown_asset_by_asset(lake: SmallLake) -> None:
    from dataplatform.lake.manifest import RawZone
    from dataplatform.lake.store.object_store import open_folder

    land_recordings(RawZone(open_folder(lake.folders.datalake)), coins_categories)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 0
    cells = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.split()}
    assert cells["warehouse.market_daily"][1] == "fresh"
    assert cells["warehouse.market_daily"][-2:] == ["1", "2025-01-01"]
    assert cells["raw.coins_categories"][1] in ("fresh", "stale")
    assert cells["warehouse.coins"][1:3] == ["not", "built"]
    assert cells["analytics.latest_prices"][1:3] == ["not", "built"]
    assert "CoinGecko API (keyless): 0 calls this month; 5 a minute allowed now." in result.stdout
    assert "Data provided by CoinGecko" in result.stdout
    assert CliRunner().invoke(app, ["status", "--check"]).exit_code == 1


@pytest.mark.parametrize("width", [65, 80, 120])
def test_an_asset_is_one_line_with_its_whole_times_at_any_width(
    lake: SmallLake, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    from dataplatform.lake.manifest import RawZone
    from dataplatform.lake.store.object_store import open_folder

    land_recordings(RawZone(open_folder(lake.folders.datalake)), coins_categories)
    lake.insert("global_market", [{"snapshot_at": at("2025-01-02 03:00")}])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    shown = re.sub(r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, ["status"]).stdout)
    listed = shown.split("Lake: ")[0].splitlines()
    lines = [line.strip() for line in listed if line.strip(" ─")]
    assert all(re.match(r"asset|(raw|warehouse|analytics)\.", line) for line in lines)
    assert max(map(len, listed)) <= width
    (line,) = [line for line in lines if line.startswith("warehouse.global_market")]
    assert line.endswith("2025-01-02 03:00")
    assert any(line.endswith("newest fetch (UTC)") for line in lines)
    assert any("last build" in line for line in lines) == (width >= 100)


@pytest.mark.parametrize(
    ("hours", "limit", "state"),
    [(1, 3.0, "fresh"), (4, 3.0, "stale"), (4000, None, "fresh"), (None, 3.0, "not built")],
)
def test_an_asset_is_stale_beyond_its_hours(
    hours: float | None, limit: float | None, state: str
) -> None:
    built = None if hours is None else NOW - timedelta(hours=hours)
    assert Freshness("t", built, limit_hours=limit).state(NOW) == state


def test_recordings_do_not_age_and_live_data_does(lake: SmallLake, home: Path) -> None:
    recorded = freshness(Settings(), lake.folders, lake.engine)
    assert {one.limit_hours for one in recorded} == {None}
    live = freshness(Settings(), LocalLake(home, "live"), lake.engine)
    limits = {one.asset: one.limit_hours for one in live}
    assert limits["warehouse.market_daily"] == 26.0
    assert limits["raw.coins_markets"] == 3.0
    assert limits["raw.inbox"] is None


def test_the_newest_data_is_a_day_or_a_time(lake: SmallLake) -> None:
    lake.insert("global_market", [{"snapshot_at": at("2025-01-02 03:00")}])
    newest = {one.asset: one.newest for one in freshness(Settings(), lake.folders, lake.engine)}
    assert newest["warehouse.market_daily"] == day("2025-01-01")
    assert newest["warehouse.global_market"] == at("2025-01-02 03:00")
