"""The API's budget in a real PostgreSQL: shared exactly, by its clock, and never gone around."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from uuid import uuid4

import psycopg2
import pytest
from psycopg2.extensions import make_dsn

from dataplatform.addresses import in_database
from dataplatform.backup.databases import Databases
from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import (
    DATABASE,
    BudgetNotSetUpError,
    BudgetUnavailableError,
    PostgresStore,
)
from dataplatform.lake.api.client import ApiClient, Patience
from dataplatform.stack.bootstrap import (
    administered,
    bootstrap_budget,
    grant_reading,
    make_database,
)
from dataplatform.vault.layout import READER
from dataplatform.vault.postgres import PostgresServer
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.raw.conftest import Waits
from dataplatform_tests.servers import free_port, postgres, postgres_programs

pytestmark = pytest.mark.stack

PASSWORD = "of-the-platform"
PLATFORM = "dagster_a"
# When each turn's interval ends, as whoever took it wrote it down.
NOTE_TURNS = """
CREATE TABLE turns (name TEXT, ends DOUBLE PRECISION);
CREATE FUNCTION note_turn() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN INSERT INTO turns VALUES (NEW.name, NEW.next_at); RETURN NEW; END $$;
CREATE TRIGGER note_turn AFTER UPDATE ON pace FOR EACH ROW
WHEN (NEW.next_at > OLD.next_at) EXECUTE FUNCTION note_turn();
"""
# argv: dsn, name, calls a minute, calls, by how many seconds this process's clock is wrong.
CALLER = """
import sys, time
dsn, name, per_minute, calls, wrong = sys.argv[1:]
right = time.time
time.time = lambda: right() + float(wrong)
from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import PostgresStore
budget = SharedBudget(PostgresStore(lambda: dsn), name, float(per_minute))
print("ready", flush=True)
for _ in range(int(calls)):
    budget.acquire()
    print("called", flush=True)
"""
HOLDER = """
import sys, time
from dataplatform.lake.api.budget_store import PostgresStore
with PostgresStore(lambda: sys.argv[1]).hold(sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL that was set up as the stack's is."""

    admin: PostgresServer

    def dsn(self, password: str = PASSWORD, database: str = DATABASE) -> str:
        """How the platform reaches a database."""
        address = in_database(self.admin.address, database)
        return make_dsn(address, user=PLATFORM, password=password)

    def budget(self, name: str, per_minute: float = 600) -> SharedBudget:
        """A budget as a pod opens it."""
        return SharedBudget(PostgresStore(self.dsn), name, per_minute)

    def ask(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Ask, as the administrator, the budget's database."""
        with administered(self.admin, DATABASE) as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def turns(self, name: str) -> list[float]:
        """When each turn ended."""
        rows = self.ask("SELECT ends FROM turns WHERE name = %s ORDER BY 1", name)
        return [float(str(ends)) for (ends,) in rows]


@pytest.fixture(scope="module")
def pg() -> Iterator[Server]:
    with postgres() as running:
        admin = PostgresServer(running.address, lambda: running.admin)
        admin.set_login(PLATFORM, PASSWORD, group="dagster")
        admin.set_login("trino_a", PASSWORD, group="trino")
        with administered(admin, "postgres") as cursor:
            cursor.execute(f"CREATE ROLE {READER}")
            make_database(cursor, "dagster")
            grant_reading(cursor)
        bootstrap_budget(admin)
        server = Server(admin)
        server.ask(NOTE_TURNS)
        yield server


@pytest.fixture
def name() -> str:
    """A budget that no other test uses."""
    return uuid4().hex


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a program, which is ended with the test, and wait for its first line."""
    started: list[subprocess.Popen[str]] = []

    def _start(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline()
        return process

    yield _start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("wrong", [(0, 0, 0, 0), (0, -40 * 86_400, 40 * 86_400, 5)])
def test_processes_share_one_budget_exactly_whatever_their_clocks(
    pg: Server, name: str, wrong: tuple[int, ...], start: Callable[..., subprocess.Popen[str]]
) -> None:
    # 40 ms: shorter than it takes to notice that somebody else has just gone.
    callers = [start(CALLER, pg.dsn(), name, 1500, 12, seconds) for seconds in wrong]
    for caller in callers:
        said, _ = caller.communicate(timeout=120)
        assert (caller.returncode, said.count("called")) == (0, 12)
    turns = pg.turns(name)
    assert len(turns) == 48
    assert min(later - earlier for earlier, later in pairwise(turns)) >= 0.04 - 1e-6
    months = pg.ask("SELECT count FROM months WHERE name = %s", name)
    assert months == [(48,)], "each call once, all in the month that PostgreSQL has"
    assert pg.budget(name).status().calls_this_month == 48


def test_one_that_waits_for_another_goes_by_the_time_at_which_it_is_let_in(
    pg: Server, name: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    pg.budget(name).status()
    holder = start(HOLDER, pg.dsn(), name)
    caller = start(CALLER, pg.dsn(), name, 60, 1, 0)
    time.sleep(1)
    let_in = time.time()
    holder.kill()
    caller.communicate(timeout=30)
    assert pg.turns(name)[-1] - 1.0 >= let_in


def test_a_killed_process_leaves_nothing_locked(
    pg: Server, name: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    start(HOLDER, pg.dsn(), name).kill()
    began = time.monotonic()
    pg.budget(name).acquire()
    assert time.monotonic() - began < 5


def test_a_stopped_process_is_put_out(
    pg: Server, name: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    start(HOLDER, pg.dsn(), name).send_signal(signal.SIGSTOP)
    began = time.monotonic()
    pg.budget(name).acquire()
    assert time.monotonic() - began < 20


def test_one_that_is_killed_while_it_waits_costs_the_others_no_turn(
    pg: Server, name: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    budget = pg.budget(name, per_minute=15)
    budget.acquire()
    began = time.monotonic()
    caller = start(CALLER, pg.dsn(), name, 15, 1, 0)
    time.sleep(0.5)
    caller.kill()
    budget.acquire()
    assert time.monotonic() - began < 6
    assert budget.status().calls_this_month == 2


def test_a_429_met_by_one_stops_the_others(pg: Server, name: str) -> None:
    pg.budget(name).slow_down(retry_after=1.5)
    status = pg.budget(name).status()
    assert 1 < status.blocked_seconds <= 1.5
    assert status.current_per_minute == 300
    began = time.monotonic()
    pg.budget(name).acquire()
    assert time.monotonic() - began > 1


def test_a_clock_of_postgresql_that_was_set_back_keeps_nobody_waiting(
    pg: Server, name: str
) -> None:
    budget = pg.budget(name, per_minute=60)
    budget.acquire()
    pg.ask("UPDATE pace SET next_at = next_at + 86400 WHERE name = %s", name)
    began = time.monotonic()
    budget.acquire()
    assert 0.9 < time.monotonic() - began < 5


def test_what_the_api_says_of_its_limits_binds_all(pg: Server, name: str) -> None:
    pg.budget(name).learn(per_minute=6000, remaining=1000)
    pg.budget(name).acquire()
    pg.budget(name).count()
    pg.budget(name).uncount()
    status = pg.budget(name).status()
    assert (status.per_minute, status.remaining, status.calls_this_month) == (6000, 999, 1)
    assert pg.budget(name).learned_within(60)


def client(api: CoinGeckoServer, dsn: str, waits: Waits) -> ApiClient:
    budget = SharedBudget(PostgresStore(lambda: dsn), "x", 600)
    return ApiClient(api.url, budget, {}, Patience(attempts=3), sleep=waits)


def test_without_postgresql_no_call_is_made(server: CoinGeckoServer, waits: Waits) -> None:
    nowhere = f"host=127.0.0.1 port={free_port()} dbname={DATABASE} user=x password={PASSWORD}"
    api = client(server, nowhere, waits)
    for fetch in (api.fetch, api.fetch_once):
        with pytest.raises(BudgetUnavailableError, match=r"can't be asked.*Remedy: ") as caught:
            fetch("/ping")
        assert PASSWORD not in str(caught.value)
    assert len(waits) == 2, "it may be back soon"
    assert server.seen == []


@pytest.mark.parametrize("lacking", ["database", "table", "right"])
def test_without_a_budget_no_call_is_made(
    pg: Server, server: CoinGeckoServer, waits: Waits, lacking: str
) -> None:
    renamed = {
        "database": "ALTER DATABASE api_budget RENAME TO other",
        "table": "ALTER TABLE pace RENAME TO other",
        "right": "REVOKE ALL ON pace FROM dagster",
    }
    back = {
        "database": "ALTER DATABASE other RENAME TO api_budget",
        "table": "ALTER TABLE other RENAME TO pace",
        "right": "GRANT SELECT, INSERT, UPDATE, DELETE ON pace TO dagster",
    }
    within = "postgres" if lacking == "database" else DATABASE
    with administered(pg.admin, within) as cursor:
        cursor.execute(renamed[lacking])
        api = client(server, pg.dsn(), waits)
        try:
            with pytest.raises(BudgetNotSetUpError, match=r"Remedy: dp stack up"):
                api.fetch("/ping")
        finally:
            cursor.execute(back[lacking])
    assert waits == [], "only a person can mend it"
    assert server.seen == []


def test_a_rotated_login_is_asked_for_again(
    pg: Server, server: CoinGeckoServer, waits: Waits, name: str
) -> None:
    logins = [pg.dsn("what it was"), pg.dsn()]
    budget = SharedBudget(PostgresStore(lambda: logins.pop(0)), name, 600)
    ApiClient(server.url, budget, {}, Patience(attempts=3), sleep=waits).fetch("/ping")
    assert len(waits) == len(server.seen) == budget.status().calls_this_month == 1


def test_the_platform_may_use_the_budget_and_no_more(pg: Server) -> None:
    with closing(psycopg2.connect(pg.dsn())) as platform:
        for statement in ("CREATE TABLE x (a int)", "DROP TABLE pace", "TRUNCATE months"):
            with (
                pytest.raises(psycopg2.Error, match=r"permission denied|must be owner"),
                platform,
                platform.cursor() as cursor,
            ):
                cursor.execute(statement)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(pg.dsn(), user="trino_a")


def test_neither_a_restored_backup_nor_a_second_setup_forgets_what_was_used(
    pg: Server, name: str
) -> None:
    databases = Databases(pg.admin, postgres_programs())
    dump = list(databases.dump("dagster"))
    pg.budget(name).acquire()
    pg.budget(name).slow_down(retry_after=300)
    with databases.closed(["dagster"]):
        databases.restore("dagster", dump)
    bootstrap_budget(pg.admin)
    status = pg.budget(name).status()
    assert status.calls_this_month == 1
    assert status.blocked_seconds > 200
