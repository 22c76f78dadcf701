"""An address of its own for each node, on the loopback interface.

A node's programs keep their usual ports, several nodes run side by side, and nothing is reachable from
outside. 127.0.0.0/8 would not do: the API server refuses it for nodes and for endpoints.
"""

import fcntl
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

_SET_ADDRESS: Final = 0x8916
_SET_MASK: Final = 0x891C
_SET_FLAGS: Final = 0x8914
_NODES: Final = range(1, 255)


@dataclass(frozen=True)
class Address:
    """One of the networks 198.18.N.0/24, which RFC 2544 keeps free for tests."""

    number: int

    def __str__(self) -> str:
        return f"198.18.{self.number}.1"

    @property
    def network(self) -> str:
        """Return the network, whose first address is also the one of the service `kubernetes`."""
        return f"198.18.{self.number}.0/24"


@contextmanager
def claimed(locks: Path) -> Generator[Address]:
    """Yield an address that no other node has, and take it off the interface at last.

    Args:
        locks: a folder for lock files, the same for all nodes of the machine. The kernel drops the
            lock of a killed process, whose address the next node takes over.
    """
    locks.mkdir(exist_ok=True)
    for number in _NODES:
        lock = FileLock(locks / f"{number}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        address = Address(number)
        try:
            _add(address)
            yield address
        finally:
            _remove(address)
            lock.release()
        return
    raise RuntimeError(f"all of {len(_NODES)} nodes run. Remedy: end some of their tests.")


def _add(address: Address) -> None:
    _configure(address, _SET_ADDRESS, _internet(str(address)))
    _configure(address, _SET_MASK, _internet("255.255.255.0"))


def _remove(address: Address) -> None:
    _configure(address, _SET_FLAGS, struct.pack("h", 0))


def _internet(address: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _configure(address: Address, request: int, value: bytes) -> None:
    # An alias of the interface, which needs neither the command `ip` nor a netlink library.
    alias = f"lo:{address.number}".encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, request, struct.pack("16s24s", alias, value))
