"""One local port, which stays open while the SSH connection behind it comes and goes."""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncssh

from infra.tunnels.routes import Route, Target

_CHUNK: Final = 65_536
_PATIENCE: Final = 10.0
"""Seconds that a new connection waits for SSH to come back: a browser then sees a slow page only."""
_OPEN_SECONDS: Final = 5.0
"""How long one address may take to answer; an absent machine of the same network takes 3 s."""

Channel = tuple["asyncssh.SSHReader[bytes]", "asyncssh.SSHWriter[bytes]"]


_NOTICE: Final = 0.02
"""How soon a connection that broke is taken out of use."""


class BrokenError(Exception):
    """The SSH connection broke before anything was sent through it."""


class NoAnswerError(Exception):
    """Nothing answers behind a tunnel; the message says what was tried."""


class Link:
    """The SSH connection that there is now, if any."""

    def __init__(self) -> None:
        self._connection: asyncssh.SSHClientConnection | None = None
        self._up = asyncio.Event()

    def set(self, connection: asyncssh.SSHClientConnection | None) -> None:
        """Take a connection into use, or none."""
        self._connection = connection
        if connection:
            self._up.set()
        else:
            self._up.clear()

    async def get(self) -> asyncssh.SSHClientConnection:
        """Return the connection, which may take a moment to come back.

        Raises:
            NoAnswerError: it doesn't.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                while self._connection is None or self._connection.is_closed():
                    await self._up.wait()
                    await asyncio.sleep(_NOTICE)
        except TimeoutError:
            raise NoAnswerError("no SSH connection") from None
        return self._connection


class Forward:
    """A listening local port and the connections that it carries."""

    def __init__(self, route: Route, link: Link) -> None:
        self.route = route
        self.failure: str | None = None
        """Why the last connection reached nobody; None where it did."""
        self._link = link
        self._answering = route.targets[0]
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many connections it carries now."""
        return len(self._relays)

    @property
    def target(self) -> Target:
        """The address that answered last."""
        return self._answering

    @asynccontextmanager
    async def serving(self, bound: socket.socket) -> AsyncGenerator[None]:
        """Serve on a bound socket until the context ends, and end its connections then."""
        server = await asyncio.start_server(self._accept, sock=bound)
        try:
            yield
        finally:
            server.close()
            for relay in self._relays:
                relay.cancel()
            await asyncio.gather(*self._relays, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101  asyncio calls this in a task of its own
        self._relays.add(task)
        try:
            remote = await self._open()
            self.failure = None
            if await _relayed((reader, writer), remote):
                writer.close()
        except NoAnswerError as error:
            self.failure = str(error)
        except BrokenError:
            self.failure = "the SSH connection broke"
        finally:
            self._relays.discard(task)
            if not writer.is_closing():
                _reset(writer)

    async def _open(self) -> Channel:
        """Return a channel; where the SSH connection breaks at that moment, one of the next."""
        try:
            return await self._first_answer(await self._link.get())
        except BrokenError:
            return await self._first_answer(await self._link.get())

    async def _first_answer(self, connection: asyncssh.SSHClientConnection) -> Channel:
        """Return a channel to the first address that answers; that of last time goes before the others."""
        others = [one for one in self.route.targets if one != self._answering]
        failures: list[str] = []
        for target in (self._answering, *others):
            try:
                channel = await _open_channel(connection, target)
            except asyncssh.ChannelOpenError as error:
                await asyncio.sleep(0)  # asyncssh completes a close in the next turn.
                if connection.is_closed():
                    raise BrokenError from error
                failures.append(f"{target}: {_reason(error)}")
                if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                    break
            except TimeoutError:
                failures.append(f"{target}: no answer within {_OPEN_SECONDS:g} s")
            else:
                self._answering = target
                return channel
        raise NoAnswerError(_summary(failures))


def _summary(failures: list[str]) -> str:
    others = len(failures) - 1
    return failures[0] + (f" (nor on {others} other node{'s' * (others > 1)})" if others else "")


async def _open_channel(connection: asyncssh.SSHClientConnection, target: Target) -> Channel:
    """Open a channel; one that comes too late is closed, as a cancelled one would stay open for good."""
    opening = asyncio.ensure_future(connection.open_connection(target.host, target.port))
    try:
        async with asyncio.timeout(_OPEN_SECONDS):
            return await asyncio.shield(opening)
    except (TimeoutError, asyncio.CancelledError):
        opening.add_done_callback(_close_late)
        raise


def _close_late(opening: "asyncio.Future[Any]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].close()


def _reason(error: asyncssh.ChannelOpenError) -> str:
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return "the host's sshd forbids it; remedy: AllowTcpForwarding yes in its sshd_config"
    return error.reason.lower() or "refused"


async def _relayed(local: tuple[Any, Any], remote: Channel) -> bool:
    """Copy both ways until both ends have said all; whether they did, or one of them broke."""
    whole = False
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(local[0], remote[1]))
            both.create_task(_copy(remote[0], local[1]))
        whole = True
    except* (OSError, asyncssh.Error):
        pass
    finally:
        remote[1].close()
    return whole


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as broken: at a plain close, half an answer would pass for a whole one."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _copy(reader: Any, writer: Any) -> None:
    """Copy one direction; its end is handed on, so that a half-closed connection stays one."""
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
