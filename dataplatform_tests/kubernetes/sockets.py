"""The addresses that a node's programs use, containers included."""

import psutil

from dataplatform_tests.kubernetes.node import Node


def used(node: Node) -> dict[str, set[str]]:
    """Return by program the addresses at both ends of its sockets, those that listen included."""
    found: dict[str, set[str]] = {}
    for process in node.processes():
        try:
            name, sockets = process.name(), process.net_connections("inet")
        except psutil.NoSuchProcess:
            continue
        ends = {end.ip for socket in sockets for end in (socket.laddr, socket.raddr) if end}
        # Java's sockets speak both versions of IP.
        found.setdefault(name, set()).update(end.removeprefix("::ffff:") for end in ends)
    return found


def interfaces() -> set[tuple[str, str]]:
    """Return each address of this machine with the name of its interface."""
    found = psutil.net_if_addrs()
    return {(name, each.address) for name, addresses in found.items() for each in addresses}
