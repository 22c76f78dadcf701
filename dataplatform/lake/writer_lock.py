"""One writer of a lake's tables at a time, whichever process or machine it is on."""

import hashlib
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from dataplatform.lake.postgres import connect

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

StillWriter = Callable[[], None]
"""Raises LockLostError where the lock is no longer this process's."""
_POLL_SECONDS: Final = 1.0


class LakeBusyError(RuntimeError):
    """Another process writes this lake's tables."""


class LockLostError(RuntimeError):
    """The lock went with its connection, and another writer may have it: run again."""


@contextmanager
def file_lock(root: Path, holder: str, timeout: float) -> Generator[StillWriter]:
    """Hold the writer lock of a lake of folders.

    Args:
        root: the lake's folder.
        holder: who to name to those who wait.
        timeout: seconds to wait for the present holder.

    Raises:
        LakeBusyError: the holder did not finish in time.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = root / "writer.holder"
    lock = FileLock(root / "writer.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        held_by = name.read_text() if name.exists() else "unknown"
        raise _busy(f"the lake at {root}", held_by, timeout) from None
    try:
        name.write_text(f"{holder} (process {os.getpid()})")
        # The kernel takes it from nobody who lives.
        yield lambda: None
    finally:
        name.unlink(missing_ok=True)
        lock.release()


@contextmanager
def postgres_lock(dsn: str, name: str, holder: str, timeout: float) -> Generator[StillWriter]:
    """Hold an advisory lock in PostgreSQL, which frees it when the connection ends.

    Args:
        dsn: libpq's connection string.
        name: what is locked; those who give the same name exclude each other.
        holder: who to name to those who wait: PostgreSQL knows it as the `application_name`.
        timeout: seconds to wait for the present holder.

    Raises:
        LakeBusyError: the holder did not finish in time.
        psycopg2.OperationalError: PostgreSQL can't be reached.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    connection = connect(dsn, holder)
    try:
        connection.autocommit = True
        _acquire(connection, number, name, timeout)
        yield lambda: _require_held(connection, number, name)
    finally:
        connection.close()


def _require_held(connection: "Connection", number: int, name: str) -> None:
    import psycopg2

    held: object = None
    gone = suppress(psycopg2.OperationalError, psycopg2.InterfaceError)
    with gone, connection.cursor() as cursor:
        cursor.execute(f"{_HOLDER} AND pid = pg_backend_pid()", (number, number))
        held = cursor.fetchone()
    if held is None:
        raise LockLostError(
            f"the lock on the {name} was lost with its connection to PostgreSQL, and another writer"
            " may have it. Nothing is published. Remedy: run it again."
        )


def _acquire(connection: "Connection", number: int, name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (number,))
            if _first(cursor.fetchone()):
                return
            if time.monotonic() >= deadline:
                cursor.execute(_HOLDER, (number, number))
                raise _busy(f"the {name}", str(_first(cursor.fetchone()) or "unknown"), timeout)
            time.sleep(_POLL_SECONDS)


# pg_locks shows a 64-bit key as two halves.
_HOLDER: Final = """
SELECT application_name
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid = ((%s::bigint >> 32) & 4294967295)::oid AND objid = (%s::bigint & 4294967295)::oid
"""


def _first(row: tuple[object, ...] | None) -> object:
    return row[0] if row else None


def _busy(what: str, held_by: str, waited: float) -> LakeBusyError:
    return LakeBusyError(
        f"{what} is being written by {held_by}; waited {waited:.0f} s."
        " Remedy: wait for that run, or end it, and run again."
    )
