"""`python -m dataplatform_tests.kubernetes.dns ADDRESS`: the DNS server of a node without a pod network.

All pods share the node's network, so every service of the cluster is at the node's address. Other
names do not exist, so no test looks up a name on the network.
"""

import re
import socket
import struct
import sys
from typing import Final

_SERVICE: Final = re.compile(rb"[^.]+\.[^.]+\.svc(\.cluster\.local)?", re.IGNORECASE)
_HEADER: Final = struct.Struct("!6H")
_TYPE_A: Final = 1
_NO_SUCH_NAME: Final = 3


def answer(query: bytes, address: str) -> bytes:
    """Return the reply to a query of one question (RFC 1035).

    Args:
        query: the datagram.
        address: where the services of the cluster are.
    """
    name, end = _name(query)
    known = _SERVICE.fullmatch(name) is not None
    with_address = known and struct.unpack_from("!H", query, end)[0] == _TYPE_A
    flags = 0x8580 | (0 if known else _NO_SUCH_NAME)
    header = _HEADER.pack(struct.unpack_from("!H", query)[0], flags, 1, int(with_address), 0, 0)
    reply = header + query[_HEADER.size : end + 4]
    if with_address:
        # The name is a pointer to the question's; five seconds to live.
        reply += struct.pack("!HHHIH", 0xC00C, _TYPE_A, 1, 5, 4) + socket.inet_aton(address)
    return reply


def _name(query: bytes) -> tuple[bytes, int]:
    """Return the name asked for and where its type follows."""
    labels, at = [], _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels), at + 1


def main() -> None:
    address = sys.argv[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            query, client = server.recvfrom(512)
            server.sendto(answer(query, address), client)


if __name__ == "__main__":
    main()
