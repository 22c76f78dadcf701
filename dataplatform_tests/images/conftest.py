"""Builds the images for the tier `images`, on a base made from Debian's packages; runs them by runc.

Where python:3.11-slim-bookworm can be pulled, DATAPLATFORM_IMAGE_BASE names it instead.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from typer.testing import CliRunner

from dataplatform.cli import app
from dataplatform.images.inputs import Image, images
from dataplatform.lake.maven import cache_folder

ROOT: Final = Path(__file__).parents[2]
CANARY: Final = "canary-4711-of-the-index"
"""Stands among the variables of the index: what a login to a private one would be."""
_BASE: Final = "localhost/dataplatform-base:bookworm"
_PROGRAMS: Final = ("buildah", "skopeo", "runc", "mmdebstrap", "docker-registry")
_SECONDS: Final = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tier the time that a cold build takes; leave it out where it can't run."""
    missing = [program for program in _PROGRAMS if not shutil.which(program)]
    reason = "" if os.geteuid() == 0 else "needs root"
    if missing:
        reason = f"apt-get install --no-install-recommends {' '.join(missing)}"
    for item in items:
        if item.get_closest_marker("images"):
            item.add_marker(pytest.mark.timeout(_SECONDS))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def storage() -> Iterator[Path]:
    """Keep layers and images in the user's cache, apart from what else the machine builds."""
    folder = cache_folder() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(configuration))
        # Namespaces are not to be had everywhere; the packages' own code runs in these builds.
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        patch.setenv("DATAPLATFORM_IMAGE_BUILDER", "buildah")
        patch.setenv("UV_INDEX_PRIVATE_PASSWORD", CANARY)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield folder


@pytest.fixture(scope="session")
def base(storage: Path) -> str:
    """Return the base: the one that is named, else Debian with Python 3.11, made once."""
    if named := os.environ.get("DATAPLATFORM_IMAGE_BASE"):
        return named
    if not output("buildah", "images", "--quiet", "--filter", f"reference={_BASE}"):
        tree = storage / "base.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        output("mmdebstrap", "--variant=minbase", packages, "bookworm", str(tree))
        container = output("buildah", "from", "scratch")
        output("buildah", "add", "--quiet", container, str(tree), "/")
        output("buildah", "commit", "--quiet", "--rm", container, _BASE)
        tree.unlink()
    return _BASE


def output(*command: str) -> str:
    """Run a command; return what it prints, without the last line break."""
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{command}: {run.stderr[-2000:]}"
    return run.stdout.strip()


def dp(*arguments: str) -> str:
    """Run `dp images …`; return its answer."""
    result = CliRunner().invoke(app, ["images", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def digest(image: Image) -> str:
    """Return an image's digest in the storage."""
    return output("buildah", "images", "--noheading", "--format", "{{.Digest}}", image.local)


@pytest.fixture(scope="session")
def built(base: str) -> dict[str, Image]:
    """Build both images; layers of an earlier run are used again."""
    started = time.monotonic()
    names = dp("build", "--base", base).splitlines()
    found = images(ROOT, base)
    assert names == [image.local for image in found]
    for image in found:
        size = output("buildah", "images", "--noheading", "--format", "{{.Size}}", image.local)
        print(f"{image.local}: {size}, {digest(image)}")  # noqa: T201  shown by -s and on failure
    print(f"built in {time.monotonic() - started:.0f} s")  # noqa: T201
    return {image.name: image for image in found}


@dataclass(frozen=True)
class Ran:
    """What a container said, and how it ended."""

    status: int
    output: str


Run = Callable[..., Ran]


@pytest.fixture
def run(built: dict[str, Image], tmp_path: Path) -> Iterator[Run]:
    """Start containers as a restricted pod's are: read-only, no capabilities, the image's user."""
    containers = []

    def start(name: str, *command: str, env: Mapping[str, str] | None = None) -> Ran:
        container = output("buildah", "from", built[name].local)
        containers.append(container)
        described = json.loads(output("buildah", "inspect", container))["OCIv1"]["config"]
        bundle = tmp_path / container
        bundle.mkdir()
        root = output("buildah", "mount", container)
        (bundle / "hosts").write_text("127.0.0.1 localhost pod\n")
        (bundle / "config.json").write_text(
            json.dumps(runtime(root, described, command, env or {}))
        )
        state = str(tmp_path / "state")
        started = ["runc", "--root", state, "run", "--bundle", str(bundle), container]
        ended = subprocess.run(started, capture_output=True, text=True, check=False)
        return Ran(ended.returncode, ended.stdout + ended.stderr)

    yield start
    for container in containers:
        output("buildah", "rm", container)


def runtime(
    root: str, described: dict[str, list[str]], command: Sequence[str], env: Mapping[str, str]
) -> dict[str, object]:
    """Return runc's configuration of a container that Pod Security Standard `restricted` admits."""
    user, group = str(described["User"]).split(":")
    entry = described.get("Entrypoint") or []
    kept = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": [*entry, *(command or described.get("Cmd") or [])],
            "env": [*described["Env"], *(f"{name}={value}" for name, value in env.items())],
            "cwd": described["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "pod",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": kept},  # noqa: S108
            # As the kubelet gives it; runc reads the path from the bundle.
            {
                "destination": "/etc/hosts",
                "type": "bind",
                "source": "hosts",
                "options": ["bind", "ro"],
            },
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},  # noqa: S108
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]
        },
    }


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Start Debian's registry on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    file = tmp_path / "registry.yml"
    settings = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    file.write_text(json.dumps(settings))  # JSON is YAML.
    with (tmp_path / "registry.log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(file)], stdout=log, stderr=log)
    try:
        _wait_for(address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(tmp_path / "registry", ignore_errors=True)  # A gigabyte.


def _wait_for(address: str) -> None:
    import httpx

    for _ in range(100):
        try:
            httpx.get(f"http://{address}/v2/").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"no registry at {address}")
