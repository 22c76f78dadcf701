"""What MinIO costs: a sensor's tick beside 100,000 objects, and landing raw files in it.

The tick is that of `benchmarks.sensor`, over buckets instead of folders. Landing takes answers from
memory as a fetch takes them from the API, and writes the bodies, a marker and a manifest of each
slot; `mc cp` copies the same bytes.
"""

import gzip
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path

from dagster import DagsterInstance

from benchmarks import sensor
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from benchmarks.simulation import utc
from dataplatform.lake.api.client import Response
from dataplatform.lake.landing import Scope, land
from dataplatform.lake.manifest import RawZone, Slot
from dataplatform.lake.store.object_store import ObjectStore, open_bucket
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.raw.coingecko.ohlc import endpoint as ohlc
from dataplatform.resources.lake import LakeResource
from dataplatform.sensors import inbox_tick
from dataplatform_tests.minio.servers import ROOT, SECRET, minio
from dataplatform_tests.servers import mc_program

START = utc("2025-01-01")


class BucketLake(LakeResource):
    """A lake whose raw files are in a bucket, and its catalog in a folder."""

    endpoint: str
    bucket: str

    @cached_property
    def store(self) -> ObjectStore:
        """The bucket."""
        return open_bucket(S3Access(self.endpoint, "us-east-1", ROOT, SECRET), self.bucket)

    @property
    def raw_zone(self) -> RawZone:
        """The raw files in it."""
        return RawZone(self.store)


def run(*, quick: bool) -> Result:
    """Tick over a small and a large bucket, then land and copy the same files in turn."""
    objects, ticks, files, rounds = (3_000, 3, 100, 2) if quick else (100_000, 25, 1_000, 5)
    with workspace("minio") as folder, minio(folder / "server", "default") as access:
        lakes = {
            "100 objects": _filled(folder / "small", access, "small", 100),
            f"{objects:,} objects": _filled(folder / "large", access, "large", objects),
        }
        idle, arrived = sensor.measure_ticks(lakes, ticks)
        inbox = _inbox_ticks(lakes, ticks)
        together, apart, copied = _ingest(folder / "files", access, files, rounds)
    small, large = lakes
    return Result(
        "minio",
        "Raw files in MinIO",
        (
            Comparison("tick, nothing new", "ms", (large, idle[large]), (small, idle[small]), 2.0),
            Comparison(
                f"tick, {sensor.NEW} slots new",
                "ms",
                (large, arrived[large]),
                (small, arrived[small]),
                2.0,
            ),
            Comparison(
                "inbox tick, nothing there",
                "ms",
                (large, inbox[large]),
                (small, inbox[small]),
                2.0,
            ),
            *(
                Comparison(
                    f"{files} raw files, {what}",
                    "files/s",
                    ("landed", landed),
                    ("mc cp", copied),
                    more_is_better=True,
                )
                for what, landed in (("one slot", together), ("a slot each", apart))
            ),
        ),
        (
            "Landing parses, hashes and compresses each body; mc copies what is compressed already.",
            "A slot is its bodies, several at a time, then a marker, then a manifest.",
        ),
    )


def _filled(home: Path, access: S3Access, bucket: str, objects: int) -> LakeResource:
    """Return a lake with `objects` objects, a third of them markers, spread over 90 days."""
    store = _bucket(access, bucket)
    slots = objects // 3
    moments = (START + timedelta(days=sensor.DAYS) * number / slots for number in range(slots))
    bodies = (
        entry for number, at in enumerate(moments) for entry in sensor.slot_objects(number, at)
    )
    _put_all(store, bodies)
    return BucketLake(home=str(home), origin="live", endpoint=access.endpoint, bucket=bucket)


def _put_all(store: ObjectStore, bodies: Iterable[tuple[str, bytes]]) -> None:
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda entry: store.put(*entry), bodies):
            pass


def _bucket(access: S3Access, name: str) -> ObjectStore:
    s3_client(access).create_bucket(Bucket=name)
    return open_bucket(access, name)


def _inbox_ticks(lakes: Mapping[str, LakeResource], ticks: int) -> dict[str, list[float]]:
    """Return milliseconds a tick of the inbox sensor by store, with nothing in the inbox."""
    spent: dict[str, list[float]] = {label: [] for label in lakes}
    with DagsterInstance.ephemeral() as instance:
        for _ in range(ticks):
            for label, lake in lakes.items():
                tick = partial(inbox_tick, lake, instance, datetime.now(UTC))
                spent[label].append(_seconds(tick) * 1000)
    return spent


def _ingest(
    folder: Path, access: S3Access, files: int, rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """Return files a second landed in one slot, landed in a slot each, and copied, in turn."""
    bodies = _bodies(folder, files)
    together, apart, copied = [], [], []
    for turn in range(rounds):
        zone = RawZone(_bucket(access, f"together-{turn}"))
        together.append(files / _seconds(partial(_land, zone, bodies)))
        zone = RawZone(_bucket(access, f"apart-{turn}"))
        apart.append(files / _seconds(partial(_land_each, zone, bodies)))
        _bucket(access, f"copied-{turn}")
        copied.append(files / _seconds(partial(_copy, access, folder, f"copied-{turn}")))
    return together, apart, copied


def _bodies(folder: Path, files: int) -> dict[str, bytes]:
    """Return bodies of 50 KB by the coin asked for; write what is stored of each to `folder`."""
    folder.mkdir()
    source = random.Random(0)
    bodies = {
        f"coin-{number:06d}": b"[%s]" % b",".join(b"%.9f" % source.random() for _ in range(4_000))
        for number in range(files)
    }
    for coin, body in bodies.items():
        (folder / f"{coin}.json.gz").write_bytes(gzip.compress(body, 6, mtime=0))
    return bodies


@dataclass(frozen=True)
class _Memory:
    """An API that answers at once."""

    bodies: Mapping[str, bytes]

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Response:
        del params
        coin = path.split("/")[2]
        return Response(self.bodies[coin], 200, {}, path, datetime.now(UTC))


def _land(zone: RawZone, bodies: Mapping[str, bytes], name: str = "D") -> None:
    """Land one slot."""
    slot = Slot(source=ohlc.source, endpoint=ohlc.name, day=START.date(), name=name)
    scope = Scope(coins=tuple(bodies))
    land(zone, ohlc, _Memory(bodies), slot, tier="simulated", scope=scope, listener=str)


def _land_each(zone: RawZone, bodies: Mapping[str, bytes]) -> None:
    """Land a slot a body, one after the other."""
    for coin, body in bodies.items():
        _land(zone, {coin: body}, coin)


def _copy(access: S3Access, folder: Path, bucket: str) -> None:
    address = access.endpoint.replace("://", f"://{access.access_key}:{access.secret_key}@")
    variables = {**os.environ, "MC_HOST_there": address, "HOME": str(folder.parent)}
    command = [mc_program(), "--quiet", "cp", "--recursive", f"{folder}/", f"there/{bucket}/"]
    subprocess.run(command, env=variables, check=True, capture_output=True)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
