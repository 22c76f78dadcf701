"""One writer of a lake's tables at a time, whichever process or machine it is on."""

import hashlib
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_POLL_SECONDS: Final = 1.0
_KEEPALIVES: Final = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A holder whose machine is gone is noticed within a minute."""


class LakeBusyError(RuntimeError):
    """Another process writes this lake's tables."""


@contextmanager
def file_lock(root: Path, holder: str, timeout: float) -> Generator[None]:
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
        yield
    finally:
        name.unlink(missing_ok=True)
        lock.release()


@contextmanager
def postgres_lock(dsn: str, name: str, holder: str, timeout: float) -> Generator[None]:
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
    import psycopg2

    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    # The server cuts names at 63 bytes, and says so.
    connection = psycopg2.connect(dsn, application_name=holder[:63], **_KEEPALIVES)
    try:
        connection.autocommit = True
        _acquire(connection, number, name, timeout)
        yield
    finally:
        connection.close()


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
  AND classid = ((%s >> 32) & 4294967295)::oid AND objid = (%s & 4294967295)::oid
"""


def _first(row: tuple[object, ...] | None) -> object:
    return row[0] if row else None


def _busy(what: str, held_by: str, waited: float) -> LakeBusyError:
    return LakeBusyError(
        f"{what} is being written by {held_by}; waited {waited:.0f} s."
        " Remedy: wait for that run, or end it, and run again."
    )
