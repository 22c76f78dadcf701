"""Where the rows of a budget lie and whose clock counts: a file on one machine, PostgreSQL for many.

pyrate-limiter 4 has buckets for both. Its rates are fixed when a bucket is made, so a 429 met by one
process cannot slow the others, and it keeps no count of the month. Its bucket in PostgreSQL takes
the time before it has the lock, stores it in the zone of the session, refuses instead of waiting
where another process is at the table, makes that table itself, and guards the making by `hash()` of
a text, which differs between processes.
"""

import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dataplatform.lake.postgres import LOGIN_REFUSED, connect

if TYPE_CHECKING:
    from psycopg2 import Error as PostgresError
    from psycopg2.extensions import connection as Connection

DATABASE: Final = "api_budget"
"""PostgreSQL's, apart from Dagster's: a restored backup of that one must not bring back old counts."""

Row = Mapping[str, Any]
_ENSURE: Final = "INSERT INTO pace (name) VALUES (?) ON CONFLICT (name) DO NOTHING"


class BudgetError(RuntimeError):
    """The budget can't be asked, and no call is made without it."""


class BudgetUnavailableError(BudgetError):
    """PostgreSQL is away, or busy; it may be back soon."""


class BudgetNotSetUpError(BudgetError):
    """There is no budget in PostgreSQL, or the platform may not use it: a person must set it up."""


@dataclass(frozen=True)
class Held:
    """The rows of one budget, which nobody else reads or writes meanwhile.

    Attributes:
        now: Unix seconds, by the clock that all who share the budget go by.
        pace: the row of `pace`.
    """

    now: float
    pace: Row
    _execute: Callable[[str, tuple[object, ...]], Row | None] = field(repr=False)

    def execute(self, statement: str, *values: object) -> Row | None:
        """Run a statement whose parameters are written `?`; return its first row, if it has one."""
        return self._execute(statement, values)


class BudgetStore(ABC):
    """Keeps the rows of budgets for all who share them."""

    @abstractmethod
    def hold(self, name: str) -> AbstractContextManager[Held]:
        """Give the rows of one budget; what is changed within is kept whole, or not at all.

        Raises:
            BudgetError: they can't be had.
        """


class SqliteStore(BudgetStore):
    """A file, for the processes of one machine.

    Args:
        database: the file; made when first used.
        clock: Unix seconds.
    """

    def __init__(self, database: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @contextmanager
    def hold(self, name: str) -> Generator[Held]:
        """Open the file and hold its lock; a connection costs 0.1 ms, a call seconds."""
        self._database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._database, timeout=30, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row

            def _execute(statement: str, values: tuple[Any, ...]) -> Row | None:
                row = db.execute(statement, values).fetchone()
                return dict(row) if row else None

            _execute("BEGIN IMMEDIATE", ())
            if not _execute("SELECT 1 FROM sqlite_master WHERE name = 'months'", ()):
                # executescript would commit the transaction that guards it.
                for statement in filter(str.strip, schema().split(";")):
                    _execute(statement, ())
            _execute(_ENSURE, (name,))
            pace = _execute("SELECT * FROM pace WHERE name = ?", (name,)) or {}
            yield Held(self._clock(), pace, _execute)
            _execute("COMMIT", ())


class PostgresStore(BudgetStore):
    """PostgreSQL, for processes on any machine; its clock counts, not theirs.

    One connection a transaction: nothing is kept open while a caller waits, which may take minutes,
    and a new login is used as soon as Vault has it.

    Args:
        dsn: returns libpq's connection string; asked again where the login is refused.
    """

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._find_dsn = dsn
        self._dsn: str | None = None

    @contextmanager
    def hold(self, name: str) -> Generator[Held]:
        """Lock the budget's row until the end; PostgreSQL frees it when this process is gone."""
        import psycopg2
        from psycopg2.extras import RealDictCursor

        try:
            with (
                closing(self._connect()) as connection,
                connection,
                connection.cursor(cursor_factory=RealDictCursor) as cursor,
            ):

                def _execute(statement: str, values: tuple[object, ...]) -> Row | None:
                    cursor.execute(statement.replace("?", "%s"), values)
                    return cursor.fetchone() if cursor.description else None

                _execute(_ENSURE, (name,))
                pace = _execute("SELECT * FROM pace WHERE name = ? FOR UPDATE", (name,)) or {}
                # Asked once the row is locked: now() is when the transaction began to wait for it.
                yield Held((_execute(_CLOCK, ()) or {})["now"], pace, _execute)
        except psycopg2.Error as error:
            if LOGIN_REFUSED.search(str(error)):
                self._dsn = None
            raise _meaning(error) from error

    def _connect(self) -> "Connection":
        # Remembered, as what is under way goes on while Vault is sealed.
        self._dsn = self._dsn or self._find_dsn()
        connection = connect(self._dsn, "dataplatform API budget", **_LIMITS)
        # In any stricter level a transaction that waited for another would fail.
        connection.set_session(isolation_level="READ COMMITTED")
        return connection


_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
_LIMITS: Final = {
    "lock_timeout": "20s",
    "statement_timeout": "30s",
    # Of a process that was stopped, not killed.
    "idle_in_transaction_session_timeout": "10s",
}


def _meaning(error: "PostgresError") -> BudgetError:
    # The server's own sentence; of a connection that failed, what each address said.
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if error.pgcode in _MISSING_CODES or _MISSING.search(said):
        return BudgetNotSetUpError(
            f"The API budget is not set up in PostgreSQL ({said}); no call is made without it."
            f" Remedy: dp stack up, or make the database {DATABASE} as docs/stack.md says."
        )
    return BudgetUnavailableError(
        f"The API budget in PostgreSQL can't be asked ({said}); no call is made without it. Remedy:"
        " see that PostgreSQL runs (`dp stack status`), and that the secret postgres/dagster in Vault"
        " is a login that it knows; then run again."
    )


_MISSING_CODES: Final = ("42P01", "42501")
"""No such table, and no right to it; of a connection that failed there is no code."""
_MISSING: Final = re.compile(rf'database "{DATABASE}" does not exist|permission denied')


@cache
def schema() -> str:
    """Return the statements that make the tables where there are none."""
    return Path(__file__).with_name("budget.sql").read_text()
