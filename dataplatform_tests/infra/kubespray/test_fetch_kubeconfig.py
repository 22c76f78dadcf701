"""The kubeconfig is brought from the control plane by real Ansible."""

from pathlib import Path

import pytest
import yaml

from dataplatform_tests.infra.kubespray.conftest import HERE, RunnerFactory
from dataplatform_tests.infra.kubespray.test_kubeconfig import ADMIN
from infra.kubespray.errors import KubeconfigError
from infra.kubespray.inventory import write_inventory
from infra.kubespray.kubeconfig import fetch_kubeconfig

pytestmark = [pytest.mark.ansible, pytest.mark.timeout(600)]
DOWN = {"ansible_host": "127.0.0.1", "ansible_port": 9, "ansible_become": False}


def test_it_comes_from_a_machine_that_answers_and_never_into_a_log(
    make_runner: RunnerFactory, tmp_path: Path
) -> None:
    admin = tmp_path / "admin.conf"
    admin.write_text(yaml.safe_dump(ADMIN))
    runner = make_runner()
    groups = {"kube_control_plane": {"hosts": {"down": DOWN, "up": HERE}}}
    write_inventory(runner.inventory, {"hosts.yaml": yaml.safe_dump({"all": {"children": groups}})})
    found = fetch_kubeconfig(runner, {"admin_conf": str(admin)})
    assert found["users"] == ADMIN["users"]
    assert found["clusters"] == ADMIN["clusters"]
    log = next((runner.state / "logs").iterdir()).read_text()
    assert "UNREACHABLE" in log
    assert "S0VZ" not in log
    with pytest.raises(KubeconfigError, match=r"No control-plane machine has a kubeconfig"):
        fetch_kubeconfig(runner, {"admin_conf": str(tmp_path / "nowhere")})
