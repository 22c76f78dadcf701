"""PostgreSQL and MinIO on loopback, for tests: real, small, ended afterwards."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform_tests import servers
from dataplatform_tests.servers import free_port


@dataclass(frozen=True)
class Server:
    """A server's address, and its administrator as Vault keeps it."""

    address: str
    admin: dict[str, str] = field(repr=False)
    log: Path


@contextmanager
def postgres() -> Generator[Server]:
    """Start PostgreSQL with password logins only."""
    with servers.postgres() as running:
        yield Server(running.address, running.admin, running.log)


@contextmanager
def minio(folder: Path) -> Generator[Server]:
    """Start MinIO with a bucket and a policy of the consumer `platform`."""
    address = f"127.0.0.1:{free_port()}"
    root = {"access_key": "root", "secret_key": "first-of-all"}
    environment = {
        **os.environ,
        "MINIO_ROOT_USER": root["access_key"],
        "MINIO_ROOT_PASSWORD": root["secret_key"],
        "MINIO_UPDATE": "off",
        "MINIO_BROWSER": "off",
    }
    with (folder / "minio.log").open("wb") as log:
        command = [servers.minio_program(), "server", str(folder / "data"), "--address", address]
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
