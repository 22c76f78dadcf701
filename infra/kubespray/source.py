"""Kubespray's pinned release in the user's cache, fetched once by git and verified each time."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from dataplatform.lake.maven import cache_folder
from infra.kubespray.errors import InventoryError, SourceError
from infra.kubespray.pins import COMMIT, RELEASE, REPOSITORY, SOURCE_VARIABLE


def source_folder() -> Path:
    """Return where the pinned release is, or will be."""
    return cache_folder() / "kubespray" / COMMIT


def fetch_source(tell: Callable[[str], None]) -> Path:
    """Return the folder of the pinned release; the first time, fetch it.

    Args:
        tell: told what takes long.

    Raises:
        SourceError: it can't be fetched, or is not what was pinned.
    """
    folder = source_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _clone(folder, tell)
        verify_source(folder)
    return folder


def _clone(folder: Path, tell: Callable[[str], None]) -> None:
    repository = os.environ.get(SOURCE_VARIABLE) or REPOSITORY
    tell(f"fetching Kubespray {RELEASE} from {repository}")
    # A folder is resolved here, as git is run in another one.
    if Path(repository).is_dir():
        repository = str(Path(repository).resolve())
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    _git(partial, "init", "--quiet")
    _git(partial, "fetch", "--quiet", "--depth=1", repository, f"refs/tags/{RELEASE}")
    _git(partial, "checkout", "--quiet", "--detach", "FETCH_HEAD")
    verify_source(partial)
    partial.rename(folder)


def verify_source(folder: Path) -> None:
    """Refuse a folder that is not the pinned commit as it was committed.

    Raises:
        SourceError: it is another commit, or a file was changed or added.
    """
    commit = _git(folder, "rev-parse", "HEAD").strip()
    if commit != COMMIT:
        raise SourceError(
            f"{RELEASE} of Kubespray is commit {commit}, and {COMMIT} was pinned",
            f"fetch it from another repository, which {SOURCE_VARIABLE} names",
        )
    if changed := _git(folder, "status", "--porcelain", "--untracked-files=all"):
        first = changed.splitlines()[0].strip()
        raise SourceError(
            f"{folder} was changed ({first})", "delete the folder; it is fetched anew"
        )


def _git(folder: Path, *arguments: str) -> str:
    # Of a repository that needs a password, nobody could type it.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    command = ["git", "-c", "core.autocrlf=false", *arguments]
    try:
        done = subprocess.run(  # noqa: S603  our own arguments
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise SourceError("git is not installed", "apt-get install git") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SourceError(
            f"git {arguments[0]} failed: {said[-1]}",
            f"check the way to the repository, or name a mirror or a folder in {SOURCE_VARIABLE}",
        )
    return done.stdout


def known_versions(source: Path) -> tuple[str, ...]:
    """Return the Kubernetes versions that a release of Kubespray can install, newest first."""
    import yaml

    path = source / "roles/kubespray_defaults/vars/main/checksums.yml"
    checksums: Mapping[str, Mapping[str, object]] = yaml.safe_load(
        path.read_text(encoding="utf-8")
    )["kubelet_checksums"]
    return tuple(checksums["amd64"])


def check_version(source: Path, version: str) -> None:
    """Refuse a version of Kubernetes that the release can't install.

    Raises:
        InventoryError: it has no checksums of that version.
    """
    known = known_versions(source)
    if version not in known:
        raise InventoryError(
            f"Kubespray {RELEASE} can't install Kubernetes {version}",
            f"set kubernetes.version to one of {', '.join(known)}",
        )
