"""`dp infra` as it is called: what it prints, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform_tests.infra.proxmox.conftest import KEY
from dataplatform_tests.infra.proxmox.fake import TOKEN, Proxmox
from infra.spec.model import REFERENCE

Infra = Callable[..., Result]


@pytest.fixture
def write(host: Proxmox, tmp_path: Path, certificate: tuple[str, str]) -> Callable[..., Path]:
    def written(**keys: Any) -> Path:
        content = yaml.safe_load(REFERENCE.read_text())
        content["ssh"] = {"user": "dp", "public_keys": [KEY]}
        content["host"] |= {
            "api_address": "127.0.0.1",
            "api_port": host.port,
            "authority": certificate[0],
        }
        for key, value in keys.items():
            *way, last = key.split("__")
            part = content
            for name in way:
                part = part[name]
            part[last] = value
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return written


@pytest.fixture
def infra(
    monkeypatch: pytest.MonkeyPatch,
    host: Proxmox,
    write: Callable[..., Path],
) -> Infra:
    """Run `dp infra` on the host, with the profile that fits it."""
    monkeypatch.setenv("DATAPLATFORM_PROXMOX_TOKEN_ID", TOKEN)
    monkeypatch.setenv("DATAPLATFORM_PROXMOX_TOKEN_SECRET", host.apitokens[TOKEN])
    monkeypatch.setenv("DATAPLATFORM_INFRA_SPEC", str(write()))
    monkeypatch.setenv("DATAPLATFORM_INFRA_PROFILE", "fits-128")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, ["infra", *arguments], input=typed)

    return run


def test_reference_is_refused_by_a_host_of_128_gb_and_the_profile_for_it_fits(
    infra: Infra,
) -> None:
    refused = infra("preflight", "--profile", "reference")
    assert refused.exit_code == 1
    memory = next(line for line in refused.stdout.splitlines() if line.startswith(" memory"))
    assert memory.split() == [
        "memory",
        *["136", "GiB", "136", "GiB", "120", "GiB", "1.13", "refused"],
    ]
    assert "--profile fits-128" in refused.stdout
    assert infra("preflight").exit_code == 0


def test_reference_is_not_applied_where_it_does_not_fit(infra: Infra, host: Proxmox) -> None:
    result = infra("apply", "--yes", "--no-wait", "--profile", "reference")
    assert result.exit_code == 1
    assert "memory: needs 136 GiB, has 120 GiB" in result.stderr
    assert host.vms == []
    assert host.sdn["zones"] == {}


def test_offline_preflight_needs_neither_host_nor_token(
    infra: Infra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAPLATFORM_PROXMOX_TOKEN_ID")
    assert infra("preflight", "--offline", "--profile", "reference").exit_code == 1
    assert infra("preflight", "--offline").exit_code == 0


def test_exit_codes_of_plan_tell_changes_from_none_and_from_errors(
    infra: Infra, host: Proxmox
) -> None:
    assert infra("plan").exit_code == 2
    assert infra("apply", "--yes", "--no-wait").exit_code == 0
    second = infra("plan")
    assert second.exit_code == 0
    assert "No changes: 10 machines are as the specification says." in second.stdout
    host.apitokens.clear()
    assert infra("plan").exit_code == 1


def test_plan_shows_what_is_made_changed_and_withheld(
    infra: Infra, host: Proxmox, write: Callable[..., Path]
) -> None:
    fresh = infra("plan").stdout
    assert "+  network dpnet" in fresh
    assert "addresses  10.10.0.0/24" in fresh
    assert "+  dp-worker-1  9104  10.10.0.104   8 vCPU   16 GiB (12 at least)" in fresh
    assert "Plan: 12 to add, 1 to change, 0 to destroy." in fresh
    infra("apply", "--yes", "--no-wait")
    write(pools__workers__without=[6], pools__workers__memory_gib=20)

    changed = infra("plan").stdout
    assert "memory  16 GiB → 20 GiB  at the next start" in changed
    assert "!  dp-worker-6  it is no longer in the specification; not done without" in changed
    assert "Plan: 0 to add, 6 to change, 0 to destroy; 3 as they should be." in changed


def test_plan_as_json_and_as_a_file_that_is_applied_once(infra: Infra, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    printed = json.loads(infra("plan", "--json", "--out", file).stdout)
    assert printed == json.loads(Path(file).read_text())
    assert len(printed["spec_digest"]) == len(printed["state_digest"]) == 64

    assert infra("apply", file, "--no-wait").exit_code == 0
    stale = infra("apply", file, "--no-wait")
    assert stale.exit_code == 1
    assert "the host changed since it was made" in stale.stderr


def test_nothing_is_changed_without_a_yes(infra: Infra, host: Proxmox) -> None:
    result = infra("apply", "--no-wait", typed="n\n")
    assert (result.exit_code, host.vms) == (1, [])
    infra("apply", "--no-wait", "--yes")
    assert infra("destroy", "dp-worker-7", typed="dp-worker-6\n").exit_code == 1
    assert len(host.vms) == 10


def test_machine_is_destroyed_by_name(infra: Infra, host: Proxmox) -> None:
    host.add_vm(100, "theirs", node="pve")
    infra("apply", "--yes", "--no-wait")
    result = infra("destroy", "dp-worker-7", typed="dp-worker-7\n")
    assert result.exit_code == 0, result.output
    assert "all data on it are lost" in result.stdout
    assert "without: [7]" in result.stderr
    assert "dp-worker-7" not in {vm.name for vm in host.vms}

    foreign = infra("destroy", "theirs", "--yes")
    assert foreign.exit_code == 1
    assert "machines of others are never touched" in foreign.stderr


def test_status_lists_what_is_and_what_is_not(infra: Infra, host: Proxmox) -> None:
    infra("apply", "--yes", "--no-wait")
    infra("destroy", "dp-worker-7", "--yes")
    host.find("pve", 9101).status = "stopped"
    rows = [line.split() for line in infra("status").stdout.splitlines()]
    lines = {row[0]: row for row in rows if row}
    assert lines["dp-master-1"][3] == "stopped"
    assert lines["dp-master-2"][3] == "running"
    assert lines["dp-worker-7"][3] == "absent"


def test_token_is_never_shown(infra: Infra, host: Proxmox, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = host.apitokens[TOKEN]
    said = [infra(*call) for call in (["plan"], ["plan", "--json"], ["preflight"])]
    host.apitokens[TOKEN] = "another-one"
    said.append(infra("plan"))
    monkeypatch.setenv("DATAPLATFORM_PROXMOX_TOKEN_ID", "no-token-id")
    said.append(infra("plan"))
    assert not [one.output for one in said if secret in one.output + repr(one.exception)]
    assert "is not of the form USER@REALM!NAME" in said[-1].stderr


def test_missing_token_is_asked_for_by_name(infra: Infra, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAPLATFORM_PROXMOX_TOKEN_SECRET")
    result = infra("plan")
    assert result.exit_code == 1
    assert "set DATAPLATFORM_PROXMOX_TOKEN_SECRET" in result.stderr


def test_failure_says_how_far_it_came_and_the_next_apply_goes_on(
    infra: Infra, host: Proxmox
) -> None:
    host.fail("PUT", "/nodes/pve/qemu/9105/resize", 500, "shrinking disks is not supported")
    result = infra("apply", "--yes", "--no-wait")
    assert result.exit_code == 1
    assert "`dp infra apply` goes on from there" in result.stderr
    host.failures.clear()
    assert infra("apply", "--yes", "--no-wait").exit_code == 0
    assert infra("plan").exit_code == 0


def test_mistake_in_the_specification_names_the_file(
    infra: Infra, write: Callable[..., Path]
) -> None:
    file = write(pools__workers__vcpu=0)
    result = infra("plan")
    assert result.exit_code == 1
    assert f"{file} with profile fits-128: pools.workers.vcpu" in result.stderr
