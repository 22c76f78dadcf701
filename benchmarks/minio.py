"""What MinIO costs: a sensor's tick beside 100,000 objects, and landing raw files in it.

The tick is that of `benchmarks.sensor`, over buckets instead of folders. Landing writes bodies,
marker and manifest of one slot a file, as a fetch does; `mc cp` copies the same bytes.
"""

import gzip
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from benchmarks import sensor
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from benchmarks.simulation import utc
from dataplatform.lake.landing import write_body
from dataplatform.lake.manifest import Manifest, RawFile, RawZone, Slot, sha256
from dataplatform.lake.object_store import ObjectStore, open_bucket
from dataplatform.lake.s3 import S3Access, s3_client
from dataplatform.resources.lake import LakeResource
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
    objects, ticks, files, rounds = (3_000, 3, 100, 2) if quick else (100_000, 15, 1_000, 5)
    with workspace("minio") as folder, minio(folder / "server") as access:
        lakes = {
            "100 objects": _filled(folder / "small", access, "small", 100),
            f"{objects:,} objects": _filled(folder / "large", access, "large", objects),
        }
        idle, arrived = sensor.measure_ticks(lakes, ticks)
        landed, copied = _ingest(folder / "files", access, files, rounds)
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
                f"{files} raw files",
                "files/s",
                ("landed", landed),
                ("mc cp", copied),
                more_is_better=True,
            ),
        ),
        (
            "Landing compresses, hashes and writes three objects a file, one after the other.",
            "mc cp writes one object a file, several at a time.",
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
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda entry: store.put(*entry), bodies):
            pass


def _bucket(access: S3Access, name: str) -> ObjectStore:
    s3_client(access).create_bucket(Bucket=name)
    return open_bucket(access, name)


def _ingest(
    folder: Path, access: S3Access, files: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return files a second, landed and copied, measured in turn."""
    bodies = _bodies(folder, files)
    landed, copied = [], []
    for turn in range(rounds):
        zone = RawZone(_bucket(access, f"landed-{turn}"))
        landed.append(files / _seconds(lambda zone=zone: _land(zone, bodies)))
        _bucket(access, f"copied-{turn}")
        copied.append(files / _seconds(lambda turn=turn: _copy(access, folder, f"copied-{turn}")))
    return landed, copied


def _bodies(folder: Path, files: int) -> list[bytes]:
    """Return bodies of 50 KB, and write what is stored of each into `folder`."""
    folder.mkdir()
    source = random.Random(0)
    bodies = [
        b"[%s]" % b",".join(b"%.9f" % source.random() for _ in range(4_000)) for _ in range(files)
    ]
    for number, body in enumerate(bodies):
        (folder / f"{number:06d}.json.gz").write_bytes(gzip.compress(body, 6, mtime=0))
    return bodies


def _land(zone: RawZone, bodies: list[bytes]) -> None:
    now = datetime.now(UTC)
    for number, body in enumerate(bodies):
        slot = Slot(source="coingecko", endpoint="global", day=now.date(), name=f"T{number:06d}")
        key, size = write_body(zone, slot, "body", "json", body)
        file = RawFile(key=key, request="simulated", sha256=sha256(body), size=size, fetched_at=now)
        zone.commit(
            Manifest(slot=slot, origin="live", tier="simulated", fetched_at=now, files=(file,)), now
        )


def _copy(access: S3Access, folder: Path, bucket: str) -> None:
    address = access.endpoint.replace("://", f"://{access.access_key}:{access.secret_key}@")
    variables = {**os.environ, "MC_HOST_there": address, "HOME": str(folder.parent)}
    command = [mc_program(), "--quiet", "cp", "--recursive", f"{folder}/", f"there/{bucket}/"]
    subprocess.run(command, env=variables, check=True, capture_output=True)


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
