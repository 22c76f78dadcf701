"""`python -m dataplatform_tests.kubernetes.egress SOCKET`: the way of an API server to its nodes and pods.

An API server may ask an HTTP proxy for its connections to kubelets and pods. This one finds them all at
127.0.0.1, whatever address they have on paper.
"""

import asyncio
import re
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import Final

from dataplatform_tests.kubernetes.loopback import ADDRESS

_CONNECT: Final = re.compile(rb"CONNECT \S+:(\d+) ")
_CHUNK: Final = 1 << 16


async def connect(reader: StreamReader, writer: StreamWriter) -> None:
    """Lead one connection to the port at 127.0.0.1 that it asks for."""
    asked = _CONNECT.match(await reader.readuntil(b"\r\n\r\n"))
    try:
        there = await asyncio.open_connection(ADDRESS, int(asked[1]) if asked else 0)
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        writer.close()
        return
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))


async def _copy(source: StreamReader, sink: StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
    sink.close()


async def main() -> None:
    server = await asyncio.start_unix_server(connect, sys.argv[1])
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
