"""The SSH connection to the host: its key checked, ours the only way to log in.

`~/.ssh/config` is in force as it is for `ssh`: ProxyJump, IdentityFile, IdentityAgent, HostKeyAlias,
UserKnownHostsFile. What it can't do here is switch off the check of the host's key.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from infra.tunnels.errors import HostKeyError, LoginError, TunnelError, UnreachableError

_KNOWN_HOSTS: Final = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
_SSH_PORT: Final = 22
_HOST_KEYS: Final = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256"
"""Asked for after those that are known: a host whose key is of another kind now is to show it."""
_BY_KEY_ONLY: Final[dict[str, Any]] = {
    "preferred_auth": "publickey",
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_auth": False,
    "gss_kex": False,
    "agent_forwarding": False,
}


@dataclass(frozen=True)
class Gateway:
    """The host whose SSH server leads to the machines.

    Attributes:
        host: its address, or its name in `~/.ssh/config`.
        port: of its SSH server.
        user: who logs in.
        identity: the private key to log in with; None: the agent's and the usual files.
        keepalive_seconds: how often a silent host is asked for a sign of life; three without one, and
            the connection is given up.
        connect_seconds: how long connecting and logging in may take.
    """

    host: str
    port: int = _SSH_PORT
    user: str = "root"
    identity: Path | None = None
    keepalive_seconds: float = 10.0
    connect_seconds: float = 30.0

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != _SSH_PORT else "")


class Client(asyncssh.SSHClient):
    """What is to be known of a connection later: which key the host showed, and why it ended."""

    offered: asyncssh.SSHKey | None = None
    lost: Exception | None = None

    def validate_host_public_key(
        self,
        host: str,  # noqa: ARG002  asyncssh's signature
        addr: str,  # noqa: ARG002
        port: int,  # noqa: ARG002
        key: asyncssh.SSHKey,
    ) -> bool:
        """Refuse a key that no file knows."""
        self.offered = key
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the reason."""
        self.lost = exc


async def connect(gateway: Gateway) -> tuple[asyncssh.SSHClientConnection, Client]:
    """Connect and log in.

    Raises:
        HostKeyError: the host's key is not the known one, or not known.
        LoginError: no key is accepted.
        UnreachableError: the host doesn't answer.
        TunnelError: a file of SSH's can't be used, or there is no common algorithm.
    """
    client = Client()
    try:
        options = _options(gateway, client)
        known_hosts = _known_hosts(options)
    except (OSError, ValueError) as error:  # asyncssh's errors of keys and configuration are these.
        raise TunnelError(
            f"{gateway}: SSH's files can't be used: {error}."
            " Remedy: mend what is named; see ~/.ssh and --identity."
        ) from error
    try:
        connection = await asyncssh.connect(
            gateway.host, gateway.port, options=options, known_hosts=known_hosts or b""
        )
    except (OSError, ValueError, asyncssh.Error) as error:
        raise _explained(error, gateway, client, options, known_hosts) from error
    return connection, client


def _options(gateway: Gateway, client: Client) -> asyncssh.SSHClientConnectionOptions:
    return asyncssh.SSHClientConnectionOptions(
        host=gateway.host,
        port=gateway.port,
        username=gateway.user,
        client_factory=lambda: client,
        connect_timeout=gateway.connect_seconds,
        keepalive_interval=gateway.keepalive_seconds,
        keepalive_count_max=3,
        server_host_key_algs=f"+{_HOST_KEYS}",
        **_BY_KEY_ONLY,
        **_keys(gateway.identity),
    )


def _keys(identity: Path | None) -> dict[str, Any]:
    """Return by which keys to log in: by the one named, which may be in the agent only."""
    if identity is None:
        return {}
    public = identity.with_name(f"{identity.name}.pub")
    # sshd ends a login after six wrong keys, so the agent is to offer this one only.
    keys: dict[str, Any] = {"agent_identities": [str(public)]} if public.exists() else {}
    if identity.exists() or not keys:
        keys |= {"client_keys": [str(identity)], "ignore_encrypted": True}
    return keys


def _known_hosts(options: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """Return the files that exist of those that ssh would read.

    asyncssh checks nothing where the configuration says `UserKnownHostsFile none`; we do.
    """
    named = options.known_hosts if isinstance(options.known_hosts, list) else []
    files = [Path(str(one)).expanduser() for one in named or _KNOWN_HOSTS]
    return [str(file) for file in files if file.is_file()]


def _explained(
    error: Exception,
    gateway: Gateway,
    client: Client,
    options: asyncssh.SSHClientConnectionOptions,
    known_hosts: list[str],
) -> TunnelError:
    """Return what asyncssh's error means to a user."""
    unknown = isinstance(error, asyncssh.HostKeyNotVerifiable)
    no_common_key = isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error)
    if unknown or no_common_key:
        return _host_key_error(str(error), gateway, client, options, known_hosts)
    if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error):
        return LoginError(
            f"{gateway}: no key was accepted ({error}). Remedy: give the host your public key,"
            f" `ssh-copy-id -p {gateway.port} {gateway.user}@{gateway.host}`; load a key that has a"
            " passphrase into the agent, `ssh-add`; or name the right one by --identity."
        )
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return TunnelError(f"{gateway}: {error}. Remedy: update the host's SSH server.")
    if isinstance(error, ValueError):
        return TunnelError(f"{gateway}: {error}. Remedy: mend the file {', '.join(known_hosts)}.")
    return UnreachableError(
        f"{gateway} can't be reached: {_reason(error, gateway)}. Remedy: see that the host is up,"
        f" that {gateway.port} is its SSH port and no firewall is in between:"
        f" `ssh -p {gateway.port} {gateway.user}@{gateway.host}`."
    )


def _reason(error: Exception, gateway: Gateway) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {gateway.connect_seconds:g} s"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text is "Connect call failed".
    return str(error).rstrip(".") or type(error).__name__


def _host_key_error(
    said: str,
    gateway: Gateway,
    client: Client,
    options: asyncssh.SSHClientConnectionOptions,
    known_hosts: list[str],
) -> HostKeyError:
    """Tell a key that nobody knows from one in whose place another is known."""
    port = None if options.port == _SSH_PORT else options.port
    name = options.host_key_alias or options.host
    entry = f"[{name}]:{port}" if port else name
    files = ", ".join(known_hosts) or _KNOWN_HOSTS[0]
    offered = (
        f"{client.offered.get_algorithm()} {client.offered.get_fingerprint()}"
        if client.offered
        else said
    )
    trusted = _trusted(known_hosts, name, port)
    check = (
        "compare it on the host's own console with `for f in /etc/ssh/ssh_host_*_key.pub;"
        " do ssh-keygen -lf $f; done`"
    )
    learn = f"`ssh-keyscan -p {options.port} {options.host} >> ~/.ssh/known_hosts`"
    if trusted:
        return HostKeyError(
            f"{gateway} shows ANOTHER KEY ({offered}) than the known one ({', '.join(trusted)}; {files})."
            " Either it was set up anew, or somebody is in between. Nothing was sent to it."
            f" Remedy: {check}; only if it is the host's, `ssh-keygen -R '{entry}'`, then {learn}."
        )
    return HostKeyError(
        f"{gateway} is not known: its key ({offered}) is in none of the files {files}."
        f" Remedy: {check}; if it is the host's, {learn}."
    )


def _trusted(known_hosts: list[str], name: str, port: int | None) -> list[str]:
    """Return the fingerprints of the keys that the files know of a host."""
    if not known_hosts:
        return []
    keys = asyncssh.match_known_hosts(known_hosts, name, "", port)[0]
    return [f"{key.get_algorithm()} {key.get_fingerprint()}" for key in keys]
