"""`dp infra inventory` and `dp infra kubernetes`, the latter by real Ansible on a stand-in of Kubespray."""

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner, Result

from dataplatform.cli import app
from dataplatform.cli.playbook_progress import PlaybookView
from dataplatform_tests.infra.kubespray.conftest import git
from infra.kubespray import environment, pins, source
from infra.kubespray.events import HostResult, PlaybookStarted, PlayStarted, TaskStarted
from infra.kubespray.inventory import state_folder

NAME = "dataplatform"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return state_folder(NAME)


def dp(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["infra", *arguments], input=answer)


def test_the_inventory_is_written_and_its_files_are_named(state: Path, tmp_path: Path) -> None:
    done = dp("inventory", "--profile", "small")
    assert done.exit_code == 0
    names = [Path(line) for line in done.stdout.splitlines()]
    assert names[0] == state / "inventory/hosts.yaml"
    assert all(path.is_file() for path in names)
    elsewhere = dp("inventory", "--output", str(tmp_path / "here"), "--direct")
    assert elsewhere.exit_code == 0
    everyone = yaml.safe_load((tmp_path / "here/group_vars/all.yaml").read_text())
    assert "ansible_ssh_common_args" not in everyone


def test_machines_that_the_inventory_loses_are_named(state: Path) -> None:
    dp("inventory")
    done = dp("inventory", "--profile", "small")
    assert "No longer in the inventory: dp-master-2, dp-master-3, dp-worker-3" in done.stderr
    assert "kubectl delete node" in done.stderr


def test_a_wrong_specification_is_one_line(state: Path, tmp_path: Path) -> None:
    done = dp("inventory", "--spec", str(tmp_path / "nowhere.yaml"))
    assert done.exit_code == 1
    assert "can't be read" in done.stderr
    assert "Remedy: " in done.stderr
    assert "Traceback" not in done.stderr


# ---- on a stand-in of Kubespray ----

PLAY: dict[str, Any] = {"name": "Stand-in", "hosts": "kube_node", "gather_facts": False}


def say(text: str) -> dict[str, Any]:
    return {"name": "Say", "ansible.builtin.debug": {"msg": text}}


PLAYBOOKS: dict[str, dict[str, Any]] = {
    "playbooks/boilerplate.yml": say("version {{ kube_version }}, {{ kube_memory_reserved }}"),
    "remove-node.yml": say("node={{ node }} confirmed={{ skip_confirmation }}"),
    "reset.yml": say("reset={{ reset_confirmation }}"),
    "upgrade-cluster.yml": say("serial={{ serial | default('none') }}"),
}


@pytest.fixture
def kubespray(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with playbooks that say what they are given, and pin it."""
    folder = tmp_path / "kubespray"
    files: dict[str, object] = {
        "roles/kubespray_defaults/vars/main/checksums.yml": {
            "kubelet_checksums": {"amd64": {"1.35.4": "sha256:00"}}
        }
    }
    files |= {name: [PLAY | {"tasks": [task]}] for name, task in PLAYBOOKS.items()}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "ansible.cfg").write_text("[defaults]\n")
    git(folder, "init", "--quiet")
    commit(folder, monkeypatch)
    monkeypatch.setenv(pins.SOURCE_VARIABLE, str(folder))
    # Only Kubespray is fetched anew; Ansible's environment is the user's.
    monkeypatch.setattr(source, "cache_folder", lambda: tmp_path / "cache")
    assert environment.cache_folder() != tmp_path / "cache"
    return folder


def commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "release")
    git(folder, "tag", "--force", pins.RELEASE)
    monkeypatch.setattr(source, "COMMIT", git(folder, "rev-parse", "HEAD"))


def log_of(state: Path) -> str:
    return max((state / "logs").iterdir()).read_text()


@pytest.mark.ansible
@pytest.mark.timeout(600)
def test_kubespray_gets_the_specification(kubespray: Path, state: Path) -> None:
    done = dp("kubernetes", "check", "--profile", "fits-128")
    assert done.exit_code == 0, done.output
    assert "version 1.35.4, 4352Mi" in log_of(state)
    assert "1/1 Stand-in 1 task, 0 changed" in done.stderr
    assert "✓ check" in done.stderr


@pytest.mark.ansible
@pytest.mark.timeout(600)
def test_a_worker_is_taken_out_after_a_question(kubespray: Path, state: Path) -> None:
    declined = dp("kubernetes", "remove-node", "dp-worker-7", answer="n\n")
    assert declined.exit_code == 1
    assert not (state / "logs").exists()
    done = dp("kubernetes", "remove-node", "dp-worker-7", "--yes")
    assert done.exit_code == 0, done.output
    assert "node=dp-worker-7 confirmed=True" in log_of(state)


@pytest.mark.ansible
@pytest.mark.timeout(600)
def test_a_reset_wants_the_name_of_the_cluster(kubespray: Path, state: Path) -> None:
    wrong = dp("kubernetes", "reset", "--allow-destroy", "other")
    assert wrong.exit_code == 1
    assert f"--allow-destroy {NAME}" in wrong.stderr
    assert not (state / "logs").exists()
    done = dp("kubernetes", "reset", "--allow-destroy", NAME)
    assert done.exit_code == 0, done.output
    assert "reset=True" in log_of(state)


@pytest.mark.ansible
@pytest.mark.timeout(600)
def test_a_failure_is_shown_with_its_machine_and_ends_with_its_own_exit_code(
    kubespray: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"name": "Look", "ansible.builtin.assert": {"that": False, "fail_msg": "too old"}}
    playbook = kubespray / "playbooks/boilerplate.yml"
    playbook.write_text(yaml.safe_dump([PLAY | {"tasks": [broken]}]))
    commit(kubespray, monkeypatch)
    done = dp("kubernetes", "check", "--profile", "small")
    assert done.exit_code == 3
    assert "✗ dp-worker-1: Look: too old" in done.stderr
    assert "Error: dp-worker-1 failed at “Look” (2 failures in all): too old. Log: " in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.ansible
def test_a_version_that_kubespray_has_not_is_refused_before_anything_runs(
    kubespray: Path, state: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(Path("infra/spec/cluster.yaml").read_text())
    content["kubernetes"]["version"] = "1.20.0"
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    done = dp("kubernetes", "upgrade", "--spec", str(path))
    assert done.exit_code == 1
    assert "can't install Kubernetes 1.20.0" in done.stderr
    assert not (state / "logs").exists()


# ---- what is shown ----


def shown(*events: Any, terminal: bool = False) -> str:
    text = io.StringIO()
    view = PlaybookView(Console(file=text, force_terminal=terminal, width=100))
    with view.playbook("install"):
        for event in events:
            view.on_event(event)
    return text.getvalue()


def test_each_play_is_a_line_even_if_it_goes_by_batches() -> None:
    text = shown(
        PlaybookStarted(12),
        PlayStarted("Upgrade", 3),
        TaskStarted("Drain"),
        HostResult("one", "Drain", "changed"),
        PlayStarted("Upgrade", 3),
        TaskStarted("Drain"),
        HostResult("two", "Drain", "changed"),
        PlayStarted("Rest", 12),
    )
    lines = text.splitlines()
    assert lines[0] == "install"
    assert lines[1] == "   3/12 Upgrade 2 tasks, 2 changed, 0 s"
    assert lines[2] == "  12/12 Rest 0 tasks, 0 changed, 0 s"
    assert lines[3] == "✓ install 0 s"


def test_failures_that_are_answered_are_not_shown_and_markup_is_none() -> None:
    failed = HostResult("one", "[bold]Try", "failed", "a [red]message")
    answered = HostResult("one", "Try", "failed", "expected", expected=True)
    text = shown(PlaybookStarted(1), answered, failed)
    assert "✗ one: [bold]Try: a [red]message" in text
    assert "expected" not in text


def test_a_terminal_shows_the_task_at_work() -> None:
    text = shown(
        PlaybookStarted(2),
        PlayStarted("Prepare", 1),
        TaskStarted("role : Install"),
        HostResult("one", "role : Install", "retry", "2 of 4"),
        terminal=True,
    )
    assert "Prepare" in text
    assert "one tries again, 2 of 4" in text
