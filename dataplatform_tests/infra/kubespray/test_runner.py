"""The runner, by real Ansible against this machine: failures, interruptions, runs again."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from dataplatform_tests.infra.kubespray.conftest import (
    HERE,
    PlaybookFactory,
    RunnerFactory,
)
from infra.kubespray.environment import LOCK
from infra.kubespray.errors import (
    BusyError,
    InterruptedRunError,
    PlaybookError,
    TaskFailedError,
    UnreachableError,
)
from infra.kubespray.events import Event, HostResult, PlaybookStarted, PlayStarted, TaskStarted
from infra.kubespray.operations import OURS
from infra.kubespray.runner import Playbook

pytestmark = [pytest.mark.ansible, pytest.mark.timeout(600)]
# A closed port of this machine.
NOWHERE = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_become": False}


def copy(path: Path, content: str = "done") -> dict[str, Any]:
    return {"name": "Write", "ansible.builtin.copy": {"dest": str(path), "content": content}}


def fail(message: str, **keys: Any) -> dict[str, Any]:
    return {"name": "Break", "ansible.builtin.fail": {"msg": message}, **keys}


def shell(command: str) -> dict[str, Any]:
    return {"name": "Wait", "ansible.builtin.command": command}


def results(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(e.host, e.task, e.status) for e in events if isinstance(e, HostResult)]


def test_a_playbook_is_told_of_as_it_goes_and_leaves_a_log(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory, events: list[Event], tmp_path: Path
) -> None:
    runner = make_runner(told=events.append)
    playbook = make_playbook(copy(tmp_path / "{{ inventory_hostname }}-{{ word }}"))
    log = runner.run(Playbook(playbook.path, {"word": "said"}), "first")
    assert events[:3] == [PlaybookStarted(1), PlayStarted("Test", 1), TaskStarted("Write")]
    assert sorted(results(events)) == [("one", "Write", "changed"), ("two", "Write", "changed")]
    assert (tmp_path / "one-said").read_text() == "done"
    assert "PLAY RECAP" in log.read_text()
    assert "Write ---" in log.read_text()  # How long each task took.
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.name.endswith("-first.log")


def test_a_limit_leaves_the_other_machines_alone(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory, events: list[Event], tmp_path: Path
) -> None:
    playbook = make_playbook(copy(tmp_path / "{{ inventory_hostname }}"))
    make_runner(told=events.append).run(Playbook(playbook.path, limit=("two",)), "limited")
    assert results(events) == [("two", "Write", "changed")]
    assert not (tmp_path / "one").exists()


def test_a_failed_task_is_named_and_a_run_again_goes_on_from_there(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory, events: list[Event], tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    check = {
        "name": "Check",
        "ansible.builtin.command": f"test -e {mended}",
        "changed_when": False,
    }
    playbook = make_playbook(copy(tmp_path / "first"), check, copy(tmp_path / "last"))
    runner = make_runner({"one": HERE}, told=events.append)
    with pytest.raises(TaskFailedError, match=r"one failed at “Check”.*Log: .*Remedy: ") as caught:
        runner.run(playbook, "broken")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "last").exists()
    mended.touch()
    events.clear()
    runner.run(playbook, "again")
    assert results(events) == [
        ("one", "Write", "ok"),
        ("one", "Check", "ok"),
        ("one", "Write", "changed"),
    ]


def test_a_failure_says_what_the_program_said_and_what_to_do(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory
) -> None:
    script = "echo 'cp: No space left on device' >&2; exit 1"
    task = {"name": "Copy", "ansible.builtin.shell": script}
    with pytest.raises(
        TaskFailedError,
        match=r"2 failures in all.*No space left.*Remedy: give the machine a larger",
    ):
        make_runner().run(make_playbook(task), "full")


def test_a_machine_that_cannot_be_reached_is_told_from_one_that_fails(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory
) -> None:
    runner = make_runner({"gone": NOWHERE})
    with pytest.raises(
        UnreachableError, match=r"gone can't be reached.*Connection refused.*dp infra status"
    ) as caught:
        runner.run(make_playbook(shell("true")), "unreachable")
    assert caught.value.exit_code == 4


def test_failures_that_the_playbook_answers_are_none(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory, events: list[Event]
) -> None:
    rescued = {"block": [fail("first try")], "rescue": [shell("true")]}
    playbook = make_playbook(fail("never mind", ignore_errors=True), rescued)
    make_runner({"one": HERE}, told=events.append).run(playbook, "answered")
    failed = [e for e in events if isinstance(e, HostResult) and e.status == "failed"]
    assert [(e.message, e.expected) for e in failed] == [
        ("never mind", True),
        ("first try", True),
    ]


def test_what_a_task_hides_stays_hidden(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory
) -> None:
    runner = make_runner({"one": HERE})
    hidden = make_playbook(fail("the token is {{ token }}", no_log=True))
    with pytest.raises(TaskFailedError, match="hides what this task says") as caught:
        runner.run(Playbook(hidden.path, {"token": "t0p-secret"}), "hidden")
    log = next((runner.state / "logs").iterdir())
    assert "t0p-secret" not in f"{caught.value}{log.read_text()}"


def test_a_playbook_that_cannot_be_read_is_not_a_failed_task(
    make_runner: RunnerFactory, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yml"
    path.write_text("- hosts: all\n  taks: []\n")
    with pytest.raises(PlaybookError, match="'taks' is not a valid attribute") as caught:
        make_runner().run(Playbook(path), "bad")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_all_that_it_started_and_can_be_run_again(
    number: signal.Signals,
    make_runner: RunnerFactory,
    make_playbook: PlaybookFactory,
    tmp_path: Path,
) -> None:
    def interrupt(event: Event) -> None:
        if event == TaskStarted("Wait"):
            os.kill(os.getpid(), number)

    seconds = f"61.{os.getpid()}"
    playbook = make_playbook(
        copy(tmp_path / "first"), shell(f"sleep {seconds}"), copy(tmp_path / "last")
    )
    began = time.monotonic()
    with pytest.raises(InterruptedRunError, match="Remedy: run the command again") as caught:
        make_runner({"one": HERE}, told=interrupt).run(playbook, "interrupted")
    assert time.monotonic() - began < 60
    assert caught.value.exit_code == 130
    assert (tmp_path / "first").exists()
    assert not (tmp_path / "last").exists()
    assert str(playbook.path) not in _command_lines()
    make_runner({"one": HERE}).run(make_playbook(copy(tmp_path / "last")), "again")
    assert (tmp_path / "last").exists()


def _command_lines() -> str:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return "\n".join(found)


def test_a_second_run_on_the_same_cluster_is_refused(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory
) -> None:
    refused: list[BusyError] = []
    playbook = make_playbook(shell("true"))

    def meanwhile(event: Event) -> None:
        if isinstance(event, PlayStarted):
            with pytest.raises(BusyError, match="wait for its end") as caught:
                make_runner({"one": HERE}).run(playbook, "second")
            refused.append(caught.value)

    make_runner({"one": HERE}, told=meanwhile).run(playbook, "first")
    assert len(refused) == 1


def test_settings_of_the_users_own_ansible_and_python_do_not_matter(
    make_runner: RunnerFactory, make_playbook: PlaybookFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "no_such_callback")
    monkeypatch.setenv("ANSIBLE_INVENTORY", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    make_runner({"one": HERE}).run(make_playbook(shell("true")), "own")


def test_old_logs_make_room(make_runner: RunnerFactory, make_playbook: PlaybookFactory) -> None:
    runner = make_runner({"one": HERE})
    logs = runner.state / "logs"
    logs.mkdir()
    for number in range(30):
        (logs / f"2020{number:02}.log").touch()
    newest = runner.run(make_playbook(shell("true")), "new")
    kept = sorted(path.name for path in logs.iterdir())
    assert len(kept) == 20
    assert kept[-1] == newest.name
    assert kept[0] == "202011.log"


def test_our_playbooks_have_no_error_that_ansible_can_see(ansible: Path, tmp_path: Path) -> None:
    playbooks = sorted(OURS.glob("*.yml"))
    assert [p.name for p in playbooks] == ["kubeconfig.yml", "prerequisites.yml"]
    command = [ansible / "bin/ansible-playbook", "--syntax-check", "-i", "localhost,", *playbooks]
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ansible_is_the_locked_one_and_in_an_environment_of_its_own(ansible: Path) -> None:
    code = "import ansible.release as r, sys; print(r.__version__, sys.prefix)"
    shown = subprocess.check_output([ansible / "bin/python", "-c", code], text=True, cwd="/")
    version, prefix = shown.split()
    assert f"\nansible-core=={version} " in LOCK.read_text()
    assert Path(prefix) == ansible
    assert Path(sys.prefix) not in ansible.parents
