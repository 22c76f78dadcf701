"""The servers of one machine: up, answering, back after a kill, gone after down."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.stack.bootstrap import MINIO_USERS, POSTGRES_LOGINS
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import SERVERS, Given, Plan, StackError, is_free
from dataplatform.stack.runner import Stack
from dataplatform.vault.consumers import MinioUser
from dataplatform.vault.postgres import PostgresServer
from dataplatform.vault.rotation import Rotation
from dataplatform_tests.stack.fixtures import RunningStack, quiet
from dataplatform_tests.stack.worker import worker

pytestmark = [pytest.mark.stack, pytest.mark.faults]

GIB = 1024**3
SECRETS = (
    *(f"minio/{name}" for name in ("root", "kms", *MINIO_USERS)),
    *(f"postgres/{name}" for name in ("superuser", *POSTGRES_LOGINS)),
)
PUBLIC = frozenset({"access_key", "username"})
"""Names of users are no secret."""


def secret(stack: RunningStack, path: str) -> dict[str, str]:
    with closing(open_vault(stack.plan, "setup")) as vault:
        return dict(vault.read(path).values)


def until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def processes_of(stack: Stack) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DATAPLATFORM_STACK") == str(stack.layout.root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_every_server_runs_within_the_memory_of_a_laptop(stack: RunningStack) -> None:
    found = stack.stack.status()
    assert [(one.name, one.state) for one in found] == [(name, "running") for name in SERVERS]
    assert sum(one.memory for one in found) < 3 * GIB


def test_all_servers_and_a_run_with_its_spark_fit_into_8_gib(
    stack: RunningStack, tmp_path: Path
) -> None:
    env = stack.env | {"DATAPLATFORM_ORIGIN": "recorded", "DAGSTER_HOME": str(stack.dagster_home)}
    stack.drop("exchanges")
    peak, ran = 0, set()
    with worker(env, tmp_path) as runs:
        run = runs.begin("raw/exchanges", "warehouse/exchanges")
        while not run.done():
            held = memory_of(processes_of(stack.stack))
            own = memory_of(set(psutil.Process().children(recursive=True)) - set(held))
            peak = max(peak, sum(held.values()) + sum(own.values()))
            ran |= {process.name() for process in own}
            time.sleep(0.5)
        assert run.result().success, run.result().errors
    assert "java" in ran, "the JVM of Spark was not looked at"
    assert GIB < peak < 8 * GIB


def memory_of(processes: Iterable[psutil.Process]) -> dict[psutil.Process, int]:
    """Return each process's share of the memory in use, in bytes."""
    found = {}
    for process in processes:
        with suppress(psutil.Error):
            process.name()  # Known from here on, though the process may end.
            found[process] = process.memory_full_info().pss
    return found


def test_every_port_listens_on_loopback_only(stack: RunningStack) -> None:
    listening = [
        connection.laddr
        for process in processes_of(stack.stack)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.port for address in listening} >= set(stack.plan.ports.values())
    # A JVM listens on loopback in IPv6's notation.
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_the_clients_of_postgres_are_of_its_version(stack: RunningStack) -> None:
    login, address = secret(stack, "postgres/dagster"), urlsplit(stack.endpoints["postgres_url"])
    tool = stack.plan.homes["postgres"] / "bin" / "pg_dump"
    command = [tool, "-h", str(address.hostname), "-p", str(address.port), "-U", login["username"]]
    dump = subprocess.run(
        [*command, "dagster"],
        env=os.environ | {"PGPASSWORD": login["password"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PostgreSQL database dump complete" in dump.stdout, dump.stderr


@pytest.mark.parametrize("server", ["vault", "postgres", "minio", "catalog", "trino"])
def test_a_killed_server_is_back(stack: RunningStack, server: str) -> None:
    killed = stack.kill(server)
    assert until(lambda: stack.status(server).pid not in (None, killed), 30)
    assert until(lambda: stack.status(server).state == "running", 120)


def test_a_second_up_changes_nothing(stack: RunningStack) -> None:
    def state() -> tuple[object, ...]:
        root = stack.layout.root
        files = {
            path: path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.relative_to(root).parts[0] not in ("logs", "data")
        }
        with closing(open_vault(stack.plan, "setup")) as vault:
            versions = {path: vault.last_version(path) for path in SECRETS}
        return files, versions, [one.pid for one in stack.stack.status()]

    before = state()
    started = time.monotonic()
    stack.stack.up(quiet)
    assert state() == before
    assert time.monotonic() - started < 20


def test_a_restart_after_a_rotation_takes_the_new_secret(stack: RunningStack) -> None:
    with closing(open_vault(stack.plan, "setup")) as vault:
        root = vault.read("minio/root").values
        user = MinioUser("catalog", stack.endpoints["s3_endpoint"], lambda: root)
        before = vault.read(user.path).values["access_key"]
        Rotation(vault, timedelta(0)).rotate(user)
        after = vault.read(user.path).values["access_key"]
    stack.restart("catalog")
    process = psutil.Process(stack.status("catalog").pid)
    assert before != after
    assert process.environ()["CATALOG_S3_ACCESS_KEY"] == after


ALLOWED = {
    "vault-root-token": "sets Vault up again; a cluster's operator would keep it elsewhere",
}
"""Where a secret may stand in clear text, and why."""


def test_no_file_holds_a_secret_but_those_listed(stack: RunningStack) -> None:
    values = {
        value.encode()
        for path in SECRETS
        for name, value in secret(stack, path).items()
        if name not in PUBLIC
    }
    values.add(stack.layout.root_token.read_bytes())
    root = stack.layout.root
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and any(value in path.read_bytes() for value in values)
    }
    assert found == set(ALLOWED)
    for process in processes_of(stack.stack):
        line = "\0".join(process.cmdline()).encode()
        assert not any(value in line for value in values)


def test_what_grants_access_is_readable_by_its_owner_only(stack: RunningStack) -> None:
    assert stack.layout.root.stat().st_mode & 0o077 == 0
    for path in stack.layout.root.glob("*secret-id"):
        assert path.stat().st_mode & 0o077 == 0
    assert stack.layout.seal_key.stat().st_mode & 0o077 == 0


@pytest.fixture
def small(stack: RunningStack) -> Iterator[Stack]:
    """A second stack that starts Vault and PostgreSQL, and uses the first one's other servers."""
    addresses = stack.endpoints
    given = Given.model_construct(
        s3_endpoint=addresses["s3_endpoint"],
        catalog_uri=addresses["catalog_uri"],
        trino_url=addresses["trino_url"],
    )
    with tempfile.TemporaryDirectory(prefix="dp-small-") as home:
        small = Stack(Path(home), given)
        with pytest.raises(StackError, match=r"Your minio at .* minio/root, or .* minio/catalog"):
            small.up(quiet, free_ports=True)
        with closing(open_vault(Plan.read(small.layout), "setup")) as vault:
            for name in MINIO_USERS:
                vault.write(f"minio/{name}", secret(stack, f"minio/{name}"), cas=0)
        small.up(quiet)
        yield small
        # initdb's files belong to another user where we are root.
        small.down(quiet, purge=True)
        assert not small.layout.root.exists()


def test_a_server_of_the_users_own_is_used_and_not_started(
    small: Stack, stack: RunningStack
) -> None:
    states = {one.name: (one.state, one.pid is not None) for one in small.status()}
    assert states == {
        "vault": ("running", True),
        "postgres": ("running", True),
        "minio": ("given", False),
        "catalog": ("given", False),
        "trino": ("given", False),
    }
    assert f'"trino_url": "{stack.endpoints["trino_url"]}"' in small.layout.endpoints.read_text()


def test_a_vault_of_the_users_own_gives_a_new_server_the_secrets_it_has(
    stack: RunningStack,
) -> None:
    others = {name: value for name, value in stack.endpoints.items() if name != "postgres_url"}
    given = Given.model_validate(others)
    with tempfile.TemporaryDirectory(prefix="dp-small-") as home:
        other = Stack(Path(home), given)
        try:
            other.up(quiet, free_ports=True)
            address = json.loads(other.layout.endpoints.read_text())["postgres_url"]
            login = secret(stack, "postgres/dagster")
            server = PostgresServer(f"{address}/dagster", dict)
            with closing(server.connect(login["username"], login["password"])) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT current_user")
                assert cursor.fetchone() == ("dagster",)
        finally:
            other.down(quiet, purge=True)
    assert not other.layout.root_token.exists()


def test_down_leaves_no_process_and_no_port(small: Stack) -> None:
    ports = [one.address.rsplit(":", 1)[1] for one in small.status() if one.pid]
    assert len(processes_of(small)) >= 3
    small.down(quiet)
    assert processes_of(small) == []
    assert all(is_free(int(port)) for port in ports)
    assert not small.layout.endpoints.exists()


def test_up_after_down_keeps_ports_and_secrets_and_unseals_vault(small: Stack) -> None:
    before = [(one.name, one.address) for one in small.status()]
    secret_id = small.layout.secret_id("platform").read_text()
    small.down(quiet)
    small.up(quiet)
    assert [(one.name, one.address) for one in small.status()] == before
    assert small.layout.secret_id("platform").read_text() == secret_id


def test_servers_of_a_killed_supervisor_are_ended(small: Stack) -> None:
    os.kill(int(small.layout.supervisor_pid.read_text()), signal.SIGKILL)
    small.down(quiet)
    assert until(lambda: processes_of(small) == [], 10)


def test_status_says_what_is_stopped_and_fails(
    small: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(small.layout.root.parent))
    assert CliRunner().invoke(app, ["stack", "status"]).exit_code == 0
    small.down(quiet)
    answer = CliRunner().invoke(app, ["stack", "status"])
    assert answer.exit_code == 1
    assert "stopped" in answer.stdout
    assert "dead" not in answer.stdout


def test_logs_shows_what_a_server_said(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(stack.home))
    answer = CliRunner().invoke(app, ["stack", "logs", "trino", "-n", "400"])
    assert "SERVER STARTED" in answer.stdout
