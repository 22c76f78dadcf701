"""The benchmarks' own arithmetic, and that the quickest of them runs as its user runs it."""

import gzip
import io
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from rich.console import Console

from benchmarks.processes import ProgramFailedError, measure
from benchmarks.report import Comparison, Result, save, show
from benchmarks.simulation import Market, land_snapshot, utc
from dataplatform.lake.manifest import Cursor, RawZone
from dataplatform.lake.store.object_store import open_folder
from dataplatform.raw.coingecko.coins_markets import endpoint as coins_markets
from dataplatform_tests.minio.servers import minio

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.fixtures import OperatorProcess
    from dataplatform_tests.kubernetes.node import Node

AT = utc("2025-03-01T07:00")


def comparison(subject: float, goal: float | None, *, more: bool = False) -> Comparison:
    # The outlier moves the mean, not the median.
    samples = [subject, subject, 1000.0]
    return Comparison("time", "s", ("ours", samples), ("theirs", [2.0, 2.0, 2.0]), goal, more)


@pytest.mark.parametrize(
    ("subject", "goal", "more", "verdict"),
    [
        (2.2, 1.15, False, "met"),
        (2.3, 1.15, False, "met"),
        (2.4, 1.15, False, "missed"),
        (2.4, 1.15, True, "met"),
        (2.2, 1.15, True, "missed"),
        (2.2, None, False, ""),
    ],
)
def test_a_verdict_compares_the_ratio_of_medians_with_the_goal(
    subject: float, goal: float | None, more: bool, verdict: str
) -> None:
    one = comparison(subject, goal, more=more)
    assert one.ratio == subject / 2.0
    assert one.verdict == verdict


@pytest.mark.parametrize(("subject", "verdict"), [(4.0, "met"), (4.1, "missed")])
def test_a_goal_may_be_how_much_more_than_the_baseline_is_good(
    subject: float, verdict: str
) -> None:
    one = Comparison("time", "s", ("ours", [subject]), ("theirs", [2.0]), over=2.0)
    assert (one.aim, one.verdict) == ("≤ +2 s", verdict)
    screen = io.StringIO()
    show(Result("overhead", "A title", (one,)), Console(file=screen, width=120))
    assert f"+{subject - 2:.2f} s" in screen.getvalue()


def test_a_result_is_shown_and_saved(tmp_path: Path) -> None:
    faster = comparison(3.0, 1.2, more=True)
    result = Result("speed", "A title", (comparison(3.0, 1.2), faster), ("A note.",))
    screen = io.StringIO()
    show(result, Console(file=screen, width=120))
    shown = screen.getvalue()
    for word in ("A title", "1.50×", "≤ 1.2×", "missed", "≥ 1.2×", "met", "2 s (n=3)", "A note."):
        assert word in shown
    text, picture = save(result, tmp_path / "new")
    saved = json.loads(text.read_text())
    assert [(c["ratio"], c["verdict"]) for c in saved["comparisons"]] == [
        (1.5, "missed"),
        (1.5, "met"),
    ]
    assert saved["comparisons"][0]["subject"] == {"label": "ours", "samples": [3.0, 3.0, 1000.0]}
    assert saved["machine"]["cpus"] >= 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_and_moment_give_the_same_market() -> None:
    assert Market(20).records(AT) == Market(20).records(AT)
    assert Market(20).records(AT) != Market(20, seed=1).records(AT)
    later = Market(20).records(AT + timedelta(hours=1))
    assert [r["id"] for r in later] == [r["id"] for r in Market(20).records(AT)]
    assert [r["current_price"] for r in later] != [
        r["current_price"] for r in Market(20).records(AT)
    ]


def test_a_simulated_slot_is_committed_in_pages_of_declared_fields(tmp_path: Path) -> None:
    zone = RawZone(open_folder(tmp_path))
    manifest = land_snapshot(zone, Market(25), AT, page_size=10)
    assert [file.records for file in manifest.files] == [10, 10, 5]
    (arrival,) = zone.arrivals(Cursor())
    assert zone.manifest(arrival.slot) == manifest
    records = [
        r for f in manifest.files for r in orjson.loads(gzip.decompress(zone.store.get(f.key)))
    ]
    assert records == Market(25).records(AT)
    declared = {field.name for field in coins_markets.fields} | coins_markets.ignored
    assert {name for record in records for name in record} <= declared


def test_a_program_is_measured_with_its_children() -> None:
    child = "import time; held = bytearray(60 << 20); time.sleep(0.6)"
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    )
    usage = measure([sys.executable, "-c", code], {})
    assert usage.output == "done\n"
    assert 0.6 < usage.seconds < 60
    assert usage.peak_mib > 60
    with pytest.raises(ProgramFailedError, match="ended with 3:\nwhy"):
        measure([sys.executable, "-c", "print('why'); raise SystemExit(3)"], {})


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_benchmark_runs(tmp_path: Path) -> None:
    done = benchmarks("load", "--quick", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Heavy libraries imported on the way: []." in done.stdout
    (resolved, imported) = json.loads((tmp_path / "load.json").read_text())["comparisons"]
    assert resolved["verdict"] in {"met", "missed"}
    assert imported["ratio"] > 0.5


def test_an_unknown_benchmark_is_refused_with_those_there_are() -> None:
    done = benchmarks("lode")
    assert done.returncode == 2
    assert "lode" in done.stderr
    assert "lineage" in done.stderr


@pytest.mark.kubernetes
def test_an_application_is_timed_as_a_step_and_by_hand(
    cluster: "Node", operator: "OperatorProcess", spark_namespace: str, tmp_path: Path
) -> None:
    from benchmarks import spark_operator

    with (
        minio(tmp_path / "store") as store,
        spark_operator.prepared(cluster, spark_namespace, store, tmp_path) as bench,
    ):
        crowds = spark_operator.run_at_once(bench, 2)
        times = bench.by_resource(0.5), bench.by_hand(0.5)
    for one in times:
        assert one.start > 0
        assert one.within > 0.5
        assert one.end > 0
    assert all(crowd.requests >= 2 * crowd.size for crowd in crowds)
