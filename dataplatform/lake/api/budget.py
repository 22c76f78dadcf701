"""One budget of API calls for every process on this machine.

The limit is per key or per address, so each process alone can't know it. The state is one row in a
small SQLite file: when the next call may start, how fast calls may follow each other, and until
when all must wait. Calls are spaced evenly: keyless CoinGecko answered 20 of 20 calls that were
20 s apart and 7 of 22 that were 4 s apart.

pyrate-limiter 4 was tried for it: its rates are fixed when a bucket is made, so a 429 met by one
process cannot slow the others, and it keeps no count of the month.
"""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RECOVERY_SECONDS: Final = 600.0
"""How long a slowed budget takes from standstill back to its full rate."""
SLOWEST: Final = 1 / 16
"""The fraction of the full rate below which a budget is not slowed further."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS pace (
    name TEXT PRIMARY KEY,
    next_at REAL NOT NULL DEFAULT 0,        -- when the next call may start, Unix seconds
    blocked_until REAL NOT NULL DEFAULT 0,  -- nobody calls before
    slowed_to REAL NOT NULL DEFAULT 1,      -- fraction of the full rate, at slowed_at
    slowed_at REAL NOT NULL DEFAULT 0,
    per_minute REAL,                        -- what the API says the limit is
    credits INTEGER,                        -- calls counted here plus those the API says are left
    learned_at REAL
);
CREATE TABLE IF NOT EXISTS calls (
    name TEXT, minute INTEGER, count INTEGER NOT NULL, PRIMARY KEY (name, minute)
);
CREATE TABLE IF NOT EXISTS months (
    name TEXT, month TEXT, count INTEGER NOT NULL, PRIMARY KEY (name, month)
);
"""


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
    """Paces calls; safe between threads and processes.

    Args:
        database: the SQLite file; made when first used.
        name: whose budget: one an API host and tier.
        per_minute: the full rate.
        per_month: the limit of the month, where there is one.
        clock: Unix seconds.
        sleep: waits that many seconds.
    """

    def __init__(
        self,
        database: Path,
        name: str,
        per_minute: float,
        per_month: int | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Describe the budget; the file is not touched yet."""
        self._database = database
        self._name = name
        self._per_minute = per_minute
        self._per_month = per_month
        self._clock = clock
        self._sleep = sleep

    def acquire(self) -> None:
        """Wait for this caller's turn and count the call.

        A 429 that another process meets while this one waits makes it wait on.
        """
        start = self._reserve()
        while (wait := start - self._clock()) > 0:
            self._sleep(wait)
            if self._blocked_until() > start:
                # Not simply at the block's end: all that wait would call at once.
                start = self._reserve()
        self.count()

    def slow_down(self, retry_after: float) -> None:
        """Answer a 429: nobody calls for `retry_after` seconds, then at half the rate.

        The 429s of one storm count once: a rate is not halved again while all are waiting.
        """
        with self._transaction() as db:
            now = self._clock()
            pace = _pace(db, self._name)
            if now >= pace["blocked_until"]:
                slowed = max(SLOWEST, _recovered(pace, now) / 2)
                db.execute(
                    "UPDATE pace SET slowed_to = ?, slowed_at = ? WHERE name = ?",
                    (slowed, now + retry_after, self._name),
                )
            db.execute(
                "UPDATE pace SET blocked_until = max(blocked_until, ?) WHERE name = ?",
                (now + retry_after, self._name),
            )

    def learn(self, per_minute: float, remaining: int) -> None:
        """Remember for all processes the limits that the API itself names."""
        with self._transaction() as db:
            now = self._clock()
            _pace(db, self._name)
            counted = _one(db, "SELECT count FROM months", self._name, "month", _month(now))
            db.execute(
                "UPDATE pace SET per_minute = ?, credits = ?, learned_at = ? WHERE name = ?",
                (per_minute, counted + remaining, now, self._name),
            )

    def learned_within(self, seconds: float) -> bool:
        """Return whether some process learned the limit at most `seconds` ago."""
        with self._transaction() as db:
            learned_at = _pace(db, self._name)["learned_at"]
        return learned_at is not None and self._clock() - learned_at <= seconds

    def status(self) -> BudgetStatus:
        """Return what was used and what is left."""
        with self._transaction() as db:
            now = self._clock()
            pace = _pace(db, self._name)
            minute = _one(db, "SELECT count FROM calls", self._name, "minute", int(now // 60))
            month = _one(db, "SELECT count FROM months", self._name, "month", _month(now))
        full = pace["per_minute"] or self._per_minute
        month_limit = pace["credits"] or self._per_month
        return BudgetStatus(
            calls_this_minute=minute,
            calls_this_month=month,
            per_minute=full,
            current_per_minute=full * _recovered(pace, now),
            per_month=self._per_month,
            remaining=None if month_limit is None else max(0, month_limit - month),
            blocked_seconds=max(0.0, pace["blocked_until"] - now),
        )

    def _reserve(self) -> float:
        with self._transaction() as db:
            now = self._clock()
            pace = _pace(db, self._name)
            start = max(now, pace["next_at"], pace["blocked_until"])
            rate = (pace["per_minute"] or self._per_minute) * _recovered(pace, start)
            db.execute(
                "UPDATE pace SET next_at = ? WHERE name = ?", (start + 60 / rate, self._name)
            )
        return start

    def _blocked_until(self) -> float:
        with self._transaction() as db:
            return _pace(db, self._name)["blocked_until"]

    def count(self) -> None:
        """Count one call; `acquire` does so itself. What fails counts as well at the API."""
        now = self._clock()
        minute = int(now // 60)
        with self._transaction() as db:
            _increment(db, "calls", "minute", self._name, minute)
            _increment(db, "months", "month", self._name, _month(now))
            db.execute("DELETE FROM calls WHERE minute < ?", (minute - 60,))

    def uncount(self) -> None:
        """Take the last call back: it never reached the API, which counts what it has seen."""
        now = self._clock()
        with self._transaction() as db:
            _decrement(db, "calls", "minute", self._name, int(now // 60))
            _decrement(db, "months", "month", self._name, _month(now))

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """Open the file, hold the write lock, commit; a connection costs 0.1 ms, a call seconds."""
        self._database.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._database, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            db.execute("BEGIN IMMEDIATE")
            if _one_table_less(db):
                # executescript would commit the transaction that guards it.
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
            yield db
            db.execute("COMMIT")
        finally:
            db.close()


def _one_table_less(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'months'").fetchone()


def _pace(db: sqlite3.Connection, name: str) -> sqlite3.Row:
    db.execute("INSERT OR IGNORE INTO pace (name) VALUES (?)", (name,))
    return db.execute("SELECT * FROM pace WHERE name = ?", (name,)).fetchone()


def _recovered(pace: sqlite3.Row, now: float) -> float:
    """Return the fraction of the full rate at `now`: it grows back evenly since the last 429."""
    since = max(0.0, now - pace["slowed_at"])
    return min(1.0, pace["slowed_to"] + since / RECOVERY_SECONDS)


def _one(db: sqlite3.Connection, select: str, name: str, column: str, value: object) -> int:
    row = db.execute(f"{select} WHERE name = ? AND {column} = ?", (name, value)).fetchone()
    return row["count"] if row else 0


def _increment(db: sqlite3.Connection, table: str, column: str, name: str, value: object) -> None:
    db.execute(
        f"INSERT INTO {table} (name, {column}, count) VALUES (?, ?, 1) "  # noqa: S608 (our names)
        f"ON CONFLICT (name, {column}) DO UPDATE SET count = count + 1",
        (name, value),
    )


def _decrement(db: sqlite3.Connection, table: str, column: str, name: str, value: object) -> None:
    db.execute(
        f"UPDATE {table} SET count = max(0, count - 1) WHERE name = ? AND {column} = ?",  # noqa: S608
        (name, value),
    )


def _month(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")
