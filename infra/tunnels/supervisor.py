"""Holds the tunnels: connects, asks whether each answers, and connects again whenever SSH breaks."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import asyncssh
import httpx

from infra.tunnels.errors import TunnelError, UnreachableError
from infra.tunnels.forward import Forward, Link
from infra.tunnels.gateway import Client, Gateway, connect
from infra.tunnels.ports import claim
from infra.tunnels.probe import Health, new_client, probe
from infra.tunnels.routes import Route
from infra.tunnels.state import Connection, Snapshot, StateFolder, TunnelStatus, this_process

Level = Literal["good", "bad", "note"]


class Audience(Protocol):
    """Who is told how the tunnels are."""

    def ready(self, snapshot: Snapshot) -> None:
        """Each tunnel was asked for the first time."""

    def changed(self, what: str, level: Level) -> None:
        """Something is not as it was; whether that is good."""


@dataclass(frozen=True)
class Timings:
    """How patient the supervisor is, in seconds.

    Attributes:
        probe: between two rounds of questions.
        first_delay: before the first attempt to connect again; it doubles with each.
        longest_delay: at which it stays. A connection that lived for less counts as an attempt.
    """

    probe: float = 10.0
    first_delay: float = 0.5
    longest_delay: float = 30.0

    def delay(self, attempts: int) -> float:
        """Return how long to wait after some attempts: at random, lest all come at once."""
        longest = min(self.longest_delay, self.first_delay * 2 ** min(attempts, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  no secret


class Supervisor:
    """The tunnels of one home, held by this process."""

    def __init__(
        self,
        gateway: Gateway,
        routes: tuple[Route, ...],
        folder: StateFolder,
        audience: Audience,
        timings: Timings | None = None,
    ) -> None:
        self._gateway = gateway
        self._routes = routes
        self._folder = folder
        self._audience = audience
        self._timings = timings or Timings()
        self._link = Link()
        self._forwards = [Forward(route, self._link) for route in routes]
        self._health: dict[str, tuple[Health, str]] = {}
        self._told: dict[str, tuple[Health, str]] = {}
        self._connection: tuple[Connection, str, datetime] = ("connecting", "", datetime.now(UTC))
        self._reconnects = 0

    async def run(self) -> None:
        """Hold the tunnels until cancelled.

        Raises:
            PortTakenError: other processes have ports that are needed.
            HostKeyError: the host's key is not the known one, now or later.
            LoginError: the host takes none of our keys.
            UnreachableError: the host doesn't answer the first attempt; later ones go on.
            TunnelError: anything else that trying again would not mend.
            AlreadyUpError: another process holds the tunnels.
        """
        with self._folder.held():
            try:
                await self._run()
            except TunnelError as error:
                self._becomes("failed", str(error))
                raise
            except asyncio.CancelledError:
                self._folder.forget()
                raise

    async def _run(self) -> None:
        async with AsyncExitStack() as open_now:
            for forward, bound in zip(self._forwards, claim(self._routes), strict=True):
                await open_now.enter_async_context(forward.serving(bound))
            asking = await open_now.enter_async_context(new_client())
            self._becomes("connecting")
            connection, client = await connect(self._gateway)
            attempts = 0
            while True:
                held = await self._hold(connection, asking)
                attempts = 0 if held > self._timings.longest_delay else attempts + 1
                connection, client = await self._reconnect(_why(client), attempts)
                self._reconnects += 1

    async def _hold(
        self, connection: asyncssh.SSHClientConnection, asking: httpx.AsyncClient
    ) -> float:
        """Use a connection until it breaks; return for how many seconds that was."""
        clock = asyncio.get_running_loop().time
        began = clock()
        self._link.set(connection)
        self._becomes("connected")
        closed = asyncio.ensure_future(connection.wait_closed())
        questions = asyncio.ensure_future(self._keep_asking(asking))
        try:
            await asyncio.wait({closed, questions}, return_when=asyncio.FIRST_COMPLETED)
            if questions.done():
                questions.result()
        finally:
            self._link.set(None)
            connection.close()
            closed.cancel()
            questions.cancel()
            await asyncio.gather(closed, questions, return_exceptions=True)
        return clock() - began

    async def _reconnect(
        self, why: str, attempts: int
    ) -> tuple[asyncssh.SSHClientConnection, Client]:
        """Connect again, with growing pauses, until it succeeds."""
        while True:
            delay = self._timings.delay(attempts - 1)
            self._health = {}
            self._becomes(
                "reconnecting", why, f"{why.partition(' Remedy: ')[0]} Again in {delay:.1f} s."
            )
            await asyncio.sleep(delay)
            try:
                return await connect(self._gateway)
            except UnreachableError as error:
                why, attempts = str(error), attempts + 1

    def _becomes(self, state: Connection, detail: str = "", told: str = "") -> None:
        """Take note of how the connection is, and tell it."""
        before = self._connection
        since = before[2] if before[0] == state else datetime.now(UTC)
        self._connection = (state, detail, since)
        if state == "connected":
            self._audience.changed(f"Connected to {self._gateway}.", "good")
        elif told and (before[:2] != (state, detail)):
            self._audience.changed(told, "bad")
        self._write()

    async def _keep_asking(self, asking: httpx.AsyncClient) -> None:
        while True:
            await self._ask_all(asking)
            await asyncio.sleep(self._timings.probe)

    async def _ask_all(self, asking: httpx.AsyncClient) -> None:
        """Ask behind each tunnel, and tell what is not as it was told last."""
        answers = await asyncio.gather(*(probe(asking, one) for one in self._forwards))
        names = [one.route.name for one in self._forwards]
        self._health = dict(zip(names, answers, strict=True))
        self._write()
        if not self._told:
            self._audience.ready(self.snapshot())
            self._told = self._health
        for name, (state, detail) in self._health.items():
            if self._told[name] != (state, detail):
                self._audience.changed(f"{name}: {detail or 'answers again'}.", _LEVEL[state])
        self._told = self._health

    def snapshot(self) -> Snapshot:
        """Return how things are."""
        state, detail, since = self._connection
        pid, started = this_process()
        return Snapshot(
            pid=pid,
            started=started,
            gateway=str(self._gateway),
            connection=state,
            detail=detail,
            since=since,
            reconnects=self._reconnects,
            checked=bool(self._health),
            written=datetime.now(UTC),
            tunnels=tuple(self._status(one) for one in self._forwards),
        )

    def _status(self, forward: Forward) -> TunnelStatus:
        route = forward.route
        state, detail = self._health.get(route.name, ("waiting", ""))
        return TunnelStatus(
            name=route.name,
            url=route.url,
            local_port=route.local_port,
            target=str(forward.target),
            state=state,
            detail=detail,
            connections=forward.connections,
        )

    def _write(self) -> None:
        self._folder.write(self.snapshot())


_LEVEL: dict[Health, Level] = {"up": "good", "failing": "bad", "down": "bad", "waiting": "note"}


def _why(client: Client) -> str:
    lost = client.lost
    return f"The SSH connection broke{f': {lost}' if lost else ' off'}."
