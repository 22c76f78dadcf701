"""`dp run` as it looks in a terminal: a real pseudo-terminal, a real Ctrl-C."""

import io
import logging
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

import psutil
import pytest
from dagster import EventLogEntry

from dataplatform.cli.progress import ProgressView
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault

pytestmark = pytest.mark.slow
COLUMNS = 60
UNSAID = "op 'tables' did not yield or return expected outputs {'x'}. Did you forget to return?"
DP = [sys.executable, "-W", "ignore", "-c", "from dataplatform.cli import app; app()"]


@dataclass
class Terminal:
    """A program in a terminal of its own, 60 columns wide."""

    process: psutil.Popen
    descriptor: int
    raw: str = ""

    @property
    def text(self) -> str:
        """What was shown, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)

    def read_until(self, wanted: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while wanted not in self.text:
            assert time.monotonic() < end, self.text
            assert self._read(), f"ended without {wanted!r}: {self.text}"

    def press_ctrl_c(self) -> None:
        os.write(self.descriptor, b"\x03")

    def ended(self, seconds: float) -> int:
        """Read to the end; returns the exit code."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, self.text
        return self.process.wait(seconds)

    def _read(self) -> bool:
        if not select.select([self.descriptor], [], [], 1)[0]:
            return True
        try:
            self.raw += os.read(self.descriptor, 65536).decode(errors="replace")
        except OSError:
            # Nobody holds the other end any more.
            return False
        return True


def terminal(arguments: list[str], folder: Path, **settings: str) -> Terminal:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DATAPLATFORM_", "DAGSTER_"))}
    for name in ("COLUMNS", "NO_COLOR", "CI"):
        own.pop(name, None)
    process = psutil.Popen(
        [*DP, *arguments],
        cwd=folder,
        env={**own, "TERM": "xterm", "DATAPLATFORM_HOME": str(folder / "home"), **settings},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # The terminal of the new session, whose Ctrl-C is a signal to it.
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    return Terminal(process, ours)


def test_without_a_terminal_lines_stay_in_columns(tmp_path: Path) -> None:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DATAPLATFORM_", "DAGSTER_"))}
    done = subprocess.run(
        [*DP, "run", "--origin", "recorded", "--select", 'key:"raw/global"'],
        env=own | {"DATAPLATFORM_HOME": str(tmp_path), "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("✓"))
    assert re.fullmatch(r"✓ raw\.global {30,} 2 rows  2 of 2 slots new +[\d.]+ s", line)
    assert "\x1b" not in done.stderr + done.stdout


@pytest.fixture
def server() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer() as running:
        yield running


def test_a_run_shows_its_progress_and_keeps_logs_off_the_screen(tmp_path: Path) -> None:
    shown = terminal(["run", "--origin", "recorded", "--select", "group:raw"], tmp_path)
    assert shown.ended(120) == 0
    assert "8/8" in shown.text
    assert "✓ raw.inbox" in shown.text
    # The table is for those who did not see the lines.
    assert not re.search(r"asset +rows", shown.text)
    assert "8 of 8 assets built" in " ".join(shown.text.split())
    assert "dagster - " not in shown.text
    (log,) = (tmp_path / "home/logs").iterdir()
    assert "dagster - " in log.read_text()


def test_in_a_narrow_terminal_text_gives_way_and_figures_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    screen = io.StringIO()
    view = ProgressView(screen, 31)
    with view.live():
        for text in ("coin_metrics_daily: 7,541 rows (+7,541 ~0 -0) in 7.4 s", UNSAID):
            view.on_event(EventLogEntry(None, logging.INFO, text, "run", 0.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    last = shown.strip().splitlines()[-1].split("\r")[-1]
    assert "0/31" in last
    assert "coin_metrics" in last
    assert len(last) <= COLUMNS


def test_tables_are_built_from_what_has_landed_where_one_endpoint_fails(
    tmp_path: Path, server: CoinGeckoServer
) -> None:
    server.script(Fault(403, b'{"error": "not today"}', path="/global"))
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DATAPLATFORM_", "DAGSTER_"))}
    settings = {
        "DATAPLATFORM_HOME": str(tmp_path),
        "DATAPLATFORM_COINGECKO_BASE_URL": server.url,
        "DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE": "60000",
    }
    select = '+key:"warehouse/coins" or +key:"warehouse/global_market"'
    done = subprocess.run(
        [*DP, "run", "--select", select],
        cwd=tmp_path,
        env=own | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "✗ raw.global" in done.stderr
    assert "Tables and views are built from what has landed." in done.stderr
    assert "✓ warehouse.coins" in done.stderr
    assert "Run failed" in done.stderr
    assert "raw.global failed." in done.stderr
    assert "Not built" not in done.stderr


def test_ctrl_c_within_a_step_ends_the_run_at_once_and_the_next_one_goes_on(
    tmp_path: Path, server: CoinGeckoServer
) -> None:
    server.script(Fault(kind="late", path="/global", delay=60))
    settings = {
        "DATAPLATFORM_COINGECKO_BASE_URL": server.url,
        "DATAPLATFORM_COINGECKO_CALLS_PER_MINUTE": "60000",
    }
    command = ["run", "--origin", "live", "--select", 'key:"raw/global"']
    shown = terminal(command, tmp_path, **settings)
    shown.read_until("raw.global")
    while "/global" not in server.paths():
        time.sleep(0.05)
    children = shown.process.children(recursive=True)
    pressed = time.monotonic()
    shown.press_ctrl_c()
    shown.read_until("Stopping …", seconds=2)
    assert shown.ended(20) == 130
    assert time.monotonic() - pressed < 10
    assert "Interrupted. What is published stays; `dp run` goes on" in " ".join(shown.text.split())
    for unwanted in ("Traceback", "Error", "failed", "✗"):
        assert unwanted not in shown.text
    assert not any(child.is_running() for child in children)
    again = terminal(command, tmp_path, **settings)
    assert again.ended(60) == 0
    assert "1 of 1 assets built" in " ".join(again.text.split())
