"""Files from Maven Central, pinned by SHA-256 and brought by Ivy, which every Spark carries."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Final

from filelock import FileLock


class JarError(RuntimeError):
    """A file could not be fetched, or is not the one that was pinned."""


def cache_folder() -> Path:
    """Return the user's cache of downloaded servers and jars, outside any checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dataplatform"


@dataclass(frozen=True, order=True)
class Artifact:
    """One file of a Maven repository, written `group:name:version[:classifier][@extension]`."""

    group: str
    name: str
    version: str
    classifier: str = ""
    extension: str = "jar"

    @classmethod
    def parse(cls, coordinate: str) -> "Artifact":
        """Read a coordinate in Gradle's notation."""
        path, _, extension = coordinate.partition("@")
        return cls(*path.split(":"), extension=extension or "jar")

    @property
    def file_name(self) -> str:
        """The name of the file, as in the repository."""
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{classifier}.{self.extension}"


def fetch(folder: Path, pins: Mapping[str, str], javas: Iterable[Path]) -> list[Path]:
    """Return the pinned files in `folder`, fetching those that it lacks.

    Args:
        folder: where they are kept; it is made where it is missing.
        pins: coordinate → SHA-256 of the file.
        javas: the homes of the machine's Javas. Each is tried: behind a proxy with its own
            certificate authority, only the system's Java may know that authority.

    Raises:
        JarError: a file can't be fetched, or its SHA-256 is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digests = {Artifact.parse(coordinate): digest for coordinate, digest in pins.items()}
    with FileLock(folder / ".lock"):
        missing = [a for a in digests if not (folder / a.file_name).exists()]
        if missing:
            _bring(folder, missing, javas)
        return [_verified(folder / a.file_name, digest) for a, digest in digests.items()]


def _verified(path: Path, digest: str) -> Path:
    stamp = path.with_name(f"{path.stem}.sha256")
    # The digest is computed once a download: hashing 60 MB at each start took 0.1 s.
    if stamp.exists() and stamp.read_text() == digest:
        return path
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        path.unlink()
        raise JarError(
            f"{path.name}: SHA-256 is {found}, pinned is {digest}."
            " Remedy: check the package mirror; the pins are in the repository."
        )
    stamp.write_text(digest)
    return path


def _bring(folder: Path, missing: list[Artifact], javas: Iterable[Path]) -> None:
    output = ""
    for home in javas:
        output = _ivy(home, folder, missing)
        missing = [a for a in missing if not (folder / a.file_name).exists()]
        if not missing:
            return
    tail = "\n".join(output.strip().splitlines()[-5:])
    names = ", ".join(a.file_name for a in missing)
    raise JarError(
        f"{names} could not be fetched from Maven Central:\n{tail}\n"
        f"Remedy: check the network, or put the file into {folder}."
    )


def _ivy(java_home: Path, folder: Path, artifacts: list[Artifact]) -> str:
    spark = find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise JarError("pyspark is not installed. Remedy: make run sets everything up.")
    ivy = next((Path(spark.origin).parent / "jars").glob("ivy-*.jar"))
    # Ivy's own cache would keep a second copy of what stays in `folder`.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ivy-") as scratch:
        settings, module = Path(scratch, "settings.xml"), Path(scratch, "ivy.xml")
        settings.write_text(_SETTINGS)
        module.write_text(_module(artifacts))
        command = [
            *(str(java_home / "bin" / "java"), "-jar", str(ivy), "-settings", str(settings)),
            *("-cache", f"{scratch}/cache", "-ivy", str(module)),
            *("-retrieve", f"{folder}/[artifact]-[revision](-[classifier]).[ext]"),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return run.stdout + run.stderr


# Without their POMs the artifacts come alone, and seventy jars take seconds rather than a minute.
_SETTINGS: Final = """<ivysettings>
  <settings defaultResolver="central"/>
  <resolvers><ibiblio name="central" m2compatible="true" usepoms="false"/></resolvers>
</ivysettings>
"""


def _module(artifacts: list[Artifact]) -> str:
    """Return the Ivy file that asks for these artifacts; those of one module stand together."""
    dependencies = "".join(
        f'<dependency org="{group}" name="{name}" rev="{version}" transitive="false">'
        + "".join(map(_artifact, members))
        + "</dependency>"
        for (group, name, version), members in groupby(
            sorted(artifacts), lambda a: (a.group, a.name, a.version)
        )
    )
    return (
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">'
        '<info organisation="dataplatform" module="pinned"/>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )


def _artifact(artifact: Artifact) -> str:
    classifier = f' m:classifier="{artifact.classifier}"' if artifact.classifier else ""
    kind = artifact.extension
    return f'<artifact name="{artifact.name}" type="{kind}" ext="{kind}"{classifier}/>'
