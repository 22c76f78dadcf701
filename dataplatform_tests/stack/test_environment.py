"""`dp stack env`: what it prints is what the servers' own clients need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.profiles import lake_place
from dataplatform.stack.install import servers_folder
from dataplatform.stack.layout import Layout, Plan, choose_ports, write_private
from dataplatform_tests.servers import mc_program
from dataplatform_tests.stack.fixtures import RunningStack


def printed(home: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(home))
    answer = CliRunner().invoke(app, ["stack", "env", *options])
    assert answer.exit_code == 0, answer.stderr
    return answer.stdout


def sh(lines: str, command: str) -> subprocess.CompletedProcess[str]:
    script = f"set -eu\n{lines}\n{command}"
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


def test_the_shell_finds_the_clients_and_reads_the_token_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, layout = tmp_path / "a home", Layout.below(tmp_path / "a home")
    programs = tmp_path / "the servers"
    (programs / "bin").mkdir(parents=True)
    (programs / "bin" / "bao").touch(0o755)
    ports = choose_ports({}, free=True)
    Plan(ports=ports, homes={"vault": programs, "postgres": programs}).write(layout)
    write_private(layout.root_token, "a-token-of-the-test")
    lines = printed(home, monkeypatch)
    assert "a-token-of-the-test" not in lines
    said = sh(lines, 'command -v bao; echo "$BAO_ADDR $BAO_TOKEN"').stdout.splitlines()
    expected = f"http://127.0.0.1:{ports['vault']} a-token-of-the-test"
    assert said == [str(programs / "bin" / "bao"), expected]


@pytest.mark.parametrize("options", [[], ["--inbox"]])
def test_it_names_the_remedy_where_no_stack_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path))
    answer = CliRunner().invoke(app, ["stack", "env", *options])
    assert answer.exit_code == 1
    assert "The stack is not up. Remedy: dp stack up." in answer.stderr


BY_BOTO3 = "import boto3; boto3.client('s3').upload_file({file!r}, {bucket!r}, 'inbox/{name}')"


@pytest.mark.stack
@pytest.mark.timeout(1200)
def test_bao_reads_the_stacks_vault(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(stack.home, monkeypatch)
    assert "bao" not in {path.name for path in servers_folder().glob("openbao-*/bin/*")}
    command = "bao kv metadata get -mount=dataplatform -format=json postgres/superuser"
    answer = sh(lines, command)
    assert '"current_version": 1' in answer.stdout, answer.stderr


@pytest.mark.stack
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("bucket", "origin"), [("datalake", "live"), ("datalake-recorded", "recorded")]
)
def test_mc_and_boto3_put_files_into_the_inbox_and_see_nothing(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bucket: str, origin: str
) -> None:
    mc_program()
    lines = printed(stack.home, monkeypatch, "--inbox")
    file = tmp_path / "prices.csv"
    file.write_text("date\n")
    by_mc = sh(lines, f"mc --quiet cp {file} stack/{bucket}/inbox/")
    assert by_mc.returncode == 0, by_mc.stderr
    script = BY_BOTO3.format(file=str(file), bucket=bucket, name="by boto3.csv")
    by_boto3 = sh(lines, f'{sys.executable} -c "{script}"')
    assert by_boto3.returncode == 0, by_boto3.stderr
    store = lake_place(stack.settings, "live" if origin == "live" else "recorded").store
    found = {stored.key for stored in store.list("inbox")}
    assert found == {"inbox/prices.csv", "inbox/by boto3.csv"}
    for refused in (f"mc ls stack/{bucket}/inbox/", f"mc cat stack/{bucket}/inbox/prices.csv"):
        answer = sh(lines, refused)
        assert "prices.csv" not in answer.stdout
        assert answer.returncode == 1
        assert re.search("Access Denied|Insufficient permissions", answer.stderr), answer.stderr
    for key in found:
        store.delete(key)
