"""The proxy of the API server leads to 127.0.0.1, and says when nothing listens there."""

import asyncio
from pathlib import Path

from dataplatform_tests.kubernetes.egress import connect
from dataplatform_tests.kubernetes.loopback import ADDRESS, free_port


async def ask(folder: Path, port: int) -> bytes:
    """Ask for a port of an address that no interface has, and say a line to what answers."""
    socket = folder / "egress.sock"
    async with await asyncio.start_unix_server(connect, socket):
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(f"CONNECT 203.0.113.1:{port} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        said = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " in said:
            writer.write(b"hello\n")
            said = await reader.read()
        writer.close()
        await writer.wait_closed()
        return said


def test_every_address_is_found_at_127_0_0_1(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"echo " + await reader.readline())
        writer.close()

    async def answered() -> bytes:
        async with await asyncio.start_server(echo, ADDRESS) as server:
            return await ask(tmp_path, server.sockets[0].getsockname()[1])

    assert asyncio.run(asyncio.wait_for(answered(), 10)) == b"echo hello\n"


def test_a_port_that_nothing_listens_on_is_said(tmp_path: Path) -> None:
    assert asyncio.run(asyncio.wait_for(ask(tmp_path, free_port()), 10)).startswith(
        b"HTTP/1.1 502 "
    )
