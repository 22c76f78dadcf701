"""The node's DNS answers for the cluster's services and for nothing else."""

import struct

import pytest

from dataplatform_tests.kubernetes.dns import answer


def query(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 77, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        ("silver-driver-svc.spark.svc", 1, 0, 1),
        ("kubernetes.default.svc.cluster.local", 1, 0, 1),
        # It has no address of IP version 6, which is no error.
        ("kubernetes.default.svc", 28, 0, 0),
        ("s3.example.org", 1, 3, 0),
        # What a resolver makes of an outside name by its search list.
        ("s3.example.org.default.svc.cluster.local", 1, 3, 0),
    ],
)
def test_only_services_have_an_address(name: str, kind: int, code: int, answers: int) -> None:
    asked = query(name, kind)
    reply = answer(asked)
    number, flags, questions, told, _, _ = struct.unpack_from("!6H", reply)
    assert (number, questions, told, flags & 0xF) == (77, 1, answers, code)
    assert reply[12:].startswith(asked[12:])
    assert reply.endswith(bytes([127, 0, 0, 1])) is bool(answers)
