"""Which ports lead where, and what is said of those that are taken."""

import os
import socket
from pathlib import Path

import pytest

from infra.spec.model import load_spec
from infra.tunnels.errors import PortTakenError, TunnelError
from infra.tunnels.ports import claim, moved
from infra.tunnels.routes import Route, Target, routes


def test_the_reference_has_the_tunnels_of_the_architecture() -> None:
    chosen = {
        route.name: (route.targets[0].port, route.local_port) for route in routes(load_spec())
    }
    assert (
        chosen.items()
        >= {
            "headlamp": (30098, 8080),
            "minio-console": (30901, 9001),
            "minio": (30900, 9000),
            "vault": (30820, 8200),
            "registry": (30500, 5050),
        }.items()
    )
    assert chosen.keys() >= {"dagster", "trino", "superset", "grafana"}


def test_a_node_port_is_asked_of_every_machine_and_another_port_of_its_own() -> None:
    spec = load_spec()
    by_name = {route.name: route for route in routes(spec)}
    nodes = [str(machine.ip) for machine in spec.machines()]
    assert by_name["grafana"].targets == tuple(Target(ip, 30301) for ip in nodes)
    assert nodes[0] == "10.10.0.101"
    assert by_name["proxmox"].targets == (Target("127.0.0.1", 8006),)
    assert by_name["kubernetes"].targets == (Target("10.10.0.101", 6443),)


def test_names_choose_and_ports_differ() -> None:
    chosen = routes(load_spec(), ["vault", "trino"], {"trino": 18081})
    assert [one.url for one in chosen] == [
        "http://127.0.0.1:8200/ui/",
        "http://127.0.0.1:18081/ui/",
    ]


@pytest.mark.parametrize(
    ("names", "ports", "said"),
    [
        (
            ["grafna"],
            {},
            "No tunnel is called grafna. Remedy: one of proxmox, kubernetes, headlamp",
        ),
        ([], {"x": 1}, "No tunnel is called x"),
        ([], {"trino": 8080}, "headlamp and trino would both listen on 8080. Remedy: .*--port"),
    ],
)
def test_what_can_not_be_is_refused(names: list[str], ports: dict[str, int], said: str) -> None:
    with pytest.raises(TunnelError, match=said):
        routes(load_spec(), names, ports)


def _route(name: str, port: int) -> Route:
    return Route(name, port, (Target("10.10.0.101", 30000),))


def test_every_taken_port_is_named_with_the_process_that_has_it(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("0.0.0.0", 0)) as everywhere,  # noqa: S104  is what may be in the way
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        ports = [each.getsockname()[1] for each in (one, everywhere, free)]
        free.close()
        wanted = [
            _route(name, port)
            for name, port in zip(("vault", "minio", "trino"), ports, strict=True)
        ]
        with pytest.raises(PortTakenError) as caught:
            claim(wanted)
        text = str(caught.value)
        for name, port in (("vault", ports[0]), ("minio", ports[1])):
            assert f"{port} ({name}): taken by " in text
        assert text.count(f"(pid {os.getpid()}: ") == 2
        assert "trino" not in text
        # None was kept: all or nothing.
        socket.create_server(("127.0.0.1", ports[2])).close()


def test_a_taken_port_gives_way_to_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (route,) = moved([_route("vault", port)])
        assert route.local_port != port
        (bound,) = claim([route])
        assert bound.getsockname() == ("127.0.0.1", route.local_port)
        bound.close()
