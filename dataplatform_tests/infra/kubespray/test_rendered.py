"""What Kubespray's own templates make of our variables: the files that machines would get."""

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplatform_tests.infra.kubespray.conftest import HERE, RunnerFactory
from infra.kubespray import pins
from infra.kubespray.inventory import inventory_files, write_inventory
from infra.kubespray.runner import Playbook
from infra.kubespray.source import fetch_source, source_folder
from infra.spec.model import load_spec

HAS_RELEASE = bool(os.environ.get(pins.SOURCE_VARIABLE)) or source_folder().is_dir()
pytestmark = [
    pytest.mark.ansible,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not HAS_RELEASE,
        reason=f"Kubespray is not in the cache, nor named by {pins.SOURCE_VARIABLE}",
    ),
]
FACTS: dict[str, Any] = {"main_ip": "10.10.0.104", "main_ips": ["10.10.0.104"]}


@pytest.fixture
def rendered(make_runner: RunnerFactory, tmp_path: Path) -> Path:
    """Render templates for a worker of the profile `fits-128`; they are Ansible's to write."""
    source = fetch_source(print)
    roles = source / "roles"
    tasks: list[dict[str, Any]] = [
        template(
            roles / "kubernetes/node/templates/kubelet-config.v1beta1.yaml.j2", tmp_path / "kubelet"
        ),
        template(roles / "container-engine/containerd/templates/hosts.toml.j2", tmp_path / "hosts")
        | {"loop": "{{ containerd_registries_mirrors }}"},
    ]
    tasks[1]["ansible.builtin.template"]["dest"] += "-{{ item.prefix }}"
    play = {
        "name": "Render",
        "hosts": "dp-worker-1",
        "gather_facts": False,
        "roles": ["kubespray_defaults", "node_defaults"],
        "tasks": tasks,
    }
    # As a role's defaults they give way to the inventory, as in Kubespray's own run.
    defaults = tmp_path / "roles/node_defaults/defaults"
    defaults.parent.mkdir(parents=True)
    defaults.symlink_to(roles / "kubernetes/node/defaults")
    path = tmp_path / "render.yml"
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    runner = make_runner(source=source)
    write_inventory(runner.inventory, inventory_files(load_spec(profile="fits-128")))
    runner.run(Playbook(path, HERE | FACTS), "render")
    return tmp_path


def template(source: Path, target: Path) -> dict[str, Any]:
    return {
        "name": "Render",
        "ansible.builtin.template": {"src": str(source), "dest": str(target), "mode": "0600"},
    }


def test_machines_get_what_was_meant(rendered: Path) -> None:
    kubelet = yaml.safe_load((rendered / "kubelet").read_text())
    assert kubelet["kubeReserved"]["memory"] == "4352Mi"
    assert kubelet["systemReserved"]["memory"] == "512Mi"
    mirror = tomllib.loads((rendered / "hosts-localhost:5050").read_text())
    assert mirror["server"] == "http://127.0.0.1:30500"
    assert list(mirror["host"]) == ["http://127.0.0.1:30500"]
    assert mirror["host"]["http://127.0.0.1:30500"]["capabilities"] == ["pull", "resolve"]
