"""A database is replaced while nobody else is in, and one that was broken off is replaced again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from dataplatform.backup.databases import Databases
from dataplatform.stack.bootstrap import administered, make_database
from dataplatform.stack.install import install_postgres
from dataplatform.vault.layout import READER
from dataplatform.vault.postgres import PostgresServer
from dataplatform_tests.vault import servers

pytestmark = pytest.mark.stack

# Killed as soon as the dump is in: before, between or after the names change.
KILLED = """
import os, signal, sys
from pathlib import Path
from dataplatform.backup import databases
from dataplatform.vault.postgres import PostgresServer
address, username, password, tools, dump, at = sys.argv[1:]
login = {"username": username, "password": password}
ours = databases.Databases(PostgresServer(address, lambda: login), Path(tools))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
with ours.closed(["catalog", "dagster"]):
    setattr(databases, at, die)
    if at == "nothing":
        ours.restore("dagster", [Path(dump).read_bytes()])
        die()
    ours.restore("dagster", [Path(dump).read_bytes()])
"""


@pytest.fixture
def databases() -> Iterator[Databases]:
    """A server of its own, with the databases catalog and dagster, and a row in dagster."""
    with servers.postgres() as server:
        home = install_postgres(lambda _what: None)
        ours = Databases(PostgresServer(server.address, lambda: server.admin), home / "bin")
        with administered(ours.server, "postgres") as cursor:
            for role in ("catalog", "dagster", "trino", READER):
                cursor.execute(f"CREATE ROLE {role}")
            for name in ("catalog", "dagster"):
                make_database(cursor, name)
        change(ours, "CREATE TABLE kept AS SELECT 1 AS a")
        yield ours


def change(databases: Databases, statement: str) -> None:
    with administered(databases.server, "dagster") as cursor:
        cursor.execute(statement)


def names(databases: Databases) -> set[str]:
    with administered(databases.server, "postgres") as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
        return {name for (name,) in cursor.fetchall()}


def test_nobody_gets_in_meanwhile(databases: Databases) -> None:
    dump = list(databases.dump("dagster"))
    both = ["catalog", "dagster"]
    with administered(databases.server, "dagster") as left, databases.closed(both):
        with pytest.raises(psycopg2.OperationalError):
            left.execute("SELECT 1")
        databases.restore("dagster", dump)
        with pytest.raises(psycopg2.OperationalError, match="not currently accepting"):
            change(databases, "SELECT 1")
        assert not databases.accepts("dagster")
    change(databases, "SELECT a FROM kept")


@pytest.mark.parametrize("at", ["_check", "_exists", "grant_reading", "nothing"])
def test_one_that_was_killed_is_done_again(databases: Databases, tmp_path: Path, at: str) -> None:
    dump = tmp_path / "dagster.dump"
    dump.write_bytes(b"".join(databases.dump("dagster")))
    change(databases, "DROP TABLE kept")
    login = databases.server.superuser()
    place = (databases.server.address, login["username"], login["password"], databases.tools)
    command = [sys.executable, "-c", KILLED, *map(str, place), str(dump), at]
    assert subprocess.run(command, env=os.environ, check=False).returncode == -signal.SIGKILL
    assert {"catalog", "dagster"} <= names(databases)
    with databases.closed(["catalog", "dagster"]):
        databases.restore("dagster", [dump.read_bytes()])
    change(databases, "SELECT a FROM kept")
    assert not any(name.endswith(("_restored", "_replaced")) for name in names(databases))


def test_a_database_that_is_gone_is_made(databases: Databases) -> None:
    dump = list(databases.dump("dagster"))
    with administered(databases.server, "postgres") as cursor:
        cursor.execute("DROP DATABASE dagster WITH (FORCE)")
    assert databases.used() == "a restoration of dagster was broken off"
    with databases.closed(["catalog", "dagster"]):
        databases.restore("dagster", dump)
    change(databases, "SELECT a FROM kept")
