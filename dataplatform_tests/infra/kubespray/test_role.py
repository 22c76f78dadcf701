"""Kubespray's own role `validate_inventory`, of the pinned release, on the inventory of every profile.

The release is no part of this repository, and no package index has it: these tests need it in the
user's cache, where `dp infra kubernetes check` puts it, or DATAPLATFORM_KUBESPRAY_SOURCE to name a
repository. Without it, `test_accepted.py` holds the inventories to what the role last accepted.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplatform_tests.infra.kubespray.conftest import RunnerFactory
from dataplatform_tests.infra.kubespray.test_inventory import DATA, with_kube_vip
from infra.kubespray import operations, pins
from infra.kubespray.environment import LOCK
from infra.kubespray.errors import TaskFailedError
from infra.kubespray.inventory import hosts, inventory_files, write_inventory
from infra.kubespray.runner import Playbook
from infra.kubespray.source import check_version, fetch_source, known_versions, source_folder
from infra.spec.model import load_spec, profiles

HAS_RELEASE = bool(os.environ.get(pins.SOURCE_VARIABLE)) or source_folder().is_dir()
pytestmark = [
    pytest.mark.ansible,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not HAS_RELEASE,
        reason=f"Kubespray is not in the cache, nor named by {pins.SOURCE_VARIABLE}",
    ),
]


@pytest.fixture(scope="session")
def kubespray() -> Path:
    return fetch_source(print)


def check(kubespray: Path) -> Playbook:
    return dict(operations.check(kubespray))["check"]


@pytest.mark.parametrize("profile", [*profiles(), "kube-vip"])
def test_the_role_accepts_the_inventory(
    profile: str, kubespray: Path, make_runner: RunnerFactory
) -> None:
    spec = with_kube_vip() if profile == "kube-vip" else load_spec(profile=profile)
    check_version(kubespray, spec.kubernetes.version)
    runner = make_runner(source=kubespray)
    write_inventory(runner.inventory, inventory_files(spec))
    # All machines are in the groups; the role's tasks go through one of each pool.
    limit = tuple({m.pool: m.name for m in spec.machines()}.values())
    log = runner.run(Playbook(check(kubespray).path, limit=limit), "check").read_text()
    assert "TASK [validate_inventory : Stop if even number of etcd hosts]" in log
    assert re.search(rf"{limit[0]}\s+: ok=\d+ .*failed=0", log)


@pytest.mark.parametrize(
    ("change", "task"),
    [
        ({"kube_network_plugin": "calicoo"}, "Stop if unsupported options selected"),
        ({"kube_pods_subnet": "10.233.0.0/18"}, "does not collide"),
        ({"kubelet_static_pod_path": "/x"}, "Fail if removed variables are used"),
    ],
)
def test_the_role_refuses_what_is_wrong(
    change: dict[str, Any], task: str, kubespray: Path, make_runner: RunnerFactory
) -> None:
    runner = make_runner(source=kubespray)
    write_inventory(runner.inventory, inventory_files(load_spec(profile="small")))
    with pytest.raises(TaskFailedError, match=task):
        runner.run(Playbook(check(kubespray).path, change, ("dp-master-1",)), "check")


def test_the_role_refuses_an_even_number_of_etcd_members_as_we_do(
    kubespray: Path, make_runner: RunnerFactory
) -> None:
    spec = load_spec()
    runner = make_runner(source=kubespray)
    files = inventory_files(spec) | {"hosts.yaml": yaml.safe_dump(hosts(spec.machines()[1:]))}
    write_inventory(runner.inventory, files)
    with pytest.raises(TaskFailedError, match="even number of etcd"):
        runner.run(Playbook(check(kubespray).path, limit=("dp-master-2",)), "check")


def test_the_release_declares_or_reads_every_variable_where_the_list_says(kubespray: Path) -> None:
    listed = yaml.safe_load((DATA / "variables.yaml").read_text())["variables"]
    stray = {
        name: file
        for name, file in listed.items()
        if not re.search(rf"\b{name}\b", (kubespray / file).read_text())
    }
    assert not stray
    declared = [file for file in listed.values() if "/defaults/" in file]
    assert len(declared) > 25


def test_the_lock_has_what_the_release_asks_for(kubespray: Path) -> None:
    asked = re.findall(r"^[a-z].*==.*$", (kubespray / "requirements.txt").read_text(), re.MULTILINE)
    ours = re.findall(r"^[a-z].*==.*$", LOCK.with_suffix(".in").read_text(), re.MULTILINE)
    assert ours == asked


def test_the_commands_name_playbooks_that_the_release_has(kubespray: Path) -> None:
    spec = load_spec()
    steps = [
        *operations.check(kubespray),
        *operations.install(kubespray),
        *operations.scale(kubespray, spec, ["dp-worker-1"]),
        *operations.upgrade(kubespray),
        *operations.remove_node(kubespray, spec, "dp-worker-1"),
        *operations.reset(kubespray),
    ]
    assert all(playbook.path.is_file() for _, playbook in steps)


def test_the_reference_is_among_the_versions_of_the_release(kubespray: Path) -> None:
    assert load_spec().kubernetes.version == known_versions(kubespray)[0]
