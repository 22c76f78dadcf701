"""A full disk is named as such, nothing is half written, and room mends it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from dataplatform.lake.store.errors import StoreFullError
from dataplatform.lake.store.object_store import ObjectStore, open_bucket, open_folder
from dataplatform.lake.store.s3 import s3_client
from dataplatform_tests.minio.servers import minio, versitygw

SERVERS = {"minio": minio, "versitygw": versitygw}
BODY = os.urandom(3 << 20)


# MinIO knows of the room after a second or two.
retry_while_full = Retrying(
    retry=retry_if_exception_type(StoreFullError),
    stop=stop_after_delay(30),
    wait=wait_fixed(1),
    reraise=True,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 MB of a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["folder", "minio", "versitygw"])
def full(request: pytest.FixtureRequest, small_disk: Path) -> Iterator[ObjectStore]:
    if request.param == "folder":
        yield open_folder(small_disk / "store")
        return
    with SERVERS[request.param](small_disk / "data") as access:
        s3_client(access).create_bucket(Bucket="full")
        yield open_bucket(access, "full")


def fill(store: ObjectStore, fitted: list[str]) -> None:
    """Put objects until one is refused; `fitted` gets the keys of the others."""
    for number in range(64):
        store.put(f"k/{number:03d}", BODY)
        fitted.append(f"k/{number:03d}")


@pytest.mark.stack
def test_a_full_disk_is_named_loses_nothing_and_room_mends_it(full: ObjectStore) -> None:
    fitted: list[str] = []
    with pytest.raises(StoreFullError, match=r"disk is full.* Remedy: free or add space"):
        fill(full, fitted)
    assert fitted
    with pytest.raises(StoreFullError):
        full.upload("large", iter([BODY] * 30))
    assert [stored.key for stored in full.list("")] == fitted
    assert all(full.get(key) == BODY for key in fitted)
    for key in fitted[:3]:
        full.delete(key)
    for attempt in retry_while_full:
        with attempt:
            full.put("after", BODY)
    assert full.get("after") == BODY
