import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataplatform.lake.api.budget import RECOVERY_SECONDS, SharedBudget
from dataplatform.lake.api.budget_store import SqliteStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(
    tmp_path: Path, clock: Clock, per_minute: float = 6, month: int | None = None
) -> SharedBudget:
    store = SqliteStore(tmp_path / "b.sqlite", clock)
    return SharedBudget(store, "x", per_minute, month, sleep=clock.sleep)


def starts(budget: SharedBudget, clock: Clock, calls: int) -> list[float]:
    first, times = clock.now, []
    for _ in range(calls):
        budget.acquire()
        times.append(round(clock.now - first, 3))
    return times


def test_calls_are_spaced_evenly(tmp_path: Path, clock: Clock) -> None:
    assert starts(make(tmp_path, clock), clock, 4) == [0, 10, 20, 30]


def test_two_users_of_one_file_share_one_pace(tmp_path: Path, clock: Clock) -> None:
    one, other = make(tmp_path, clock), make(tmp_path, clock)
    first = clock.now
    one.acquire()
    other.acquire()
    one.acquire()
    assert clock.now - first == 20


def test_a_429_stops_everybody_and_halves_the_pace(tmp_path: Path, clock: Clock) -> None:
    one, other = make(tmp_path, clock), make(tmp_path, clock)
    one.acquire()
    one.slow_down(retry_after=60)
    assert other.status().blocked_seconds == 60
    assert other.status().current_per_minute == 3
    first, second = starts(other, clock, 2)
    assert first == 60
    assert second - first == pytest.approx(20, rel=0.01)


def test_a_storm_of_429s_counts_once(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock)
    for _ in range(5):
        budget.slow_down(retry_after=30)
    assert budget.status().current_per_minute == 3
    clock.now += 31
    budget.slow_down(retry_after=30)
    assert budget.status().current_per_minute < 2


def test_the_pace_never_stops_altogether(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock)
    for _ in range(50):
        budget.slow_down(retry_after=1)
        clock.now += 1
    assert budget.status().current_per_minute >= 6 / 16


def test_the_pace_recovers_little_by_little(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock)
    budget.slow_down(retry_after=10)
    paces = []
    for _ in range(6):
        paces.append(budget.status().current_per_minute)
        clock.now += 10 + RECOVERY_SECONDS / 8
    assert paces == sorted(paces)
    assert paces[0] == 3
    assert paces[1] < 6
    assert paces[-1] == 6


def test_a_waiting_caller_waits_on_when_another_meets_a_429(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock)
    budget.acquire()
    first = clock.now

    def sleep(seconds: float) -> None:
        if clock.now == first:
            make(tmp_path, clock).slow_down(retry_after=100)
        clock.sleep(seconds)

    waiting = SharedBudget(SqliteStore(tmp_path / "b.sqlite", clock), "x", 6, sleep=sleep)
    waiting.acquire()
    assert clock.now - first == 100


def test_a_call_taken_back_is_not_counted(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock, month=100)
    for _ in range(2):
        budget.acquire()
    budget.uncount()
    assert (budget.status().calls_this_month, budget.status().remaining) == (1, 99)
    for _ in range(3):
        budget.uncount()
    assert (budget.status().calls_this_month, budget.status().calls_this_minute) == (0, 0)


def test_calls_are_counted_by_minute_and_month(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock, per_minute=60, month=100)
    clock.now = 1_800_000_000 - 1_800_000_000 % 60
    for _ in range(61):
        budget.acquire()
    status = budget.status()
    assert (status.calls_this_month, status.remaining) == (61, 39)
    assert status.calls_this_minute == 1
    clock.now += 40 * 86_400
    assert budget.status().calls_this_month == 0
    assert budget.status().remaining == 100


def test_what_the_api_says_of_its_limits_binds(tmp_path: Path, clock: Clock) -> None:
    budget = make(tmp_path, clock)
    assert not budget.learned_within(3600)
    budget.learn(per_minute=600, remaining=1000)
    budget.acquire()
    status = make(tmp_path, clock).status()
    assert (status.per_minute, status.remaining) == (600, 999)
    assert budget.learned_within(3600)
    clock.now += 3601
    assert not budget.learned_within(3600)


_PROCESS = """
import sys, time
from pathlib import Path
from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import SqliteStore
budget = SharedBudget(SqliteStore(Path(sys.argv[1])), "x", per_minute=1200)
for _ in range(10):
    budget.acquire()
    print(time.time(), flush=True)
"""


def test_two_processes_keep_one_pace(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROCESS, str(tmp_path / "b.sqlite")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(float(line) for p in running for line in p.communicate(timeout=30)[0].split())
    assert len(times) == 20
    # 20 calls at 0.05 s: alone each process would be done in 0.45 s.
    assert times[-1] - times[0] >= 0.90
    budget = SharedBudget(SqliteStore(tmp_path / "b.sqlite"), "x", 1200)
    assert budget.status().calls_this_month == 20
    assert time.time() - times[-1] < 30
