"""The programs of a Kubernetes node: built from Go modules or unpacked from Debian's packages, once.

`python -m dataplatform_tests.kubernetes` does it ahead: cold, Go compiles for ten to twenty minutes.
No distribution has binaries of the release that the clusters run, and nothing is installed into the
system: the programs stay in a folder of the user's cache, keyed by all that they are made of.
"""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock

from dataplatform.lake.maven import cache_folder
from dataplatform.stack.install import find_go

KUBERNETES_VERSION: Final = "1.35.4"
"""The release that the clusters run; `programs/kubernetes/go.mod` pins the same."""

_MODULES: Final = Path(__file__).with_name("programs")
_PACKAGES: Final = {
    # Order: the API server's tests need no more than the first two.
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kube-scheduler": ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": ("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    "kubectl": ("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
}
_STAMP: Final = "k8s.io/component-base/version"
_LINKER_FLAGS: Final = (
    f"-s -w -X {_STAMP}.gitVersion=v{KUBERNETES_VERSION} -X {_STAMP}.gitTreeState=clean"
    f" -X {_STAMP}.gitMajor={KUBERNETES_VERSION.split('.')[0]}"
    f" -X {_STAMP}.gitMinor={KUBERNETES_VERSION.split('.')[1]}"
)
_DEBIAN: Final = ("containerd", "runc", "containernetworking-plugins", "busybox-static")

Tell = Callable[[str], None]
"""Told before and after each part that takes seconds to minutes."""


class BinariesError(RuntimeError):
    """A program of the node could not be built or unpacked; says how to go on."""


def node_programs(tell: Tell = print) -> Path:
    """Return the folder of the node's programs, building and unpacking what is missing.

    Returns:
        A folder with the programs that Go built, and `debian/` with containerd, runc, the network
        plugins and a static busybox at the paths that their packages give them.
    """
    for name in _PACKAGES:
        build(name, tell)
    unpack_packages(tell)
    return folder()


def folder() -> Path:
    """Return where the programs are or will be; another folder for other versions or flags."""
    made_of = [_LINKER_FLAGS, *_DEBIAN]
    for module in sorted(_MODULES.iterdir()):
        made_of += [(module / name).read_text() for name in ("go.mod", "go.sum")]
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:12]
    return cache_folder() / "kubernetes" / key


def build(name: str, tell: Tell = print) -> Path:
    """Return one program, compiled by Go where it is not there yet.

    Args:
        name: one of etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kubectl.
        tell: takes the lines about what takes long.

    Raises:
        BinariesError: Go could not build it.
    """
    program = folder() / name
    with _once(program, f"building {name} {KUBERNETES_VERSION}", tell) as missing:
        if missing:
            module, package = _PACKAGES[name]
            new = program.with_name(f".new-{name}")
            # Two compilers at a time: more of them would take the memory that the tests need.
            command = [find_go(tell), "build", "-p", "2", "-trimpath", "-ldflags", _LINKER_FLAGS]
            _run([*command, "-o", str(new), package], cwd=_MODULES / module, what=name)
            new.rename(program)
    return program


def unpack_packages(tell: Tell = print) -> Path:
    """Return the folder with Debian's containerd and what it needs, unpacked but not installed."""
    home = folder() / "debian"
    with _once(home, f"unpacking {', '.join(_DEBIAN)}", tell) as missing:
        if missing:
            with tempfile.TemporaryDirectory(dir=home.parent, prefix=".new-") as scratch:
                archives, root = Path(scratch) / "archives", Path(scratch) / "root"
                archives.mkdir()
                _download(archives)
                for archive in archives.glob("*.deb"):
                    _run(["dpkg", "-x", str(archive), str(root)], cwd=archives, what=archive.name)
                root.rename(home)
    return home


def _download(archives: Path) -> None:
    command = ["apt-get", "download", *_DEBIAN]
    try:
        _run(command, cwd=archives, what="Debian's packages")
    except BinariesError:
        # A fresh image has no lists of packages, or old ones.
        _run(["apt-get", "update"], cwd=archives, what="Debian's lists of packages")
        _run(command, cwd=archives, what="Debian's packages")


@contextmanager
def _once(path: Path, what: str, tell: Tell) -> Generator[bool]:
    """Yield whether `path` is still to be made, one process at a time."""
    if path.exists():
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            yield False
            return
        start = time.monotonic()
        tell(f"-- kubernetes: {what}")
        yield True
        tell(f"-- kubernetes: {what}: {time.monotonic() - start:.0f} s")


def _run(command: list[str], cwd: Path, what: str) -> None:
    environment = os.environ | {"CGO_ENABLED": "0"}
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    if run.returncode:
        tail = "\n".join((run.stderr or run.stdout).strip().splitlines()[-8:])
        raise BinariesError(
            f"{what} could not be had: `{' '.join(command[:3])} …` ended with {run.returncode}:\n{tail}\n"
            "Remedy: check the network, the Go module proxy and the sources of apt."
        )
