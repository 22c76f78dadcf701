"""`dp run`: which lake, how long, what it shows. The whole lineage is run elsewhere."""

import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from dagster import (
    AssetCheckResult,
    AssetCheckSpec,
    AssetKey,
    DagsterInstance,
    Definitions,
    Failure,
    MaterializeResult,
    RetryPolicy,
    asset,
)
from dagster._core.utils import make_new_run_id
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.cli.console import UserError
from dataplatform.cli.events import Built, Retried, RunFacts, split_remedy
from dataplatform.cli.home import (
    load_settings,
    new_log,
    prepare_dagster_home,
    unknown_settings,
)
from dataplatform.cli.origin import Choice, Wanted, choose_origin
from dataplatform.cli.run import _show_next, calls_of, estimate_text
from dataplatform.lake.place import LocalLake
from dataplatform.profiles import Settings
from dataplatform.raw.coingecko.coins_categories import endpoint as coins_categories
from dataplatform.raw.coingecko.coins_markets import endpoint as coins_markets
from dataplatform.raw.coingecko.exchanges import endpoint as exchanges
from dataplatform.raw.coingecko.ohlc import endpoint as ohlc
from dataplatform.resources.coingecko import CoinGeckoResource, Reachability
from dataplatform_tests.cli.test_terminal import DP
from dataplatform_tests.coingecko_server import CoinGeckoServer

NOWHERE = "http://127.0.0.1:9"
ASKED = (coins_markets, coins_categories, exchanges, ohlc)
RAW_ONLY = 'key:"raw/coins_categories"'
PROJECT_CONFIG = Path(__file__).parents[2] / "dagster.yaml"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, and an environment that is put back: `dp run` sets variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DATAPLATFORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    before = dict(os.environ)
    yield tmp_path / ".dataplatform"
    os.environ.clear()
    os.environ.update(before)


def dp(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def dp_offline(*arguments: str) -> Result:
    return CliRunner().invoke(
        app, list(arguments), env={"DATAPLATFORM_COINGECKO_BASE_URL": NOWHERE}
    )


def decide(wanted: Wanted = Wanted.AUTO, **settings: Any) -> Choice:
    chosen = Settings(**settings)
    return choose_origin(wanted, chosen, CoinGeckoResource.from_settings(chosen).ping)


def unasked() -> Reachability:
    raise AssertionError("the API was asked")


# ---- live or recorded ----


def test_an_unreachable_api_gives_recorded_data_and_says_why() -> None:
    choice = decide(coingecko_base_url=NOWHERE)
    assert choice.origin == "recorded"
    assert "can't be reached" in str(choice)
    assert "Connection refused" in str(choice)
    assert "\n" not in str(choice)


def test_an_api_that_answers_gives_live_data() -> None:
    with CoinGeckoServer() as server:
        choice = decide(coingecko_base_url=server.url)
    assert choice.origin == "live"
    assert server.url in str(choice)


def test_live_data_that_is_asked_for_is_not_replaced() -> None:
    with pytest.raises(UserError, match=r"Remedy: .*--origin recorded"):
        decide(Wanted.LIVE, coingecko_base_url=NOWHERE)
    with pytest.raises(UserError, match="DATAPLATFORM_ORIGIN"):
        decide(coingecko_base_url=NOWHERE, origin="live")


@pytest.mark.parametrize("traces", ["remembered", "raw file"])
def test_recordings_do_not_take_the_place_of_a_live_lake(home: Path, traces: str) -> None:
    live = LocalLake(home, "live")
    if traces == "remembered":
        live.remember()
    else:
        (live.datalake / "raw").mkdir(parents=True)
        (live.datalake / "raw/page.json.gz").touch()
        LocalLake(home, "recorded").remember()
    before = live.remembered
    result = dp_offline("run", "--select", RAW_ONLY)
    assert result.exit_code == 1
    assert "live lake in .dataplatform is in use" in result.stderr
    assert "Remedy: check the network, or" in result.stderr
    assert "dp run --origin recorded" in result.stderr
    assert live.remembered == before
    assert not (home / "recorded").exists()


def test_what_has_landed_is_built_without_the_api(home: Path) -> None:
    LocalLake(home, "live").remember()
    result = dp_offline("run", "--select", 'key:"raw/inbox"')
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("Live data: nothing that is selected asks the API.")


@pytest.mark.parametrize("profile", ["stack", "cluster"])
def test_only_the_local_profile_falls_back(profile: str) -> None:
    # Asked without a server's budget, which a ping on these profiles is counted by.
    ping = CoinGeckoResource(base_url=NOWHERE).ping
    with pytest.raises(UserError, match="can't be reached") as caught:
        choose_origin(Wanted.AUTO, Settings.model_validate({"profile": profile}), ping)
    assert f"(DATAPLATFORM_PROFILE is {profile})" in str(caught.value)
    assert "asked for" not in str(caught.value)


def test_recordings_that_are_asked_for_ask_nobody() -> None:
    assert choose_origin(Wanted.RECORDED, Settings(), unasked).origin == "recorded"
    assert choose_origin(Wanted.AUTO, Settings(origin="recorded"), unasked).origin == "recorded"


def test_a_refused_key_is_one_error_before_the_run(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CoinGeckoServer(key="right") as server:
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_BASE_URL", server.url)
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "CG-other")
        result = dp("run", "--select", RAW_ONLY)
    assert result.exit_code == 1
    assert server.paths() == ["/ping"]
    assert "the key was refused (error 10002)" in result.stderr
    assert "Remedy: check DATAPLATFORM_COINGECKO_API_KEY" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "CG-other" not in result.output
    assert not (home / "origin").exists()


@pytest.mark.parametrize("tier", ["demo", "pro"])
def test_a_tier_without_its_key_ends_the_run_at_once(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_TIER", tier)
    result = dp_offline("run", "--select", RAW_ONLY)
    assert result.exit_code == 1
    assert f"Error: CoinGecko API ({tier}): this tier needs a key" in result.stderr
    assert "Remedy: set DATAPLATFORM_COINGECKO_API_KEY" in result.stderr


# ---- how long ----


def test_a_long_keyless_run_is_announced_with_what_shortens_it() -> None:
    text = estimate_text(Settings(), calls_of(ASKED, Settings()), 5.0)
    assert text is not None
    assert "about 19 min" in text
    assert "--pages 4" in text
    assert "demo key" in text


def test_one_call_is_no_calls() -> None:
    text = estimate_text(Settings(), 1, 0.4)
    assert text is not None
    assert "up to 1 call, about 2 min" in text


def test_a_short_run_is_not_announced() -> None:
    few = Settings(markets_pages=1, coins=("bitcoin",))
    assert calls_of(ASKED, few) == 1 + 1 + 4 + 1
    assert estimate_text(few, calls_of(ASKED, few), 30.0) is None
    assert calls_of([coins_categories], Settings()) == 1


# ---- settings and Dagster's home ----


def test_dagsters_home_follows_the_projects_configuration(home: Path) -> None:
    made = prepare_dagster_home(Settings())
    assert made == (home / "dagster").resolve()
    assert os.environ["DAGSTER_HOME"] == str(made)
    assert "QueuedRunCoordinator" in (made / "dagster.yaml").read_text()
    (made / "dagster.yaml").unlink()
    (made / "dagster.yaml").symlink_to("gone.yaml")
    prepare_dagster_home(Settings())
    assert (made / "dagster.yaml").exists()


def test_dagsters_home_of_the_servers_is_ours_or_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    config = tmp_path / "dagster.yaml"
    local, servers = Settings(), Settings.model_validate({"profile": "cluster"})
    project = PROJECT_CONFIG.read_text()
    for settings, stores in ((local, False), (servers, True), (servers, True), (local, False)):
        prepare_dagster_home(settings)
        assert ("VaultPostgresStorage" in config.read_text()) is stores
    assert PROJECT_CONFIG.read_text() == project
    config.unlink()
    config.write_text("telemetry:\n  enabled: true\n")
    prepare_dagster_home(servers)
    assert config.read_text() == "telemetry:\n  enabled: true\n"
    assert "stays as it is" in capsys.readouterr().err


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLATFORM_PROFILE", "cloud")
    with pytest.raises(UserError, match="DATAPLATFORM_PROFILE: Input should be 'local'"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"), [("ORIGIN", "recrded"), ("TRINO_URL", "trino.example.org:8080")]
)
@pytest.mark.parametrize("command", [("tables",), ("query", "select 1"), ("views", "status")])
def test_a_wrong_setting_is_one_line_in_each_command(
    name: str, value: str, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"DATAPLATFORM_{name}", value)
    result = dp(*command)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: DATAPLATFORM_{name}: ")
    assert result.stderr.count("\n") == 1


def test_a_mistyped_setting_is_warned_of_once_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATAPLATFORM_TRINO_URI", "http://127.0.0.1:1")
    Path(".env").write_text("DATAPLATFORM_XYZ=1\n")
    load_settings()
    load_settings()
    assert capsys.readouterr().err.splitlines() == [
        "DATAPLATFORM_TRINO_URI is no setting and is ignored. Did you mean DATAPLATFORM_TRINO_URL?",
        "DATAPLATFORM_XYZ is no setting and is ignored. docs/operations.md lists the settings.",
    ]


@pytest.mark.parametrize(
    "name", ["HOME", "home", "VAULT_CREDENTIAL", "MINIO_ROOT_ACCESS_KEY", "TRINO_PLATFORM_TOKEN"]
)
def test_what_the_platform_reads_is_not_warned_of(name: str) -> None:
    assert unknown_settings([f"DATAPLATFORM_{name}", "PATH"]) == ()


@pytest.mark.parametrize(
    "command", [("run", "--origin", "recorded"), ("query", "select 1"), ("prune-runs",), ("ui",)]
)
def test_without_a_stack_each_command_says_so_in_one_line(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_PROFILE", "stack")
    result = dp(*command)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The stack is not up. Remedy: dp stack up, or set ")
    assert result.stderr.count("\n") == 1
    assert not list(Path().rglob("*.log"))


def test_old_logs_are_removed(home: Path) -> None:
    for number in range(30):
        new_log(Settings(), "run").with_name(f"run-2026010{number:02}.log").touch()
    new_log(Settings(), "run").touch()
    assert len(list((home / "logs").glob("run-*.log"))) == 20


# ---- the command ----


def test_a_run_shows_progress_summary_and_attribution(home: Path) -> None:
    first = dp("run", "--origin", "recorded", "--select", RAW_ONLY)
    assert first.exit_code == 0, first.stderr
    assert first.stderr.startswith("Recorded data: ")
    assert "✓ raw.coins_categories" in first.stderr
    assert "raw.coins_categories" in first.stdout
    assert "DEBUG" not in first.output
    assert "1 of 1 assets built, 0 of them unchanged. Data: recorded." in first.stdout
    assert "Data provided by CoinGecko" in first.stdout
    assert 'dp query "select * from analytics.latest_prices limit 5"' in first.stdout
    second = dp("run", "--origin", "recorded", "--select", RAW_ONLY)
    assert "1 of 1 assets built, 1 of them unchanged." in second.stdout
    assert LocalLake(home).origin == "recorded"
    with DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert [run.tags["dataplatform/origin"] for run in instance.get_runs()] == ["recorded"] * 2
        assert instance.has_asset_key(AssetKey(["raw", "coins_categories"]))
    log = max((home / "logs").glob("run-*.log"))
    assert "RUN_SUCCESS" in log.read_text()


def test_the_next_steps_carry_the_profile(capsys: pytest.CaptureFixture[str]) -> None:
    _show_next(Settings())
    assert "DATAPLATFORM_PROFILE" not in capsys.readouterr().out
    _show_next(Settings(profile="stack"))
    assert "Next:\n  export DATAPLATFORM_PROFILE=stack\n  dp query" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--partition", "yesterday"), "YYYY-MM-DD"),
        (("--partition", "2030-01-01"), "There is no partition 2030-01-01"),
        (
            ("--partition", "2025-01-02...2025-01-01"),
            "There is no partition 2025-01-02...2025-01-01",
        ),
        (("--select", 'key:"raw/none"'), "names no asset"),
        (("--select", "((("), "--select ((( names no asset"),
    ],
)
def test_what_the_user_mistyped_is_one_line(
    home: Path, arguments: tuple[str, ...], word: str
) -> None:
    result = dp("run", "--origin", "recorded", *arguments)
    assert result.exit_code == 1
    assert word in result.stderr
    assert "Remedy:" in result.stderr
    assert "Traceback" not in result.output
    assert not (home / "origin").exists()


@pytest.mark.parametrize(
    ("select", "meant"),
    [
        ("coins", 'key:"warehouse/coins"'),
        ("warehouse/coinz", 'key:"warehouse/coins"'),
        ('key:"warehouse/coinz"', 'key:"warehouse/coins"'),
        ("group:views or glbal", 'key:"raw/global"'),
    ],
)
def test_a_mistyped_asset_is_guessed_and_asks_nobody(select: str, meant: str) -> None:
    result = dp_offline("run", "--origin", "live", "--select", select)
    assert result.exit_code == 1
    assert f"--select {select} names no asset. Did you mean {meant}" in result.stderr
    assert "Remedy: a selection such as 'group:tables'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_failure_is_one_panel_with_cause_remedy_and_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dataplatform.raw.recorded.land_recordings",
        lambda *_: (_ for _ in ()).throw(OSError("the disk is full. Remedy: free some.")),
    )
    result = dp("run", "--origin", "recorded", "--select", 'key:"raw/inbox"')
    assert result.exit_code == 1
    assert "Run failed" in result.stderr
    assert "OSError: the disk is full." in result.stderr
    assert "Remedy: free some." in result.stderr
    assert ".log" in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) < 20


def history_asked_for(server: CoinGeckoServer) -> list[float]:
    """Return how many days of bitcoin each request asked for."""
    asked = [seen.query for seen in server.seen if seen.path.endswith("bitcoin/market_chart/range")]
    return [(float(query["to"]) - float(query["from"])) / 86_400 for query in asked]


@pytest.mark.slow
def test_a_new_live_lake_gets_ninety_days_of_history_and_an_old_one_a_day(home: Path) -> None:
    # Processes of their own: definitions take the API's address when they are loaded.
    select = ["run", "--origin", "live", "--select", 'key:"raw/market_chart"']
    chosen = f"{datetime.now(UTC) - timedelta(days=3):%Y-%m-%d}"
    with CoinGeckoServer() as server:
        settings = {"BASE_URL": server.url, "CALLS_PER_MINUTE": "6000"}
        env = {f"DATAPLATFORM_COINGECKO_{name}": value for name, value in settings.items()}
        env |= {"DATAPLATFORM_COINS": "bitcoin", "DATAPLATFORM_HOME": str(home)}
        for days in ([], ["--partition", chosen], []):
            done = subprocess.run(
                [*DP, *select, *days],
                check=False,
                capture_output=True,
                text=True,
                env=os.environ | env,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            assert ("90 days of history" in done.stderr) == (history_asked_for(server) == [90])
    assert history_asked_for(server) == [90, 1, 1]


# ---- what events say ----


def facts_of(definition: Any, facts: RunFacts | None = None) -> RunFacts:
    facts, run_id = facts or RunFacts(), make_new_run_id()
    with DagsterInstance.ephemeral() as instance:
        instance.add_event_listener(run_id, facts.note)
        job = Definitions(assets=[definition]).resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=instance, raise_on_error=False, run_id=run_id)
    return facts


def test_a_failure_tells_cause_and_remedy_of_its_metadata() -> None:
    @asset(key=["raw", "one"])
    def _one() -> None:
        raise Failure("all", metadata={"cause": "no key", "remedy": "set one", "request": "/ping"})

    failed = facts_of(_one).failed[0]
    assert (failed.step, failed.cause, failed.remedy) == ("raw.one", "no key (/ping)", "set one")


def test_a_step_that_is_tried_again_is_no_failure_yet() -> None:
    seen: list[object] = []

    class Watched(RunFacts):
        def note(self, entry: Any) -> Any:
            seen.append(super().note(entry))
            return seen[-1]

    tries: list[int] = []

    @asset(key=["raw", "one"], retry_policy=RetryPolicy(max_retries=1))
    def _one() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("away for a moment")

    facts = facts_of(_one, Watched())
    assert facts.failed == []
    assert Retried("raw.one", "tried again in 0 s: OSError: away for a moment") in seen


def test_a_failed_check_is_a_warning_with_its_figures() -> None:
    @asset(key=["warehouse", "t"], check_specs=[AssetCheckSpec("tidy", asset=["warehouse", "t"])])
    def _table() -> MaterializeResult:
        check = AssetCheckResult(
            check_name="tidy",
            passed=False,
            description="All is tidy.",
            metadata={"violations": 3},
        )
        metadata = {"dagster/row_count": 7, "inserted": 5, "updated": 1, "seconds": 1.5}
        return MaterializeResult(metadata=metadata, check_results=[check])

    facts = facts_of(_table)
    assert facts.built == [Built("warehouse", "t", 7, "+5 ~1", 1.5)]
    assert facts.warnings == ["warehouse.t: All is tidy. Not so: 3 violations (check tidy)"]


def test_a_message_is_split_at_its_remedy() -> None:
    failed = split_remedy("run", "It broke. Remedy: mend it.")
    assert (failed.cause, failed.remedy) == ("It broke.", "mend it.")
    assert split_remedy("run", "It broke.").remedy is None
