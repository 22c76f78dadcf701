"""`dp restore` where there is no backup: said in one line, and nothing is made."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DATAPLATFORM_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("made", [False, True])
def test_where_there_is_no_backup_it_is_said_so(folder: Path, made: bool) -> None:
    place = folder / "backup"
    if made:
        place.mkdir()
    done = CliRunner().invoke(app, ["restore", "backup", "--check"])
    said = f"There is no backup in {place}." if made else f"There is no folder {place}."
    wanted = f"Error: {said} Remedy: name the folder, or s3://bucket/prefix, that dp backup wrote."
    assert (done.exit_code, done.stderr.strip()) == (1, wanted)
    assert place.exists() is made


def test_a_backup_that_did_not_end_is_said_to_be_none(folder: Path) -> None:
    (folder / "vault.snap").touch()
    done = CliRunner().invoke(app, ["restore", ".", "--check"])
    assert done.exit_code == 1
    assert "what is here was left by one that did not end" in done.stderr
    assert "checksums" not in done.stderr
