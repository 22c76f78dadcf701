"""Tunnels through a real sshd: what they carry, and what happens when something behind them breaks."""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from dataplatform_tests.infra.tunnels.conftest import NODES, Held, Page, Socket, gateway_of, to
from dataplatform_tests.infra.tunnels.sshd import Sshd, free_port, make_key, until
from infra.tunnels.errors import HostKeyError, UnreachableError
from infra.tunnels.gateway import Gateway
from infra.tunnels.routes import Route

pytestmark = pytest.mark.stack

Hold = Callable[..., Held]
MakePage = Callable[..., Page]


def get(route: Route) -> str:
    return httpx.get(route.url, trust_env=False, timeout=10).text


def test_each_tunnel_leads_to_its_page(sshd: Sshd, hold: Hold, make_page: MakePage) -> None:
    routes = [to(make_page("grafana")), to(make_page("vault"), path="/ui/")]
    held = hold(gateway_of(sshd), *routes)
    assert [get(one) for one in routes] == ["grafana", "vault"]
    assert held.is_healthy()
    (table,) = held.tables
    assert [(one.name, one.url) for one in table.tunnels] == [(one.name, one.url) for one in routes]


def test_nobody_else_on_the_network_reaches_them(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    route = to(make_page("grafana"))
    hold(gateway_of(sshd), route)
    listening = [
        one.laddr.ip
        for one in psutil.Process().net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == route.local_port
    ]
    assert listening == ["127.0.0.1"]


def test_twenty_connections_at_once_carry_megabytes_unharmed(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    route = to(make_page("registry"))
    hold(gateway_of(sshd), route)
    bodies = [os.urandom(200_000) for _ in range(19)] + [os.urandom(8_000_000)]

    def echo(body: bytes) -> bytes:
        return httpx.post(route.url, content=body, trust_env=False, timeout=60).content

    with ThreadPoolExecutor(20) as pool:
        echoed = list(pool.map(echo, bodies))
    assert [hashlib.sha256(one).digest() for one in echoed] == [
        hashlib.sha256(one).digest() for one in bodies
    ]


def test_an_end_that_has_said_all_still_gets_the_answer(
    sshd: Sshd, hold: Hold, raw: Socket
) -> None:
    hold(gateway_of(sshd), raw.route, probe=60)
    before, behind = raw.connect()
    with before, behind:
        before.sendall(b"all i have")
        before.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: behind.recv(100), b"")) == b"all i have"
        behind.sendall(b"ALL I HAVE")
        behind.close()
        assert b"".join(iter(lambda: before.recv(100), b"")) == b"ALL I HAVE"


def test_any_node_that_answers_is_taken(sshd: Sshd, hold: Hold, make_page: MakePage) -> None:
    page = make_page("grafana", NODES[1])
    held = hold(gateway_of(sshd), to(page, *NODES))
    assert held.state("grafana") == "up"
    assert held.snapshot.tunnels[0].target == f"{NODES[1]}:{page.port}"


def test_a_dead_page_is_named_with_its_reason_and_leaves_the_others_alone(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    dead, alive = make_page("minio"), to(make_page("grafana"))
    dead.end()
    route = to(dead, *NODES)
    held = hold(gateway_of(sshd), route, alive)
    assert held.state("minio") == "down"
    first = f"{NODES[0]}:{dead.port}: connection refused"
    assert held.detail("minio") == f"{first} (nor on 1 other node)"
    assert get(alive) == "grafana"
    with pytest.raises(httpx.TransportError):
        get(route)
    make_page("minio", port=dead.port)
    assert until(lambda: held.state("minio") == "up")
    assert "good: minio: answers again." in held.told
    assert get(route) == "minio"


def test_a_page_that_answers_with_its_own_error_is_failing(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    page = make_page("vault")
    held = hold(gateway_of(sshd), to(page))
    page.status = 503
    assert until(lambda: held.state("vault") == "failing")
    assert held.detail("vault") == "answers 503 Service Unavailable"
    page.status = 403
    assert until(lambda: held.state("vault") == "up")


def test_a_host_that_forbids_forwarding_is_told_with_the_remedy(
    make_sshd: Callable[..., Sshd], hold: Hold, make_page: MakePage
) -> None:
    held = hold(gateway_of(make_sshd(AllowTcpForwarding="no")), to(make_page("vault")))
    assert "AllowTcpForwarding yes" in held.detail("vault")


def test_a_dropped_connection_comes_back_on_the_same_ports(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    route = to(make_page("grafana"))
    held = hold(gateway_of(sshd), route)
    for time_ in (1, 2, 3):
        sshd.drop()
        # Without a pause: a new connection waits for SSH to come back.
        assert get(route) == "grafana"
        assert held.snapshot.reconnects == time_
    assert len([one for one in held.told if "The SSH connection broke" in one]) == 3
    assert until(lambda: held.snapshot.healthy)


def test_a_transfer_breaks_with_the_connection_rather_than_end_too_early(
    sshd: Sshd, hold: Hold, raw: Socket
) -> None:
    hold(gateway_of(sshd), raw.route, probe=60)
    before, behind = raw.connect()
    with before, behind:
        behind.sendall(b"half of it")
        assert before.recv(100) == b"half of it"
        sshd.drop()
        with pytest.raises(ConnectionResetError):
            before.recv(100)


def test_a_killed_server_is_waited_for(sshd: Sshd, hold: Hold, make_page: MakePage) -> None:
    route = to(make_page("grafana"))
    held = hold(gateway_of(sshd), route)
    sshd.kill()
    assert until(
        lambda: "Connect call failed" in held.snapshot.detail or "refused" in held.snapshot.detail
    )
    assert held.snapshot.connection == "reconnecting"
    assert held.state("grafana") == "waiting"
    time.sleep(0.5)
    refused = [one for one in held.told if "can't be reached" in one]
    assert len(refused) == 1  # The same reason is told once.
    sshd.start()
    assert until(lambda: held.snapshot.healthy)
    assert get(route) == "grafana"
    assert held.told[-1].startswith("good: Connected to ")


def test_a_silent_host_is_given_up(sshd: Sshd, hold: Hold, make_page: MakePage) -> None:
    route = to(make_page("grafana"))
    held = hold(gateway_of(sshd, keepalive=0.5), route)
    sshd.freeze()
    assert until(lambda: held.snapshot.reconnects)
    assert any("not responding to keepalive" in one for one in held.told)
    assert get(route) == "grafana"


def test_a_host_whose_key_changes_meanwhile_is_not_talked_to_again(
    sshd: Sshd, hold: Hold, make_page: MakePage
) -> None:
    route = to(make_page("grafana"))
    held = hold(gateway_of(sshd), route)
    sshd.kill()
    make_key(sshd.host_key)
    sshd.start()
    error = held.failure()
    assert isinstance(error, HostKeyError)
    assert (held.snapshot.connection, held.snapshot.detail) == ("failed", str(error))
    with pytest.raises(httpx.ConnectError):
        get(route)


def test_an_absent_host_is_told_at_once(hold: Hold, make_page: MakePage, ssh_home: object) -> None:
    held = hold(Gateway("127.0.0.1", free_port(), "root"), to(make_page("grafana")))
    error = held.failure()
    assert isinstance(error, UnreachableError)
    assert "refused" in str(error)
    assert "Remedy: see that the host is up" in str(error)


def test_a_port_that_speaks_no_ssh_is_no_host(
    hold: Hold, make_page: MakePage, ssh_home: object
) -> None:
    page = make_page("grafana", "127.0.0.1")
    held = hold(Gateway("127.0.0.1", page.port, "root", connect_seconds=1), to(page))
    assert isinstance(held.failure(), UnreachableError)
