"""The stack's own Vault says who asked for what, and no secret; the supervisor keeps it apart."""

import json
import os
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import httpx
import hvac
import pytest
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform.stack.configuration import write_configuration
from dataplatform.stack.layout import Layout, Plan, write_private
from dataplatform_tests.servers import free_port, vault_program

SECRET = "what-no-log-may-show"


@pytest.fixture
def configured(tmp_path: Path) -> tuple[Layout, Plan]:
    layout = Layout.below(tmp_path)
    others = dict.fromkeys(("postgres", "minio", "catalog", "trino"), "http://127.0.0.1:1")
    plan = Plan(ports={"vault": free_port(), "vault-cluster": free_port()}, given=others)
    write_private(layout.seal_key, os.urandom(32))
    write_configuration(layout, plan)
    return layout, plan


def test_the_audit_log_has_bounded_files_of_its_own(configured: tuple[Layout, Plan]) -> None:
    layout, _ = configured
    parser = RawConfigParser()
    parser.read(layout.supervisor_config)
    vault = parser["program:vault"]
    assert vault["redirect_stderr"] == "false"
    assert vault["stdout_logfile"] == str(layout.log("vault-audit"))
    assert vault["stderr_logfile"] == str(layout.log("vault"))
    assert (vault["stdout_logfile_maxbytes"], vault["stdout_logfile_backups"]) == ("10MB", "2")
    # By it the files are of mode 0600.
    assert parser["supervisord"]["umask"] == "077"


@retry(stop=stop_after_delay(60), wait=wait_fixed(0.3), reraise=True)
def initialise(address: str) -> str:
    wanted = {"recovery_shares": 1, "recovery_threshold": 1}
    answer = httpx.put(f"{address}/v1/sys/init", json=wanted, timeout=30, trust_env=False)
    return answer.raise_for_status().json()["root_token"]


@retry(stop=stop_after_delay(60), wait=wait_fixed(0.3), reraise=True)
def ask(address: str, token: str) -> None:
    vault = hvac.Client(address, token)
    vault.write_data("cubbyhole/asked", data={"password": SECRET})
    assert vault.read("cubbyhole/asked")


@pytest.mark.stack
def test_who_asked_is_written_and_no_secret(configured: tuple[Layout, Plan]) -> None:
    layout, plan = configured
    audit, log = layout.root / "audit.log", layout.root / "vault.log"
    command = [vault_program(), "server", f"-config={layout.config('vault') / 'vault.hcl'}"]
    with audit.open("wb") as stdout, log.open("wb") as stderr:
        server = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        token = initialise(plan.address("vault"))
        ask(plan.address("vault"), token)
    finally:
        server.terminate()
        server.wait(20)
    lines = [json.loads(each) for each in audit.read_text().splitlines() if each.startswith("{")]
    assert "cubbyhole/asked" in {each.get("request", {}).get("path") for each in lines}
    said = audit.read_text() + log.read_text()
    assert SECRET not in said
    assert token not in said
