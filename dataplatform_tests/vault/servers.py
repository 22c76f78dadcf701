"""PostgreSQL and MinIO on loopback, for tests: real, small, ended afterwards."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform_tests.vault.openbao import CACHE, free_port


@dataclass(frozen=True)
class Server:
    """A server's address, and its administrator as Vault keeps it."""

    address: str
    admin: dict[str, str] = field(repr=False)
    log: Path


@contextmanager
def postgres() -> Generator[Server]:
    """Start PostgreSQL with password logins only."""
    # Not below pytest's folder, which only root enters: PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="dataplatform-pg-"))
    superuser = {"username": "postgres", "password": "first-of-all"}
    (folder / "password").write_text(superuser["password"])
    account = _unprivileged(folder)
    programs, port = _postgres_programs(), free_port()
    initdb = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "scram-sha-256"]
    initdb += ["--pwfile", folder / "password", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=folder, **account)
    command = [programs / "postgres", "-D", folder / "data", f"--port={port}", "--fsync=off"]
    command += ["--listen_addresses=127.0.0.1", "--unix_socket_directories="]
    # What a server may log at most.
    command.append("--log_statement=all")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **account)
    server = Server(f"postgresql://127.0.0.1:{port}", superuser, folder / "log")
    try:
        _wait_for_postgres(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


@contextmanager
def minio(folder: Path) -> Generator[Server]:
    """Start MinIO with a bucket and a policy of the consumer `platform`."""
    address = f"127.0.0.1:{free_port()}"
    root = {"access_key": "root", "secret_key": "first-of-all"}
    found = sorted(CACHE.glob("minio-*/minio"))
    program = str(found[-1]) if found else shutil.which("minio")
    assert program, "no MinIO: run `make stack` once"
    environment = {
        **os.environ,
        "MINIO_ROOT_USER": root["access_key"],
        "MINIO_ROOT_PASSWORD": root["secret_key"],
        "MINIO_UPDATE": "off",
        "MINIO_BROWSER": "off",
    }
    with (folder / "minio.log").open("wb") as log:
        command = [program, "server", str(folder / "data"), "--address", address]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    server = Server(f"http://{address}", root, folder / "minio.log")
    try:
        _prepare_minio(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def store(server: Server, keys: Any) -> Minio:
    return Minio(
        endpoint=server.address.removeprefix("http://"),
        access_key=keys["access_key"],
        secret_key=keys["secret_key"],
        secure=False,
    )


def _unprivileged(folder: Path) -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    for path in (folder, folder / "password"):
        os.chown(path, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _postgres_programs() -> Path:
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *CACHE.glob("**/bin/initdb")]
    assert found, "no PostgreSQL: run `make stack` once"
    return found[0].parent


@retry(stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True)
def _wait_for_postgres(server: Server) -> None:
    login = server.admin
    psycopg2.connect(
        server.address, dbname="postgres", user=login["username"], password=login["password"]
    ).close()


@retry(stop=stop_after_delay(60), wait=wait_fixed(0.2), reraise=True)
def _prepare_minio(server: Server) -> None:
    client = store(server, server.admin)
    if not client.bucket_exists(bucket_name="datalake"):
        client.make_bucket(bucket_name="datalake")
    statement = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::datalake/*"]}
    MinioAdmin(
        endpoint=server.address.removeprefix("http://"),
        credentials=StaticProvider(server.admin["access_key"], server.admin["secret_key"]),
        secure=False,
    ).policy_add("platform", policy={"Version": "2012-10-17", "Statement": [statement]})
