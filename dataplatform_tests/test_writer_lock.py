"""Two writers of one lake: the second waits, and is told for whom."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from dataplatform.lake.writer_lock import LakeBusyError, LockLostError, file_lock, postgres_lock
from dataplatform_tests.servers import Postgres, postgres

WAIT = 10.0
NAMES = ("lake live", "lake recorded", "lake 7")
"""Their numbers are positive and negative."""
HOLDER = """
import sys, time
from dataplatform.lake.writer_lock import postgres_lock
with postgres_lock(sys.argv[1], "lake live", "run one", 1.0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_writer_is_told_who_holds_the_lake(tmp_path: Path) -> None:
    with file_lock(tmp_path, "run one", WAIT):
        busy = file_lock(tmp_path, "run two", timeout=0.1)
        with pytest.raises(LakeBusyError, match=r"run one.*Remedy"), busy:
            pass


def test_the_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), file_lock(tmp_path, "run one", WAIT):
        raise ValueError("broken")
    with file_lock(tmp_path, "run two", timeout=0.1):
        assert "run two" in (tmp_path / "writer.holder").read_text()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.mark.stack
@pytest.mark.parametrize("name", NAMES)
def test_on_a_server_the_second_writer_is_told_too(server: Postgres, name: str) -> None:
    dsn = server.url("postgres")
    with postgres_lock(dsn, name, "run one", WAIT) as still_writer:
        still_writer()
        busy = postgres_lock(dsn, name, "run two", 0.1)
        with pytest.raises(LakeBusyError, match=rf"{name}.*run one.*Remedy"), busy:
            pass
    with postgres_lock(dsn, name, "run two", 0.1) as still_writer:
        still_writer()


@pytest.mark.stack
def test_lakes_do_not_wait_for_each_other(server: Postgres) -> None:
    dsn = server.url("postgres")
    with postgres_lock(dsn, NAMES[0], "one", 0.1), postgres_lock(dsn, NAMES[1], "two", 0.1):
        pass


@pytest.mark.stack
def test_a_killed_holder_leaves_the_lock(server: Postgres) -> None:
    dsn = server.url("postgres")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, dsn], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LakeBusyError), postgres_lock(dsn, NAMES[0], "run two", 0.1):
            pass
        holder.kill()
        with postgres_lock(dsn, NAMES[0], "run two", WAIT):
            pass


@pytest.mark.stack
def test_a_holder_whose_connection_ended_learns_it(server: Postgres) -> None:
    """As after a restart of PostgreSQL: the next writer has the lock, the first must not go on."""
    dsn = server.url("postgres")
    with postgres_lock(dsn, NAMES[0], "run one", WAIT) as still_writer:
        _end_sessions_of(server, "run one")
        with postgres_lock(dsn, NAMES[0], "run two", WAIT) as other:
            other()
            with pytest.raises(LockLostError, match="Remedy"):
                still_writer()


def _end_sessions_of(server: Postgres, holder: str) -> None:
    connection = psycopg2.connect(server.url("postgres"))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (holder,),
        )
    connection.close()
    time.sleep(0.2)
