"""Local ports: taken all at once, and who has those that are not free."""

import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import psutil

from infra.tunnels.errors import PortTakenError
from infra.tunnels.routes import Route

LOOPBACK: Final = "127.0.0.1"
_COMMAND_LENGTH: Final = 60


def claim(routes: Iterable[Route]) -> list[socket.socket]:
    """Return a socket bound to 127.0.0.1 for each route: all of them, or none.

    Raises:
        PortTakenError: some are taken; it names each with the process that has it.
    """
    clashes: list[str] = []
    with ExitStack() as bound:
        sockets: list[socket.socket] = []
        for route in routes:
            try:
                sockets.append(bound.enter_context(_bind(route.local_port)))
            except OSError as error:
                clashes.append(f"{route.local_port} ({route.name}): {_cause(route, error)}")
        if clashes:
            raise PortTakenError(
                f"Local ports can't be taken: {'; '.join(clashes)}."
                " Remedy: end what has them, or take others, --port NAME=PORT, or --free-ports."
            )
        bound.pop_all()
    return sockets


def moved(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return the routes, those whose local port is taken with a free one."""
    with ExitStack() as bound:
        return tuple(_moved(route, bound) for route in routes)


def _moved(route: Route, bound: ExitStack) -> Route:
    try:
        bound.enter_context(_bind(route.local_port))
    except OSError:
        free = bound.enter_context(_bind(0))
        return replace(route, local_port=free.getsockname()[1])
    return route


def _bind(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        # What is left of a former listener's connections doesn't keep the port from its successor.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def _cause(route: Route, error: OSError) -> str:
    holder = _holder(route.local_port)
    return f"taken by {holder}" if holder else (error.strerror or str(error))


def _holder(port: int) -> str | None:
    """Return the process that listens on a port, as a user knows it; None where nobody does."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS tells root only.
        return "another process"
    for one in found:
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
            return _described(one.pid) if one.pid else "a process of another user"
    return None


def _described(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        name, command = process.name(), " ".join(process.cmdline()).replace(os.linesep, " ")
    except psutil.Error:
        return f"process {pid}"
    short = command if len(command) <= _COMMAND_LENGTH else f"{command[:_COMMAND_LENGTH]}…"
    return f"{name} (pid {pid}: {short})"
