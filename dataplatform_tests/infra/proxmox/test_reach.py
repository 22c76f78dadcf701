"""Waiting for a machine's SSH server, by an `ssh` whose answers are known."""

from pathlib import Path

import pytest

from dataplatform_tests.infra.proxmox.conftest import make_spec
from infra.proxmox.reach import through_host

SPEC = make_spec()


def place_ssh(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = folder / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" >{folder}/arguments\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / "arguments"


def test_server_that_speaks_is_reached_through_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = place_ssh(tmp_path, "echo SSH-2.0-OpenSSH_10.0", monkeypatch)
    assert through_host(SPEC)(SPEC.machines()[0]) is None
    assert arguments.read_text().split()[-2:] == ["10.10.0.101:22", "root@135.181.211.227"]


@pytest.mark.parametrize(
    ("said", "permanent", "remedy"),
    [
        ("channel 0: open failed: connect failed: Connection refused", False, "console"),
        ("Host key verification failed.", True, "ssh root@135.181.211.227"),
        ("root@host: Permission denied (publickey).", True, "ssh-copy-id"),
    ],
)
def test_what_ssh_says_decides_whether_waiting_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, permanent: bool, remedy: str
) -> None:
    place_ssh(tmp_path, f"echo '{said}' >&2; exit 255", monkeypatch)
    unreached = through_host(SPEC)(SPEC.machines()[0])
    assert unreached is not None
    assert (unreached.permanent, remedy in unreached.remedy) == (permanent, True)


def test_missing_ssh_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    unreached = through_host(SPEC)(SPEC.machines()[0])
    assert unreached is not None
    assert unreached.permanent
