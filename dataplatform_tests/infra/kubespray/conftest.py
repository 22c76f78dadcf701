"""Ansible as Kubespray has it, run against this machine, and a stand-in of Kubespray's folder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.kubespray.environment import ansible_environment
from infra.kubespray.events import Event
from infra.kubespray.inventory import write_inventory
from infra.kubespray.runner import Playbook, Runner

RunnerFactory = Callable[..., Runner]
PlaybookFactory = Callable[..., Playbook]
HERE = {
    "ansible_connection": "local",
    "ansible_become": False,
    "ansible_python_interpreter": sys.executable,
}


@pytest.fixture(scope="session")
def ansible() -> Path:
    """Install the locked Ansible, the first time, into the user's cache."""
    return ansible_environment(print)


@pytest.fixture
def make_runner(ansible: Path, tmp_path: Path) -> RunnerFactory:
    """Return what makes a runner against machines that are this one."""

    def make(hosts: dict[str, dict[str, Any]] | None = None, **fields: Any) -> Runner:
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "ansible.cfg").write_text("[defaults]\nhost_key_checking=False\n")
        runner = Runner(ansible, fields.pop("source", source), tmp_path / "state", **fields)
        everything = hosts or {"one": HERE, "two": HERE}
        content = yaml.safe_dump({"all": {"hosts": everything}})
        write_inventory(runner.inventory, {"hosts.yaml": content})
        return runner

    return make


@pytest.fixture
def make_playbook(tmp_path: Path) -> PlaybookFactory:
    """Return what writes a playbook of one play."""

    def make(*tasks: dict[str, Any], **play: Any) -> Playbook:
        path = tmp_path / "playbook.yml"
        extra_vars = play.pop("extra_vars", {})
        content = {"name": "Test", "hosts": "all", "gather_facts": False, "tasks": list(tasks)}
        path.write_text(yaml.safe_dump([content | play], sort_keys=False))
        return Playbook(path, extra_vars)

    return make


@pytest.fixture
def events() -> list[Event]:
    return []


def git(folder: Path, *arguments: str) -> str:
    """Run git, as nobody in particular."""
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
