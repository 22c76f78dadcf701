"""A home with SSH's files, a host to log in to, and pages behind it."""

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataplatform_tests.infra.tunnels.sshd import SSHD, Sshd, free_port, make_key, until
from infra.tunnels.errors import TunnelError
from infra.tunnels.gateway import Gateway
from infra.tunnels.routes import Route, Target
from infra.tunnels.state import Snapshot, StateFolder
from infra.tunnels.supervisor import Level, Supervisor, Timings

NODES = ("127.10.0.101", "127.10.0.102")
"""Two addresses of the loopback interface, in place of two machines."""
FAST = Timings(probe=0.1, first_delay=0.05, longest_delay=0.2)


class Page(ThreadingHTTPServer):
    """A page behind a tunnel: it says its name, and returns what it is sent."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name, self.status = name, 200
        super().__init__((host, port), _Handler)
        self.port = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    @property
    def _page(self) -> Page:
        assert isinstance(self.server, Page)
        return self.server

    def do_GET(self) -> None:
        self._answer(self._page.name.encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(self._page.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


class Held:
    """A supervisor in a thread of its own, as `dp tunnel up` has it in a process."""

    def __init__(
        self, gateway: Gateway, routes: tuple[Route, ...], folder: StateFolder, probe: float
    ) -> None:
        self.told: list[str] = []
        self.tables: list[Snapshot] = []
        self.error: TunnelError | None = None
        self._folder = folder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._supervisor = Supervisor(gateway, routes, folder, self, replace(FAST, probe=probe))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def ready(self, snapshot: Snapshot) -> None:
        self.tables.append(snapshot)

    def changed(self, what: str, level: Level) -> None:
        self.told.append(f"{level}: {what}")

    def _run(self) -> None:
        async def run() -> None:
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
            await self._supervisor.run()

        try:
            asyncio.run(run())
        except TunnelError as error:
            self.error = error
        except asyncio.CancelledError:
            pass

    @property
    def snapshot(self) -> Snapshot:
        found = self._folder.read()
        assert found, self.error
        return found

    def state(self, name: str) -> str:
        (found,) = [one for one in self.snapshot.tunnels if one.name == name]
        return found.state

    def detail(self, name: str) -> str:
        (found,) = [one for one in self.snapshot.tunnels if one.name == name]
        return found.detail

    def is_up(self) -> bool:
        return self.ended or (bool(self.tables) and self.snapshot.connection == "connected")

    def is_healthy(self) -> bool:
        return until(lambda: self.snapshot.healthy)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def failure(self) -> TunnelError:
        """The error that it ends with by itself."""
        self._thread.join(60)
        assert self.error, "It goes on."
        return self.error

    def end(self) -> None:
        if self._loop and self._task:
            with suppress(RuntimeError):  # The loop has ended.
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(60)
        assert self.ended


@pytest.fixture
def ssh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `.ssh` of a user without agent, with one key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return make_key(tmp_path / ".ssh" / "id_ed25519").parent


@pytest.fixture
def make_sshd(tmp_path: Path, ssh_home: Path) -> Iterator[Callable[..., Sshd]]:
    """Start servers that the user knows and may log in to."""
    if SSHD is None:
        pytest.skip("there is no sshd: apt-get install openssh-server")
    started: list[Sshd] = []

    def make(**options: str) -> Sshd:
        made = Sshd(tmp_path / f"sshd-{len(started)}", **options)
        made.authorized_keys.write_text((ssh_home / "id_ed25519.pub").read_text())
        with (ssh_home / "known_hosts").open("a") as known:
            known.write(made.known_hosts_line())
        started.append(made)
        made.start()
        return made

    yield make
    for one in started:
        one.kill()


@pytest.fixture
def sshd(make_sshd: Callable[..., Sshd]) -> Sshd:
    return make_sshd()


@pytest.fixture
def make_page() -> Iterator[Callable[..., Page]]:
    """Start pages on the nodes."""
    started: list[Page] = []

    def make(name: str, host: str = NODES[0], port: int = 0) -> Page:
        started.append(Page(name, host, port))
        return started[-1]

    yield make
    for one in started:
        one.end()


class Socket:
    """A server of plain TCP behind a tunnel, which is asked for its page once and then left alone."""

    def __init__(self) -> None:
        self._server = socket.create_server((NODES[0], 0))
        self._server.settimeout(20)
        target = Target(NODES[0], self._server.getsockname()[1])
        self.route = Route("raw", free_port(), (target,))
        self._question = threading.Thread(target=self._refuse)
        self._question.start()

    def _refuse(self) -> None:
        self.accept().close()

    def accept(self) -> socket.socket:
        return self._server.accept()[0]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Return a connection's end before the tunnel, and the one behind it."""
        self._question.join()
        before = socket.create_connection(("127.0.0.1", self.route.local_port), 20)
        return before, self.accept()

    def end(self) -> None:
        self._server.close()


@pytest.fixture
def raw() -> Iterator[Socket]:
    made = Socket()
    yield made
    made.end()


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


@pytest.fixture
def hold(folder: StateFolder) -> Iterator[Callable[..., Held]]:
    """Hold tunnels; return when each was asked for the first time, or the supervisor has ended."""
    started: list[Held] = []

    def make(gateway: Gateway, *routes: Route, probe: float = FAST.probe) -> Held:
        held = Held(gateway, routes, folder, probe)
        started.append(held)
        assert until(held.is_up, 60)
        if held.error:
            sys.stderr.write(f"{held.error}\n")
        return held

    yield make
    for one in started:
        one.end()


def to(page: Page, *hosts: str, path: str = "/") -> Route:
    """Return a tunnel to a page, from a free port."""
    targets = tuple(Target(host, page.port) for host in hosts or (str(page.server_address[0]),))
    return Route(page.name, free_port(), targets, path)


def gateway_of(sshd: Sshd, identity: Path | None = None, keepalive: float = 10.0) -> Gateway:
    return Gateway("127.0.0.1", sshd.port, sshd.user, identity, keepalive, connect_seconds=10)
