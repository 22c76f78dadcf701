"""Where the stack keeps its state, which ports it takes, and which servers are the user's own."""

import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from pydantic_settings import BaseSettings, SettingsConfigDict

from dataplatform.addresses import CatalogAddress, PostgresAddress, ServerAddress

HOST: Final = "127.0.0.1"
REGION: Final = "us-east-1"

SERVERS: Final = ("vault", "postgres", "minio", "catalog", "trino")
"""In the order of their start; they end in the reverse one."""

SETTING: Final[dict[str, str]] = {
    "vault": "vault_addr",
    "postgres": "postgres_url",
    "minio": "s3_endpoint",
    "catalog": "catalog_uri",
    "trino": "trino_url",
}
"""The setting that holds a server's address."""

DEFAULT_PORTS: Final[dict[str, int]] = {
    "vault": 8200,
    "vault-cluster": 8201,
    "postgres": 5432,
    "minio": 9000,
    "minio-console": 9001,
    "catalog": 8181,
    "trino": 8080,
}

_SOCKET_PATH_LIMIT: Final = 90
"""Unix allows 107 bytes (macOS 103), and supervisor appends the number of its process."""


class StackError(Exception):
    """The stack can't do what was asked; the message names the cause and the remedy."""


class Given(BaseSettings):
    """The addresses and credentials that the user set; what is set, the stack doesn't start."""

    model_config = SettingsConfigDict(
        env_prefix="DATAPLATFORM_", env_file=".env", extra="ignore", hide_input_in_errors=True
    )

    vault_addr: ServerAddress | None = None
    vault_auth: str = "approle"
    vault_role_id: str | None = None
    vault_credential_file: Path | None = None
    vault_rotation_credential_file: Path | None = None
    vault_ca_file: Path | None = None
    postgres_url: PostgresAddress | None = None
    s3_endpoint: ServerAddress | None = None
    s3_region: str = REGION
    catalog_uri: CatalogAddress | None = None
    trino_url: ServerAddress | None = None

    def address(self, server: str) -> str | None:
        """Return the address that the user set for this server."""
        return getattr(self, SETTING[server])


@dataclass(frozen=True)
class Layout:
    """The files of one stack, all below `<home>/stack`."""

    root: Path

    @classmethod
    def below(cls, home: Path) -> "Layout":
        """Return the layout of the stack of this home."""
        return cls(home.resolve() / "stack")

    def data(self, server: str) -> Path:
        """Return the folder of a server's data."""
        return self.root / "data" / server

    def log(self, server: str) -> Path:
        """Return the file of what a server says."""
        return self.root / "logs" / f"{server}.log"

    def config(self, server: str) -> Path:
        """Return the folder of a server's configuration."""
        return self.root / "config" / server

    @property
    def plan(self) -> Path:
        """Which servers run, where from and on which ports."""
        return self.root / "plan.json"

    @property
    def endpoints(self) -> Path:
        """The addresses, under the names of the settings."""
        return self.root / "endpoints.json"

    @property
    def lock(self) -> Path:
        """Held by the command that changes the stack, also by the one that removes its folder."""
        return self.root.with_name(".stack.lock")

    @property
    def lock_holder(self) -> Path:
        """The number of that command's process."""
        return self.root.with_name(".stack.lock.pid")

    def secret_id(self, role: str) -> Path:
        """Return the file with an AppRole's secret id; the platform's own has the plain name."""
        return self.root / ("secret-id" if role == "platform" else f"{role}-secret-id")

    @property
    def seal_key(self) -> Path:
        """The key that unseals our Vault when it starts."""
        return self.root / "vault-seal-key"

    @property
    def root_token(self) -> Path:
        """The token that our Vault was initialised with."""
        return self.root / "vault-root-token"

    @property
    def recovery_key(self) -> Path:
        """The key that a lost root token is made anew with."""
        return self.root / "vault-recovery-key"

    @property
    def supervisor_config(self) -> Path:
        """The configuration of the process that watches over the servers."""
        return self.config("supervisor") / "supervisord.conf"

    @property
    def supervisor_pid(self) -> Path:
        """The file with the number of that process."""
        return self.root / "supervisord.pid"

    @property
    def supervisor_socket(self) -> Path:
        """The socket of that process: in the state folder, unless its path is too long for one."""
        path = self.root / "supervisor.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"dataplatform-{name}.sock"


class VaultLogin(BaseModel):
    """How a process logs in to Vault; the credential itself is in the file."""

    method: str
    role: str | None
    credential_file: Path | None


class Plan(BaseModel):
    """What `dp stack up` decided; the starters and the other commands read it.

    Attributes:
        ports: the port of each listener.
        homes: where each server is installed.
        trino_java: the Java that Trino runs on.
        given: the addresses of the user's own servers.
        region: the region that S3 clients name.
        endpoints: every address, under the names of the settings; no secret.
        logins: how the setting up and each server's starter log in to Vault.
        vault_ca_file: the authority of the user's own Vault.
    """

    ports: dict[str, int] = {}
    homes: dict[str, Path] = {}
    trino_java: Path | None = None
    given: dict[str, str] = {}
    region: str = REGION
    endpoints: dict[str, str] = {}
    logins: dict[str, VaultLogin] = {}
    vault_ca_file: Path | None = None

    @classmethod
    def read(cls, layout: Layout) -> "Plan":
        """Read the plan; an empty one where there is none."""
        if not layout.plan.exists():
            return cls()
        return cls.model_validate_json(layout.plan.read_text())

    def write(self, layout: Layout) -> None:
        """Keep the plan for the starters and for the next command."""
        write_private(layout.plan, self.model_dump_json(indent=2))

    @property
    def ours(self) -> tuple[str, ...]:
        """The servers that this stack starts, in that order."""
        return tuple(server for server in SERVERS if server not in self.given)

    def address(self, server: str) -> str:
        """Return the address of a server, the user's or ours."""
        return self.given.get(server) or _ADDRESSES[server].format(port=self.ports[server])


def vault_logins(layout: Layout, given: Given) -> dict[str, VaultLogin]:
    """Return who logs in to Vault, by what it does: the setting up, and each server's starter.

    In the user's own Vault the role `rotation` does it all: it reads what servers are started with,
    and may write the first secrets of their users.

    Raises:
        StackError: no file holds that role's credential.
    """
    if given.vault_addr:
        file = _credential_file(given)
        own = VaultLogin(method=given.vault_auth, role="rotation", credential_file=file)
        return dict.fromkeys(("setup", *_STARTERS), own)
    setup = VaultLogin(method="token", role=None, credential_file=layout.root_token)
    starters = {
        role: VaultLogin(method="approle", role=role, credential_file=layout.secret_id(role))
        for role in _STARTERS
    }
    return {"setup": setup, **starters}


def _credential_file(given: Given) -> Path | None:
    """Return the file by which starters log in to the user's own Vault, wherever they are started."""
    file = given.vault_rotation_credential_file or given.vault_credential_file
    if file is None and given.vault_auth != "kubernetes":
        raise StackError(
            "Servers log in to your Vault by a file, also when they are started again, and none is"
            " named; a variable would not reach them. Remedy: put the credential of the role rotation"
            " into a file of mode 0600, named by DATAPLATFORM_VAULT_ROTATION_CREDENTIAL_FILE."
        )
    return file.resolve() if file else None


_STARTERS: Final = ("minio", "catalog", "trino")

_ADDRESSES: Final[dict[str, str]] = {
    "vault": f"http://{HOST}:{{port}}",
    "postgres": f"postgresql://{HOST}:{{port}}",
    "minio": f"http://{HOST}:{{port}}",
    "catalog": f"http://{HOST}:{{port}}/{{{{origin}}}}",
    "trino": f"http://{HOST}:{{port}}",
}


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123
        file.write(data)
    scratch.replace(path)


def write_endpoints(layout: Layout, endpoints: Mapping[str, str]) -> None:
    """Write the addresses that the profile `stack` reads."""
    write_private(layout.endpoints, json.dumps(dict(endpoints), indent=2) + "\n")


def choose_ports(before: Mapping[str, int], *, free: bool = False) -> dict[str, int]:
    """Return a port for each listener: the one it had, else its default, else a free one.

    Args:
        before: the ports of the last time, which are kept where nobody else took them.
        free: take free ports in place of the defaults.
    """
    chosen: dict[str, int] = {}
    for name, default in DEFAULT_PORTS.items():
        wished = before.get(name, 0 if free else default)
        taken = wished in chosen.values() or not is_free(wished)
        chosen[name] = free_port(chosen.values()) if taken or not wished else wished
    return chosen


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(besides: Iterable[int]) -> int:
    """Return a port that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        if port not in besides:
            return port
