"""`python -m dataplatform_tests.kubernetes.dns`: the DNS server of a node without a pod network.

All pods share the machine's network, so every service of the cluster is at 127.0.0.1. Other names do
not exist, so no test looks up a name on the network.
"""

import re
import socket
import struct
from typing import Final

from dataplatform_tests.kubernetes.loopback import ADDRESS

_SERVICE: Final = re.compile(rb"[^.]+\.[^.]+\.svc(\.cluster\.local)?", re.IGNORECASE)
_HEADER: Final = struct.Struct("!6H")
_PORT: Final = 53
_TYPE_A: Final = 1
_NO_SUCH_NAME: Final = 3


def answer(query: bytes) -> bytes:
    """Return the reply to a query of one question (RFC 1035)."""
    name, end = _name(query)
    known = _SERVICE.fullmatch(name) is not None
    with_address = known and struct.unpack_from("!H", query, end)[0] == _TYPE_A
    flags = 0x8580 | (0 if known else _NO_SUCH_NAME)
    header = _HEADER.pack(struct.unpack_from("!H", query)[0], flags, 1, int(with_address), 0, 0)
    reply = header + query[_HEADER.size : end + 4]
    if with_address:
        # The name is a pointer to the question's; five seconds to live.
        reply += struct.pack("!HHHIH", 0xC00C, _TYPE_A, 1, 5, 4) + socket.inet_aton(ADDRESS)
    return reply


def _name(query: bytes) -> tuple[bytes, int]:
    """Return the name asked for and where its type follows."""
    labels, at = [], _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels), at + 1


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        # A resolver asks at no other port. Nodes side by side share it, since all answer the same.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((ADDRESS, _PORT))
        while True:
            query, client = server.recvfrom(512)
            server.sendto(answer(query), client)


if __name__ == "__main__":
    main()
