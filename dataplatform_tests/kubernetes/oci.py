"""Images of a node without a registry: one layer with a few files, made in milliseconds.

The image that Spark and Dagster run in holds no program: pods mount this machine's Python, Java and
Spark at the paths that they have here, which `host_paths()` lists.
"""

import hashlib
import io
import json
import platform
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from dataplatform.lake.jvm import find_java

IMAGE: Final = "registry.test/dataplatform:1"
"""Runs Spark's drivers and executors, Dagster's runs and any Python of this machine."""
BUSYBOX: Final = "registry.test/busybox:1"
"""A shell and the usual commands, for pods that need nothing else."""
PAUSE: Final = "registry.test/pause:1"
"""Holds a pod's namespaces."""

CHECKOUT: Final = Path(__file__).parents[2]
_USER: Final = 185
"""The user of Spark's own images."""
_PASSWD: Final = f"root:x:0:0::/root:/bin/sh\nspark:x:{_USER}:0::/tmp:/bin/sh\n"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_SYSTEM_LINKS: Final = ("bin", "lib", "lib64", "sbin")


def host_paths() -> list[Path]:
    """Return the folders of this machine that a pod of `IMAGE` mounts, each at its own path."""
    paths = [Path("/usr"), Path("/etc/alternatives"), Path("/etc/ssl"), CHECKOUT]
    paths += [Path(sys.base_prefix), Path(sys.prefix).resolve(), find_java().resolve()]
    kept: list[Path] = []
    for path in sorted({path for path in paths if path.exists()}):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def spark_home() -> Path:
    """Return the folder of the installed pyspark, without importing it."""
    found = find_spec("pyspark")
    if not found or not found.origin:
        raise ModuleNotFoundError("pyspark is not installed. Remedy: make setup.")
    return Path(found.origin).resolve().parent


def write_image(archive: Path) -> Path:
    """Write `IMAGE` as an OCI archive."""
    files = {"opt/entrypoint.sh": Path(__file__).with_name("entrypoint.sh").read_bytes()}
    files["etc/passwd"] = _PASSWD.encode()
    links = {name: f"usr/{name}" for name in _SYSTEM_LINKS if Path("/", name).is_symlink()}
    python = Path(sys.prefix) / "bin" / "python"
    environment = {
        "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "SPARK_HOME": str(spark_home()),
        "JAVA_HOME": str(find_java().resolve()),
        "PYSPARK_PYTHON": str(python),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",  # noqa: S108
    }
    config = {
        "Entrypoint": ["/bin/bash", "/opt/entrypoint.sh"],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": str(_USER),
    }
    return _write(archive, [IMAGE], config, _layer(files, links))


def write_busybox(archive: Path, busybox: Path, *names: str) -> Path:
    """Write an image with busybox alone, under all of the given names."""
    applets = {f"bin/{name}": "busybox" for name in ("sh", "sleep", "cat", "true", "false", "head")}
    layer = _layer({"bin/busybox": busybox.read_bytes()}, applets)
    config = {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep", "2147483647"]}
    return _write(archive, list(names), config, layer)


def _layer(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(folder)
        for path, content in files.items():
            _add(layer, path, content)
        for path, target in links.items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            layer.addfile(link)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(content), 0o755
    archive.addfile(member, io.BytesIO(content))


def _write(archive: Path, names: list[str], config: dict[str, object], layer: bytes) -> Path:
    layer_type = "application/vnd.oci.image.layer.v1.tar"
    config_type = "application/vnd.oci.image.config.v1+json"
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    described = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": config,
    }
    described["rootfs"] = {"type": "layers", "diff_ids": [_digest(layer)]}
    settings = json.dumps(described).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": _descriptor(settings, config_type),
            "layers": [_descriptor(layer, layer_type)],
        }
    ).encode()
    tagged = [
        _descriptor(manifest, manifest_type) | {"annotations": {"io.containerd.image.name": name}}
        for name in names
    ]
    with tarfile.open(archive, "w") as written:
        _add(written, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(written, "index.json", json.dumps({"schemaVersion": 2, "manifests": tagged}).encode())
        for blob in (settings, manifest, layer):
            _add(written, f"blobs/sha256/{_digest(blob).partition(':')[2]}", blob)
    return archive


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
