"""Kubespray's pinned release, fetched by real git from repositories made here."""

from pathlib import Path

import pytest

from dataplatform_tests.infra.kubespray.conftest import git
from infra.kubespray import pins, source
from infra.kubespray.errors import InventoryError, SourceError

VERSIONS = """\
kubelet_checksums:
  arm64:
    1.35.4: sha256:00
  amd64:
    1.35.4: sha256:00
    1.34.7: sha256:00
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository with a release, and pin its commit."""
    folder = tmp_path / "upstream"
    checksums = folder / "roles/kubespray_defaults/vars/main/checksums.yml"
    checksums.parent.mkdir(parents=True)
    checksums.write_text(VERSIONS)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "release")
    git(folder, "tag", pins.RELEASE)
    monkeypatch.setattr(source, "COMMIT", git(folder, "rev-parse", "HEAD"))
    monkeypatch.setenv(pins.SOURCE_VARIABLE, str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_it_is_fetched_once(repository: Path) -> None:
    told: list[str] = []
    folder = source.fetch_source(told.append)
    assert source.known_versions(folder) == ("1.35.4", "1.34.7")
    repository.rename(repository.with_name("gone"))
    assert source.fetch_source(told.append) == folder
    assert told == [f"fetching Kubespray {pins.RELEASE} from {repository}"]


def test_another_commit_under_the_same_tag_is_refused(repository: Path) -> None:
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "moved")
    git(repository, "tag", "--force", pins.RELEASE)
    with pytest.raises(SourceError, match=rf"was pinned.*Remedy: .*{pins.SOURCE_VARIABLE}"):
        source.fetch_source(lambda _: None)
    assert not source.source_folder().exists()


@pytest.mark.parametrize("name", ["roles/kubespray_defaults/vars/main/checksums.yml", "new.yml"])
def test_a_changed_folder_is_refused(repository: Path, name: str) -> None:
    folder = source.fetch_source(lambda _: None)
    (folder / name).write_text("changed")
    with pytest.raises(SourceError, match=r"was changed.*Remedy: delete the folder"):
        source.fetch_source(lambda _: None)


def test_what_an_interrupted_fetch_left_does_not_matter(repository: Path) -> None:
    partial = source.source_folder().with_name(f"{source.source_folder().name}.partial")
    partial.mkdir(parents=True)
    (partial / "half").touch()
    assert not (source.fetch_source(lambda _: None) / "half").exists()


def test_a_repository_that_is_not_there_is_named_with_a_remedy(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pins.SOURCE_VARIABLE, str(repository / "nowhere"))
    with pytest.raises(SourceError, match=rf"git fetch failed.*{pins.SOURCE_VARIABLE}"):
        source.fetch_source(lambda _: None)


def test_a_missing_git_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(SourceError, match=r"git is not installed.*apt-get install git"):
        source.fetch_source(lambda _: None)


def test_a_version_that_kubespray_cannot_install_is_refused_with_those_it_can(
    repository: Path,
) -> None:
    folder = source.fetch_source(lambda _: None)
    source.check_version(folder, "1.34.7")
    with pytest.raises(
        InventoryError, match=r"can't install Kubernetes 1\.33\.0.*1\.35\.4, 1\.34\.7"
    ):
        source.check_version(folder, "1.33.0")
