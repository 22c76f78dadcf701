"""An object that another program puts into the store is processed within one tick, exactly once."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest
from dagster import DagsterInstance
from pydantic import PrivateAttr

from dataplatform.lake.landing import Landing
from dataplatform.lake.manifest import Cursor, Manifest, RawZone, Slot, advance
from dataplatform.lake.place import LakePlace, LocalLake
from dataplatform.lake.store.object_store import ObjectStore, open_bucket
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.raw import inbox as inbox_module
from dataplatform.raw.inbox import land_inbox
from dataplatform.resources.lake import LakeResource
from dataplatform.sensors import arrivals_tick, inbox_tick
from dataplatform_tests.minio.servers import ROOT, SECRET
from dataplatform_tests.servers import mc_program

CSV = "date,coingecko_coin_id,price_usd\n01-01-2025,bitcoin,{price}\n"
ODD = "inbox/sub folder/a b+ü%20&#.csv"


class BucketPlace(LocalLake):
    """A lake whose raw files are in a bucket, and its catalog in a folder."""

    def __init__(self, home: Path, bucket: ObjectStore) -> None:
        super().__init__(home, "live")
        self._bucket = bucket

    @property
    def store(self) -> ObjectStore:
        return self._bucket


class BucketLake(LakeResource):
    _place: LakePlace = PrivateAttr()

    @cached_property
    def place(self) -> LakePlace:
        return self._place

    def at(self, place: LakePlace) -> "BucketLake":
        self._place = place
        return self


@pytest.fixture(params=["plain", "with versions"])
def lake(
    request: pytest.FixtureRequest, tmp_path: Path, access: S3Access, bucket: str
) -> BucketLake:
    if request.param == "with versions":
        s3_client(access).put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    home = tmp_path / "home"
    place = BucketPlace(home, open_bucket(access, bucket))
    return BucketLake(home=str(home), origin="live").at(place)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def body(number: int) -> bytes:
    return CSV.format(price=number).encode()


def asked(lake: BucketLake, instance: DagsterInstance, ahead: timedelta = timedelta()) -> int:
    """Return how many runs a tick of the inbox asks for, this machine's clock being `ahead`."""
    result = inbox_tick(lake, instance, datetime.now(UTC) + ahead)
    return len(result.run_requests or [])


def landed(lake: BucketLake) -> list[Landing]:
    return land_inbox(lake.raw_zone)


def by_boto3(access: S3Access, bucket: str, key: str, path: Path) -> None:
    s3_client(access).upload_file(str(path), bucket, key)


def by_mc(access: S3Access, bucket: str, key: str, path: Path) -> None:
    address = access.endpoint.replace("://", f"://{ROOT}:{SECRET}@")
    home = {**os.environ, "MC_HOST_there": address, "HOME": str(path.parent)}
    command = [mc_program(), "--quiet", "cp", str(path), f"there/{bucket}/{key}"]
    subprocess.run(command, env=home, check=True, capture_output=True)


def by_curl(access: S3Access, bucket: str, key: str, path: Path) -> None:
    address = open_bucket(access, bucket).presign("PUT", key, timedelta(minutes=5))
    command = ["curl", "--fail", "--silent", "--noproxy", "*", "--upload-file", str(path), address]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("put", [by_boto3, by_mc, by_curl])
def test_what_another_program_puts_is_landed_by_the_next_tick_once(
    lake: BucketLake,
    instance: DagsterInstance,
    access: S3Access,
    bucket: str,
    tmp_path: Path,
    put: Callable[[S3Access, str, str, Path], None],
) -> None:
    assert asked(lake, instance) == 0
    path = tmp_path / "dropped.csv"
    path.write_bytes(body(1))
    put(access, bucket, ODD, path)
    assert asked(lake, instance) == 1
    (landing,) = landed(lake)
    assert landing.fetched
    assert landing.manifest.files[0].params == {"file": ODD.removeprefix("inbox/")}
    assert asked(lake, instance) == 0
    assert landed(lake) == []
    first = arrivals_tick(None, lake, instance, datetime.now(UTC))
    assert len(first.run_requests or []) == 1
    assert not arrivals_tick(first.cursor, lake, instance, datetime.now(UTC)).run_requests


@pytest.mark.parametrize("ahead", [timedelta(days=-1), timedelta(hours=1)])
def test_the_clocks_of_writer_server_and_reader_may_differ(
    lake: BucketLake, instance: DagsterInstance, ahead: timedelta
) -> None:
    lake.store.put("inbox/a.csv", body(1))
    assert asked(lake, instance, ahead) == 1
    assert len(land_inbox(lake.raw_zone, now=datetime.now(UTC) + ahead)) == 1
    assert asked(lake, instance, ahead) == 0


def test_hundreds_at_once_are_one_run_and_each_lands_once(
    lake: BucketLake, instance: DagsterInstance
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: lake.store.put(f"inbox/{n}.csv", body(n)), range(200)))
    assert asked(lake, instance) == 1
    landings = landed(lake)
    assert len({landing.manifest.slot for landing in landings}) == 200
    assert all(landing.fetched for landing in landings)
    assert len(lake.raw_zone.arrivals(Cursor())) == 200
    assert asked(lake, instance) == 0


def test_a_key_put_again_while_it_lands_is_landed_again(
    lake: BucketLake, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_file = inbox_module.land_file

    def interrupted(*args: object, **named: object) -> Landing:
        landing = land_file(*args, **named)  # ty: ignore[invalid-argument-type]
        lake.store.put("inbox/a.csv", body(2))
        return landing

    lake.store.put("inbox/a.csv", body(0))
    lake.store.put("inbox/a.csv", body(1))
    monkeypatch.setattr(inbox_module, "land_file", interrupted)
    (first,) = landed(lake)
    monkeypatch.undo()
    assert asked(lake, instance) == 1
    (second,) = landed(lake)
    assert first.fetched
    assert second.fetched
    assert first.manifest.slot != second.manifest.slot
    # What was replaced before it was read stays replaced.
    assert landed(lake) == []
    assert asked(lake, instance) == 0


def test_two_runs_at_once_land_each_file_once(lake: BucketLake) -> None:
    for number in range(20):
        lake.store.put(f"inbox/{number}.csv", body(number))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: landed(lake), range(2)))
    assert sum(landing.fetched for landings in both for landing in landings) == 20
    assert len(lake.raw_zone.arrivals(Cursor())) == 20
    assert landed(lake) == []


def test_folders_that_a_console_marks_and_unfinished_names_start_nothing(
    lake: BucketLake, instance: DagsterInstance, access: S3Access, bucket: str
) -> None:
    for key in ("inbox/", "inbox/sub/", "inbox/a.csv.part", "inbox/.hidden"):
        s3_client(access).put_object(Bucket=bucket, Key=key, Body=b"")
    assert asked(lake, instance) == 0
    assert landed(lake) == []
    lake.store.put("inbox/empty.csv", b"")
    assert asked(lake, instance) == 1
    (landing,) = landed(lake)
    assert landing.manifest.files[0].problem


def test_after_days_without_a_tick_all_that_arrived_is_found_once(
    lake: BucketLake, instance: DagsterInstance
) -> None:
    now, zone = datetime.now(UTC), lake.raw_zone
    commit(zone, 0, now - timedelta(days=9))
    cursor = advance(Cursor(), zone.arrivals(Cursor()), now - timedelta(days=9))
    for number in range(1, 9):
        commit(zone, number, now - timedelta(days=9 - number, hours=1))
    found = zone.arrivals(cursor)
    assert [arrival.slot.name for arrival in found] == [f"T{number}" for number in range(1, 9)]
    assert zone.arrivals(advance(cursor, found, now)) == []
    # A writer whose clock is a little ahead or behind is not missed either.
    cursor = advance(cursor, found, now)
    commit(zone, 10, now - timedelta(minutes=10))
    commit(zone, 11, now + timedelta(minutes=10))
    assert [arrival.slot.name for arrival in zone.arrivals(cursor)] == ["T10", "T11"]


def commit(zone: RawZone, number: int, at: datetime) -> None:
    slot = Slot(source="coingecko", endpoint="global", day=date(2026, 1, 1), name=f"T{number}")
    zone.commit(Manifest(slot=slot, origin="live", tier="t", fetched_at=at, files=()), at)
