"""Ansible's environment: what its lock holds, and what happens where it can't be made."""

import re
import sys
from pathlib import Path

import pytest

from infra.kubespray.environment import LOCK, ansible_environment, environment_folder
from infra.kubespray.errors import EnvironmentSetupError


def test_the_lock_holds_what_was_asked_for_with_hashes_and_names_no_host() -> None:
    lock, asked = LOCK.read_text(), LOCK.with_suffix(".in").read_text()
    for line in asked.splitlines():
        assert line.startswith("#") or f"\n{line} \\\n" in f"\n{lock}"
    assert "://" not in lock
    packages = re.findall(
        r"^\S+==\S+.*\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", lock, re.MULTILINE
    )
    assert len(packages) == len(re.findall(r"^[a-z].*==", lock, re.MULTILINE))


def test_another_lock_is_another_environment(tmp_path: Path) -> None:
    other = tmp_path / "requirements.txt"
    other.write_text("another")
    assert environment_folder(other) != environment_folder(LOCK)


def test_a_python_without_that_ansible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(EnvironmentSetupError, match=r"Remedy: run dp by Python 3\.11"):
        ansible_environment(print)


@pytest.mark.ansible
def test_a_package_that_is_not_the_locked_one_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"jmespath==1.1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(EnvironmentSetupError, match=r"(?i)hash.*Remedy: check"):
        ansible_environment(lambda _: None, lock)
    assert not (environment_folder(lock) / ".complete").exists()


@pytest.mark.ansible
@pytest.mark.parametrize("program", ["uv", pytest.param("pip", marks=pytest.mark.slow)])
def test_it_is_made_by_uv_or_without_it(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if program == "pip":
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    told: list[str] = []
    lock = tmp_path / "requirements.txt"
    whole = LOCK.read_text()
    lock.write_text(
        whole[(start := whole.index("jmespath==")) : whole.index("markupsafe==", start)]
    )
    folder = ansible_environment(told.append, lock)
    assert list(folder.glob("lib/python*/site-packages/jmespath"))
    assert len(told) == 1
    assert ansible_environment(told.append, lock) == folder
    assert len(told) == 1
