"""A real Vault for tests: OpenBao on loopback, unsealed, with a root token."""

import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hvac
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform_tests.servers import free_port, vault_program


@dataclass
class OpenBao:
    """A server and what only its first operator knows."""

    address: str
    process: "subprocess.Popen[bytes]"
    ca_file: Path | None = None
    root_token: str = field(default="", repr=False)
    unseal_key: str = field(default="", repr=False)

    def root(self) -> hvac.Client:
        return hvac.Client(self.address, self.root_token, verify=str(self.ca_file or "") or True)

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.1), reraise=True)
    def initialise(self) -> None:
        made = self.root().sys.initialize(secret_shares=1, secret_threshold=1)
        self.root_token, self.unseal_key = made["root_token"], made["keys"][0]
        self.unseal()

    @retry(stop=stop_after_delay(30), wait=wait_fixed(0.2), reraise=True)
    def unseal(self) -> None:
        self.root().sys.submit_unseal_key(self.unseal_key)
        self.root().read("sys/mounts")

    @retry(stop=stop_after_delay(20), wait=wait_fixed(0.2), reraise=True)
    def mount_kv(self) -> None:
        """Mount the KV engine, as soon as this server is elected where there are several."""
        self.root().sys.enable_secrets_engine("kv", "dataplatform", options={"version": "2"})

    @retry(stop=stop_after_delay(20), wait=wait_fixed(0.1), reraise=True)
    def wait_for_kv(self, path: str, values: Mapping[str, str]) -> None:
        """Write a first secret; a KV engine is not ready the moment it is mounted."""
        self.root().secrets.kv.v2.create_or_update_secret(
            path, dict(values), cas=0, mount_point="dataplatform"
        )


@contextmanager
def started(
    folder: Path, storage: str = 'storage "inmem" {}', tls: tuple[Path, Path] | None = None
) -> Generator[OpenBao]:
    """Start a server, which is sealed; end it afterwards.

    Args:
        folder: for its configuration and log.
        storage: where it keeps its data, in HCL.
        tls: certificate, which is its own authority, and key; None for plain HTTP.
    """
    host, cluster = (f"127.0.0.1:{free_port()}" for _ in range(2))
    address = f"{'https' if tls else 'http'}://{host}"
    listener = f'address = "{host}"\ncluster_address = "{cluster}"\n'
    listener += (
        f'tls_cert_file = "{tls[0]}"\ntls_key_file = "{tls[1]}"' if tls else "tls_disable = true"
    )
    config = folder / "openbao.hcl"
    addresses = f'api_addr = "{address}"\ncluster_addr = "https://{cluster}"\n'
    config.write_text(f'{storage}\n{addresses}listener "tcp" {{\n{listener}\n}}\n')
    with (folder / "openbao.log").open("wb") as log:
        command = [vault_program(), "server", "-config", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield OpenBao(address, process, tls[0] if tls else None)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def running(folder: Path, tls: tuple[Path, Path] | None = None) -> Generator[OpenBao]:
    """Start a server in memory, initialise and unseal it; end it afterwards."""
    with started(folder, tls=tls) as server:
        server.initialise()
        yield server
