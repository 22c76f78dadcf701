"""`dp tunnel` as a user has it: processes, signals, exit codes, what is printed."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform_tests.infra.tunnels.conftest import Page
from dataplatform_tests.infra.tunnels.sshd import Sshd, free_port, make_key, until
from infra.spec.model import REFERENCE
from infra.tunnels.state import StateFolder

pytestmark = pytest.mark.stack


def dp(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: its exit code, its answer, its notes."""
    result = CliRunner().invoke(app, ["tunnel", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StateFolder]:
    """A home of its own, whose tunnels are closed at the end."""
    for name in [name for name in os.environ if name.startswith("DATAPLATFORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REFERENCE.parents[2]))
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path / "home"))
    folder = StateFolder(tmp_path / "home")
    yield folder
    folder.stop()


@pytest.fixture
def spec(tmp_path: Path, sshd: Sshd, make_page: Callable[..., Page], state: StateFolder) -> Path:
    """The reference with its machines on the loopback interface, and with two pages on one of them."""
    content = yaml.safe_load(REFERENCE.read_text())
    content["host"] |= {"address": "127.0.0.1", "ssh_user": sshd.user, "ssh_port": sshd.port}
    content["network"] |= {"cidr": "127.10.0.0/24", "gateway": "127.10.0.1"}
    for pool, first in (("masters", "127.10.0.101"), ("workers", "127.10.0.104")):
        content["pools"][pool]["first_ip"] = first
    content["tunnels"] = [
        {"name": name, "local_port": free_port(), "port": make_page(name).port}
        for name in ("grafana", "vault")
    ]
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def start(state: StateFolder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run `dp tunnel up` in the foreground of a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def up(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dataplatform.cli", "tunnel", "up", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield up
    for one in started:
        one.kill()
        one.communicate()


def is_checked(state: StateFolder) -> bool:
    told = state.read()
    return bool(told and told.checked)


def test_up_shows_the_addresses_and_ends_at_ctrl_c(
    spec: Path, state: StateFolder, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("--spec", str(spec))
    assert until(lambda: is_checked(state) or process.poll() is not None, 60)
    told = state.read()
    assert told, process.communicate()
    assert (state.root / "state.json").stat().st_mode & 0o077 == 0
    assert [httpx.get(one.url, trust_env=False).text for one in told.tunnels] == [
        "grafana",
        "vault",
    ]

    code, answer, notes = dp("status")
    assert (code, "connected since" in notes) == (0, True)
    for one in told.tunnels:
        assert one.url in answer

    code, answer, _ = dp("status", "--json")
    assert code == 0
    assert [one["state"] for one in json.loads(answer)["tunnels"]] == ["up", "up"]

    code, _, notes = dp("up", "--spec", str(spec))
    assert code == 1
    assert f"The tunnels are up already (pid {process.pid}). Remedy:" in notes

    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert all(one.url in said for one in told.tunnels)
    assert said.endswith("The tunnels are closed.\n")
    assert "Traceback" not in said
    for one in told.tunnels:
        socket.create_server(("127.0.0.1", one.local_port)).close()
    code, answer, notes = dp("status")
    assert (code, notes) == (1, "Error: No tunnels are up. Remedy: dp tunnel up.\n")
    assert dp("status", "--json")[:2] == (1, "null\n")


def test_a_background_process_is_shown_killed_and_replaced(
    spec: Path, state: StateFolder, sshd: Sshd
) -> None:
    code, answer, notes = dp("up", "--spec", str(spec), "--background", "vault")
    assert code == 0, notes
    assert "vault" in answer
    assert "grafana" not in answer
    first = state.process()
    assert first
    assert dp("up", "--spec", str(spec), "--background")[0] == 1
    first.kill()
    first.wait(10)
    code, _, notes = dp("status")
    assert (code, "No tunnels are up." in notes) == (1, True)
    code, answer, notes = dp("up", "--spec", str(spec), "--background")
    assert code == 0, notes
    assert "grafana" in answer
    second = state.process()
    assert second
    code, _, notes = dp("down")
    assert (code, notes) == (0, "The tunnels are closed.\n")
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE
    assert dp("down")[2] == "No tunnels are up.\n"


def test_what_keeps_a_background_process_from_coming_up_is_told(
    spec: Path, state: StateFolder, ssh_home: Path
) -> None:
    known = (ssh_home / "known_hosts").read_text()
    (ssh_home / "known_hosts").write_text("")
    code, _, notes = dp("up", "--spec", str(spec), "--background")
    assert code == 1
    assert notes.startswith("Error: ")
    assert "is not known" in notes
    assert "is not known" in dp("status")[2]
    (ssh_home / "known_hosts").write_text(known)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"--port=vault={taken.getsockname()[1]}"
        code, _, notes = dp("up", "--spec", str(spec), "--background", port)
        assert code == 1
        assert "(vault): taken by " in notes
        assert f"pid {os.getpid()}" in notes
        code, answer, notes = dp("up", "--spec", str(spec), "--background", port, "--free-ports")
        assert code == 0, notes
        assert "vault" in answer


def test_status_tells_why_tunnels_ended_by_themselves(
    spec: Path, state: StateFolder, sshd: Sshd
) -> None:
    assert dp("up", "--spec", str(spec), "--background")[0] == 0
    process = state.process()
    assert process
    sshd.kill()
    make_key(sshd.host_key)
    sshd.start()
    process.wait(60)
    code, _, notes = dp("status")
    assert code == 1
    assert "No tunnels are up. They ended: " in notes
    assert "ANOTHER KEY" in notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "grafana"], "--port grafana is no NAME=PORT. Remedy: such as"),
        (["--port", "grafana=70000"], "is no NAME=PORT"),
        (["--profile", "absent"], "--profile absent: unknown. Remedy: one of reference"),
        (["--spec", "absent.yaml"], "absent.yaml: can't be read"),
        (["grafna"], "No tunnel is called grafna. Remedy: one of"),
    ],
)
def test_a_mistyped_command_is_one_line(state: StateFolder, options: list[str], said: str) -> None:
    code, answer, notes = dp("up", *options)
    assert (code, answer) == (1, "")
    assert notes.startswith("Error: ")
    assert said in notes


def test_the_number_of_another_process_is_not_taken_for_ours(state: StateFolder) -> None:
    state.root.mkdir(parents=True)
    told = {
        "pid": os.getpid(),
        "started": 1.0,
        "gateway": "",
        "connection": "connected",
        "tunnels": [],
    }
    now = "2026-01-01T00:00:00Z"
    (state.root / "state.json").write_text(json.dumps(told | {"since": now, "written": now}))
    assert state.read()
    assert state.process() is None
    assert dp("down")[2] == "No tunnels are up.\n"
