"""Kubespray's own Ansible in its own environment: locked by hash, in the user's cache."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from filelock import FileLock

from dataplatform.lake.maven import cache_folder
from infra.kubespray.errors import EnvironmentSetupError

LOCK: Final = Path(__file__).with_name("requirements.txt")
_MARK: Final = ".complete"
# ansible-core 2.18 has these; of newer Pythons it says so itself, by a traceback.
_PYTHONS: Final = ((3, 11), (3, 14))


def environment_folder(lock: Path = LOCK) -> Path:
    """Return where the environment is, or will be: one for each lock, Python and processor."""
    version = ".".join(platform.python_version_tuple()[:2])
    key = f"{lock.read_text(encoding='utf-8')}{version}{platform.machine()}"
    return cache_folder() / "ansible" / hashlib.sha256(key.encode()).hexdigest()[:16]


def ansible_environment(tell: Callable[[str], None], lock: Path = LOCK) -> Path:
    """Return the folder of the environment; the first time, make it.

    Args:
        tell: told what takes long.
        lock: the packages, each with its hashes.

    Raises:
        EnvironmentSetupError: a package can't be had, or is not what was locked.
    """
    if not _PYTHONS[0] <= sys.version_info[:2] < _PYTHONS[1]:
        raise EnvironmentSetupError(
            f"Kubespray's Ansible has no Python {platform.python_version()}",
            "run dp by Python 3.11, 3.12 or 3.13",
        )
    folder = environment_folder(lock)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / _MARK).is_file():
            tell("installing Kubespray's Ansible into its own environment (300 MB, the first time)")
            _install(folder, lock)
            (folder / _MARK).touch()
    return folder


def _install(folder: Path, lock: Path) -> None:
    # Scripts name the folder they were installed in, so it can't be made elsewhere and moved.
    shutil.rmtree(folder, ignore_errors=True)
    python = str(folder / "bin/python")
    hashed = ("install", "--require-hashes", "--requirement", str(lock))
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if uv := shutil.which("uv", path=here):
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([uv, "pip", hashed[0], "--quiet", "--python", python, *hashed[1:]])
        return
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", *hashed])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split()[-60:])
        raise EnvironmentSetupError(
            f"Ansible's environment can't be made: {said}",
            "check the way to the package index, and that the cache's disk has 1 GB left",
        )
