"""The shell scripts, by shellcheck, in the words of `make lint`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "infra", "tools")
PROGRAMS = Path(sys.executable).parent
SHELLCHECK = shutil.which("shellcheck", path=f"{PROGRAMS}:{os.environ['PATH']}")


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command of `make lint`, in a folder, without setting anything up."""
    assert SHELLCHECK
    recipe = re.search(r"^lint-shell:.*\n\t@(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    command = recipe[1].replace("$(BIN)/shellcheck", SHELLCHECK).replace("$$", "$")
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, cwd=folder
    )


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed: make setup")
def test_shellcheck_finds_nothing_and_reads_every_script(tmp_path: Path) -> None:
    run = linted(ROOT)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / ".shellcheckrc", tmp_path)
    scripts = [file for name in FOLDERS for file in (tmp_path / name).rglob("*") if is_script(file)]
    assert len(scripts) > 5
    for script in scripts:
        script.write_text(script.read_text() + "\nrm $unquoted\n")
    found = linted(tmp_path).stdout
    unread = [file.name for file in scripts if f"{file.relative_to(tmp_path)} line" not in found]
    assert unread == []


def is_script(file: Path) -> bool:
    """Return whether a file is run by a shell."""
    return file.is_file() and bool(re.match(rb"#!.*sh\n", file.read_bytes()))
