"""The real servers that tests start: where their programs are, and one PostgreSQL.

What is not installed yet is installed, into the cache that `dp stack` uses too.
`python -m dataplatform_tests.servers` does it ahead, as the continuous integration does.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psycopg2
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform.stack import install
from dataplatform.stack.launch import UNPRIVILEGED, unprivileged
from dataplatform.versions import VERSITYGW_VERSION


def _quiet(_what: str) -> None:
    """Take what an installer tells and say nothing."""


@cache
def minio_program() -> str:
    return str(install.install_minio(_quiet) / "minio")


@cache
def versitygw_program() -> str:
    module = "github.com/versity/versitygw/cmd/versitygw"
    return str(install.install_go_program(module, VERSITYGW_VERSION, _quiet) / "versitygw")


@cache
def mc_program() -> str:
    return str(install.install_mc(_quiet) / "mc")


@cache
def vault_program() -> str:
    return str(install.install_vault(_quiet) / "bin/bao")


@cache
def trino_home() -> Path:
    return install.install_trino(_quiet)


@cache
def trino_java() -> Path:
    return install.install_trino_java(_quiet)


@cache
def postgres_programs() -> Path:
    return install.install_postgres(_quiet) / "bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL of its own, and its administrator as Vault keeps one."""

    port: int
    log: Path
    admin: dict[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        """Its address, without a user."""
        return f"postgresql://127.0.0.1:{self.port}"

    def url(self, database: str) -> str:
        """Return the address of a database, for its administrator."""
        return f"postgresql://{self.admin['username']}:{self.admin['password']}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres() -> Generator[Postgres]:
    """Start PostgreSQL with password logins only, logging every statement; end it at last."""
    # Not below pytest's folder, which only root enters: PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="dataplatform-pg-"))
    admin = {"username": "postgres", "password": "first-of-all"}
    (folder / "password").write_text(admin["password"])
    if os.geteuid() == 0:
        for path in (folder, folder / "password"):
            os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
    programs, port = postgres_programs(), free_port()
    initdb = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256"]
    initdb += ["--pwfile", folder / "password", "--no-sync", "-E", "UTF8", "--locale=C"]
    made = unprivileged([str(part) for part in initdb])
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    command = [programs / "postgres", "-D", folder / "data", f"--port={port}", "--fsync=off"]
    command += ["--listen_addresses=127.0.0.1", "--unix_socket_directories="]
    # What a server may log at most.
    command.append("--log_statement=all")
    with (folder / "log").open("wb") as log:
        start = unprivileged([str(part) for part in command])
        process = subprocess.Popen(start, stdout=log, stderr=log, cwd=folder)
    server = Postgres(port, folder / "log", admin)
    try:
        _wait_for(server)
        yield server
    finally:
        # SIGTERM would wait for the last client to leave.
        process.send_signal(signal.SIGINT)
        process.wait(20)
        shutil.rmtree(folder)


@retry(stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True)
def _wait_for(server: Postgres) -> None:
    psycopg2.connect(server.url("postgres")).close()


if __name__ == "__main__":
    for _installed in (minio_program, trino_home, versitygw_program, mc_program):
        _installed()
