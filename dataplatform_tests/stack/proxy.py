"""A TCP proxy on loopback that stops at one request, so that a fault strikes at an exact moment."""

import re
import socket
import socketserver
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Moment = Literal["before", "answered"]


@dataclass
class Strike:
    """What happens to the first request that fits.

    Attributes:
        request: a pattern of what the client sends, from the request line on.
        action: done once, while the request waits.
        moment: before the request is passed on; or once the server has answered it, and then the
            answer is lost.
        struck: set when the action is done.
        error: what the action raised.
    """

    request: re.Pattern[bytes]
    action: Callable[[], object]
    moment: Moment = "before"
    struck: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def act(self) -> None:
        """Do it, and keep what it raises for the test."""
        try:
            self.action()
        except Exception as error:  # noqa: BLE001  the test looks at it
            self.error = error
        finally:
            self.struck.set()


class Proxy:
    """Passes connections on to one server; HTTP without pipelining, as all clients here speak."""

    def __init__(self, target: str) -> None:
        place = urlsplit(target)
        self._target = (place.hostname, place.port)
        self._strike: Strike | None = None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._serve)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def strike(
        self, request: str, action: Callable[[], object], moment: Moment = "before"
    ) -> Strike:
        """Have `action` done at the next request that fits."""
        self._strike = Strike(re.compile(request.encode(), re.DOTALL), action, moment)
        return self._strike

    def _taken(self, sent: bytes) -> Strike | None:
        with self._lock:
            strike = self._strike
            if strike is None or not strike.request.search(sent):
                return None
            self._strike = None
            return strike

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        link = _Link(client, server, self._taken)
        answers = threading.Thread(target=link.pass_answers, daemon=True)
        answers.start()
        link.pass_requests()
        answers.join()

    @contextmanager
    def running(self) -> Generator["Proxy"]:
        """Serve until the end of the `with`."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Link:
    """One client's connection and the server's."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        taken: Callable[[bytes], Strike | None],
    ) -> None:
        self._client, self._server, self._taken = client, server, taken
        self._sent = b""
        self._withheld: Strike | None = None

    def pass_requests(self) -> None:
        with suppress(OSError):
            while chunk := self._client.recv(65536):
                self._sent += chunk
                strike = self._taken(self._sent)
                if strike and strike.moment == "before":
                    strike.act()
                elif strike:
                    self._withheld = strike
                self._server.sendall(chunk)
        self._close()

    def pass_answers(self) -> None:
        with suppress(OSError):
            while chunk := self._server.recv(65536):
                self._sent = b""
                if self._withheld:
                    self._withheld.act()
                    break
                self._client.sendall(chunk)
        self._close()

    def _close(self) -> None:
        for one in (self._client, self._server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class _Server(socketserver.ThreadingTCPServer):
    """Gives each connection to a function, in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], serve: Callable[[socket.socket], None]) -> None:
        super().__init__(address, socketserver.BaseRequestHandler)
        self._serve = serve

    def finish_request(self, request: Any, client_address: Any) -> None:
        del client_address
        self._serve(request)
