"""One budget of API calls for every process that shares a store of it.

The limit is per key or per address, so each process alone can't know it. Its state is a row: when the
next call may start, how fast calls may follow each other, and until when all must wait. Calls are
spaced evenly: keyless CoinGecko answered 20 of 20 calls that were 20 s apart and 7 of 22 that were
4 s apart.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from dataplatform.lake.api.budget_store import BudgetStore, Held, Row

RECOVERY_SECONDS: Final = 600.0
"""How long a slowed budget takes from standstill back to its full rate."""
SLOWEST: Final = 1 / 16
"""The fraction of the full rate below which a budget is not slowed further."""


@dataclass(frozen=True)
class BudgetStatus:
    """What was used of a budget, and how fast calls may go now.

    Attributes:
        calls_this_minute: calls sent in the current calendar minute, by all processes.
        calls_this_month: calls sent in the current calendar month (UTC), by all processes.
        per_minute: the configured or learned limit.
        current_per_minute: the pace in force; below `per_minute` after a 429.
        per_month: the limit of the month, where the tier has one.
        remaining: calls left this month, as the API says or else as counted here.
        blocked_seconds: how long everybody must still wait.
    """

    calls_this_minute: int
    calls_this_month: int
    per_minute: float
    current_per_minute: float
    per_month: int | None
    remaining: int | None
    blocked_seconds: float


class SharedBudget:
    """Paces calls; safe between all threads, processes and machines that share the store.

    What keeps the store from answering is raised as a `BudgetError`, and the call is not made.

    Args:
        store: where the budget is kept, and whose clock counts.
        name: whose budget: one an API host and tier.
        per_minute: the full rate.
        per_month: the limit of the month, where there is one.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        store: BudgetStore,
        name: str,
        per_minute: float,
        per_month: int | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Describe the budget; the store is not touched yet."""
        self._store = store
        self._name = name
        self._per_minute = per_minute
        self._per_month = per_month
        self._sleep = sleep

    def acquire(self) -> None:
        """Wait for this caller's turn and count the call.

        Nothing is reserved: who is killed while it waits costs the others no turn, and a 429 that
        another process meets meanwhile makes it wait on.
        """
        while (wait := self._claim()) > 0:
            self._sleep(wait)

    def _claim(self) -> float:
        """Take and count a turn, if one is due; else return the seconds until then."""
        with self._store.hold(self._name) as held:
            interval = 60 / (self._full(held.pace) * _recovered(held.pace, held.now))
            # A clock that was set back must not keep everybody waiting for the time it was.
            next_at = min(held.pace["next_at"], held.now + interval)
            wait = max(next_at, held.pace["blocked_until"]) - held.now
            if wait <= 0:
                next_at = held.now + interval
                _count(held, self._name)
            held.execute("UPDATE pace SET next_at = ? WHERE name = ?", next_at, self._name)
        return wait

    def slow_down(self, retry_after: float) -> None:
        """Answer a 429: nobody calls for `retry_after` seconds, then at half the rate.

        The 429s of one storm count once: a rate is not halved again while all are waiting.
        """
        with self._store.hold(self._name) as held:
            until = held.now + retry_after
            if held.now >= held.pace["blocked_until"]:
                held.execute(
                    "UPDATE pace SET slowed_to = ?, slowed_at = ? WHERE name = ?",
                    max(SLOWEST, _recovered(held.pace, held.now) / 2),
                    until,
                    self._name,
                )
            held.execute(
                "UPDATE pace SET blocked_until = ? WHERE name = ?",
                max(held.pace["blocked_until"], until),
                self._name,
            )

    def learn(self, per_minute: float, remaining: int) -> None:
        """Remember for all processes the limits that the API itself names."""
        with self._store.hold(self._name) as held:
            held.execute(
                "UPDATE pace SET per_minute = ?, credits = ?, learned_at = ? WHERE name = ?",
                per_minute,
                self._of_month(held) + remaining,
                held.now,
                self._name,
            )

    def learned_within(self, seconds: float) -> bool:
        """Return whether some process learned the limit at most `seconds` ago."""
        with self._store.hold(self._name) as held:
            learned_at = held.pace["learned_at"]
            return learned_at is not None and held.now - learned_at <= seconds

    def status(self) -> BudgetStatus:
        """Return what was used and what is left."""
        with self._store.hold(self._name) as held:
            minute, month = self._of_minute(held), self._of_month(held)
        full = self._full(held.pace)
        month_limit = held.pace["credits"] or self._per_month
        return BudgetStatus(
            calls_this_minute=minute,
            calls_this_month=month,
            per_minute=full,
            current_per_minute=full * _recovered(held.pace, held.now),
            per_month=self._per_month,
            remaining=None if month_limit is None else max(0, month_limit - month),
            blocked_seconds=max(0.0, held.pace["blocked_until"] - held.now),
        )

    def count(self) -> None:
        """Count one call; `acquire` does so itself. What fails counts as well at the API."""
        with self._store.hold(self._name) as held:
            _count(held, self._name)

    def uncount(self) -> None:
        """Take the last call back: it never reached the API, which counts what it has seen."""
        with self._store.hold(self._name) as held:
            for table, column, period in _periods(held.now):
                held.execute(
                    f"UPDATE {table} SET count = count - 1"  # noqa: S608  our names
                    f" WHERE name = ? AND {column} = ? AND count > 0",
                    self._name,
                    period,
                )

    def _full(self, pace: Row) -> float:
        return pace["per_minute"] or self._per_minute

    def _of_minute(self, held: Held) -> int:
        select = "SELECT count FROM calls WHERE name = ? AND minute = ?"
        row = held.execute(select, self._name, _minute(held.now))
        return row["count"] if row else 0

    def _of_month(self, held: Held) -> int:
        select = "SELECT count FROM months WHERE name = ? AND month = ?"
        row = held.execute(select, self._name, _month(held.now))
        return row["count"] if row else 0


def _count(held: Held, name: str) -> None:
    for table, column, period in _periods(held.now):
        held.execute(
            f"INSERT INTO {table} (name, {column}, count) VALUES (?, ?, 1)"  # noqa: S608  our names
            f" ON CONFLICT (name, {column}) DO UPDATE SET count = {table}.count + 1",
            name,
            period,
        )
    held.execute("DELETE FROM calls WHERE name = ? AND minute < ?", name, _minute(held.now) - 60)


def _recovered(pace: Row, now: float) -> float:
    """Return the fraction of the full rate at `now`: it grows back evenly since the last 429."""
    since = max(0.0, now - pace["slowed_at"])
    return min(1.0, pace["slowed_to"] + since / RECOVERY_SECONDS)


def _periods(now: float) -> tuple[tuple[str, str, object], ...]:
    """Return the table, column and present value of each period that calls are counted by."""
    return ("calls", "minute", _minute(now)), ("months", "month", _month(now))


def _minute(now: float) -> int:
    return int(now // 60)


def _month(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
