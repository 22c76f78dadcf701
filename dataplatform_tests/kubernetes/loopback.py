"""Where the programs of a node listen: at 127.0.0.1, on ports that no other node has.

Kubernetes itself refuses 127.0.0.0/8 for nodes, pods and endpoints. Those have addresses on paper, from
the networks that RFC 5737 keeps for documentation; no interface has one, and nothing connects to one:
the API server asks a proxy (`egress`), pods ask the DNS (`dns`), and both lead to 127.0.0.1.
"""

import random
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

ADDRESS: Final = "127.0.0.1"
"""Where everything listens."""
NODE: Final = "203.0.113.1"
"""The node's address on paper, which all of its pods have too."""
SERVICES: Final = "198.51.100.0/24"
"""The services' addresses on paper."""

# The kernel gives ports from 32768 on to connections: one of a dead program would be gone.
_FIRST_PORT: Final = 20000
_FREE_PORTS: Final = range(23000, 30000)
_NODES: Final = range(1, 255)
_LISTENERS: Final = (
    "etcd",
    "etcd-peers",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubelet-health",
)


@dataclass(frozen=True)
class Ports:
    """The ports of one of the nodes that run side by side."""

    number: int

    def __getitem__(self, listener: str) -> int:
        """Return the port of a program."""
        return _FIRST_PORT + self.number * len(_LISTENERS) + _LISTENERS.index(listener)

    def are_free(self) -> bool:
        """Return whether no program listens on one of them."""
        return all(_is_free(self[listener]) for listener in _LISTENERS)


@contextmanager
def claimed(locks: Path) -> Generator[Ports]:
    """Yield ports that no other node has.

    Args:
        locks: a folder for lock files, the same for all nodes of the machine. The kernel drops the
            lock of a killed process, whose ports the next node takes over.
    """
    locks.mkdir(exist_ok=True)
    for number in _NODES:
        lock, ports = FileLock(locks / f"{number}.lock", blocking=False), Ports(number)
        try:
            lock.acquire()
        except Timeout:
            continue
        try:
            if ports.are_free():
                yield ports
                return
        finally:
            lock.release()
    raise RuntimeError(f"all of {len(_NODES)} nodes run. Remedy: end some of their tests.")


def free_port() -> int:
    """Return a port that is free, and that the kernel gives to no connection in the meantime."""
    return next(port for port in random.sample(_FREE_PORTS, len(_FREE_PORTS)) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of a program that ended linger for a minute, in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
        return True
