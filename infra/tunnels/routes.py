"""From which local port to which addresses: what the specification says, and the user changes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from infra.spec.model import ClusterSpec, Tunnel
from infra.tunnels.errors import TunnelError


@dataclass(frozen=True)
class Target:
    """A TCP address as seen from the host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Route:
    """A tunnel: a port of 127.0.0.1 that leads to one of some addresses.

    Attributes:
        name: what is behind it.
        local_port: where it listens.
        targets: where it leads to; the first that answers is taken.
        path: of the page to open.
        scheme: of its URL.
    """

    name: str
    local_port: int
    targets: tuple[Target, ...]
    path: str = "/"
    scheme: str = "http"

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return f"{self.scheme}://127.0.0.1:{self.local_port}{self.path}"


def routes(
    spec: ClusterSpec, names: Collection[str] = (), ports: Mapping[str, int] | None = None
) -> tuple[Route, ...]:
    """Return the tunnels of a specification, in its order.

    Args:
        spec: the specification.
        names: the tunnels wanted; all where none is named.
        ports: local ports that differ from the specification's, by tunnel.

    Raises:
        TunnelError: a name is no tunnel's, or two tunnels have one local port.
    """
    ports = ports or {}
    known = [tunnel.name for tunnel in spec.tunnels]
    if unknown := sorted({*names, *ports} - set(known)):
        raise TunnelError(
            f"No tunnel is called {', '.join(unknown)}. Remedy: one of {', '.join(known)}."
        )
    wanted = [_route(spec, one) for one in spec.tunnels if not names or one.name in names]
    chosen = tuple(replace(one, local_port=ports.get(one.name, one.local_port)) for one in wanted)
    _check_ports(chosen)
    return chosen


def _route(spec: ClusterSpec, tunnel: Tunnel) -> Route:
    """Return where a tunnel leads to: its node, or all machines, as a NodePort is open on each."""
    machines = [one for one in spec.machines() if tunnel.node in (None, one.name)]
    hosts = [str(one.ip) for one in machines] if machines else [_LOOPBACK]
    targets = tuple(Target(host, tunnel.port) for host in hosts)
    return Route(tunnel.name, tunnel.local_port, targets, tunnel.path, tunnel.scheme)


_LOOPBACK: Final = "127.0.0.1"
"""Of the host, which is the node of a tunnel that names no machine."""


def _check_ports(chosen: tuple[Route, ...]) -> None:
    owner: dict[int, str] = {}
    for route in chosen:
        other = owner.setdefault(route.local_port, route.name)
        if other != route.name:
            raise TunnelError(
                f"{other} and {route.name} would both listen on {route.local_port}."
                f" Remedy: another port for one of them, --port {route.name}=PORT."
            )
