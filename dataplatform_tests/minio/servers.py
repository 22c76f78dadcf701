"""Real S3 servers on loopback, each with a root key and its data below a folder."""

import os
import subprocess
import time
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dataplatform.lake.store.s3 import S3Access
from dataplatform_tests.servers import free_port, minio_program, versitygw_program

ROOT = "root-of-the-tests"
SECRET = "a-secret-that-no-text-may-show"


@contextmanager
def minio(folder: Path, scanner: str = "fastest") -> Generator[S3Access]:
    """Run MinIO; quotas are held against a count of the data that its scanner makes anew."""
    port = free_port()
    command = [minio_program(), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder)]
    variables = {
        "MINIO_ROOT_USER": ROOT,
        "MINIO_ROOT_PASSWORD": SECRET,
        "MINIO_UPDATE": "off",
        "MINIO_BROWSER": "off",
        "MINIO_SCANNER_SPEED": scanner,
    }
    with _running(command, variables, port, "/minio/health/ready", folder):
        yield _access(port)


@contextmanager
def versitygw(folder: Path) -> Generator[S3Access]:
    """Run versitygw over a folder, with versions in another."""
    port = free_port()
    data, versions = folder / "data", folder / "versions"
    data.mkdir(parents=True)
    versions.mkdir()
    command = [
        versitygw_program(),
        "--port",
        f"127.0.0.1:{port}",
        "--quiet",
        "--health",
        "/health",
    ]
    command += ["posix", "--versioning-dir", str(versions), str(data)]
    variables = {"ROOT_ACCESS_KEY": ROOT, "ROOT_SECRET_KEY": SECRET}
    with _running(command, variables, port, "/health", folder):
        yield _access(port)


def _access(port: int) -> S3Access:
    return S3Access(f"http://127.0.0.1:{port}", "us-east-1", ROOT, SECRET)


@contextmanager
def _running(
    command: list[str], variables: Mapping[str, str], port: int, health: str, folder: Path
) -> Generator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}{health}", log)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 60
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until and server.poll() is None:
        try:
            with opener.open(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer:\n{log.read_text(errors='replace')[-2000:]}")
