"""What only S3 stores do, and how they refuse."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from dataplatform.lake.store.buckets import BucketSpec, ensure_bucket
from dataplatform.lake.store.errors import (
    BucketMissingError,
    InvalidKeyError,
    ObjectStoreError,
    StoreAccessError,
    StoreUnreachableError,
)
from dataplatform.lake.store.object_store import ObjectStore, open_bucket, open_folder
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform_tests.minio.conftest import new_bucket
from dataplatform_tests.minio.servers import SECRET

VERBS: dict[str, Callable[[ObjectStore], object]] = {
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", b"x"),
    "put_if_absent": lambda store: store.put_if_absent("k", b"x"),
    "head": lambda store: store.head("k"),
    "list": lambda store: list(store.list("k")),
    "folders": lambda store: store.folders("k"),
    "delete": lambda store: store.delete("k"),
    "stream": lambda store: list(store.stream("k")),
    "upload": lambda store: store.upload("k", iter([b"x"])),
}
each_verb = pytest.mark.parametrize("verb", VERBS)
# An answer to a HEAD has no body, so no reason.
each_explained_verb = pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "head"])


def refused(store: ObjectStore, verb: str) -> ObjectStoreError:
    with pytest.raises(ObjectStoreError) as caught:
        VERBS[verb](store)
    text = f"{caught.value} {caught.value!r} {store!r} {caught.getrepr(style='long')}"
    assert "Remedy: " in str(caught.value)
    assert SECRET not in text
    return caught.value


@each_explained_verb
def test_an_unknown_key_is_named_as_such(access: S3Access, bucket: str, verb: str) -> None:
    error = refused(open_bucket(replace(access, access_key="nobody"), bucket), verb)
    assert isinstance(error, StoreAccessError)
    assert error.cause == "the store does not know this access key"


@pytest.mark.stack
def test_a_head_says_only_that_the_key_is_refused(minio_server: S3Access) -> None:
    store = open_bucket(replace(minio_server, access_key="nobody"), new_bucket(minio_server))
    error = refused(store, "head")
    assert isinstance(error, StoreAccessError)
    assert error.code == "HTTP 403"


@each_verb
def test_a_wrong_secret_is_named_as_such(access: S3Access, bucket: str, verb: str) -> None:
    error = refused(open_bucket(replace(access, secret_key="wrong"), bucket), verb)
    assert isinstance(error, StoreAccessError)
    assert error.code == ("HTTP 403" if verb == "head" else "SignatureDoesNotMatch")


@each_explained_verb
def test_a_missing_bucket_is_named_as_such(access: S3Access, verb: str) -> None:
    error = refused(open_bucket(access, "no-such-bucket"), verb)
    assert isinstance(error, BucketMissingError)
    assert "no-such-bucket" in str(error)


@each_verb
def test_a_store_that_does_not_answer_is_named_as_such(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = S3Access("http://127.0.0.1:9", "us-east-1", "a", SECRET)
    monkeypatch.setattr("dataplatform.lake.store.object_store._RETRIES", {"max_retries": 1})
    assert isinstance(refused(open_bucket(nowhere, "b"), verb), StoreUnreachableError)


def test_no_secret_stands_in_what_is_shown_or_held(access: S3Access, bucket: str) -> None:
    store = open_bucket(access, bucket)
    assert SECRET not in f"{access!r} {store!r} {store.backend!r} {store.backend.__dict__}"
    assert SECRET not in str(getattr(store.backend, "config", ""))


def test_variables_of_other_tools_lead_nowhere(
    access: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another-key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    store = open_bucket(access, bucket)
    store.put("k", b"x")
    assert store.get("k") == b"x"


def test_an_address_without_its_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="http://"):
        S3Access("127.0.0.1:9000", "us-east-1", "a", "b")


def test_an_abandoned_upload_leaves_no_parts(
    access: S3Access, bucket: str, s3: ObjectStore
) -> None:
    def source() -> Iterator[bytes]:
        for _ in range(20):
            yield os.urandom(1 << 20)
        raise EOFError

    with pytest.raises(EOFError):
        s3.upload("large", source())
    client = s3_client(access)
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []


def test_a_large_file_is_uploaded_from_disk(s3: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(20 << 20))
    with path.open("rb") as body:
        s3.upload("large", body)
    head = s3.head("large")
    assert head is not None
    assert head.size == 20 << 20
    assert head.etag.endswith("-3")


def test_a_replacement_is_refused_where_another_came_first(s3: ObjectStore) -> None:
    s3.put("k", b"one")
    seen = s3.head("k")
    assert seen is not None
    assert s3.replace("k", b"two", seen)
    assert not s3.replace("k", b"three", seen)
    assert s3.get("k") == b"two"


def test_presigned_addresses_read_and_write_until_they_expire(s3: ObjectStore) -> None:
    key, short = "in/a b+ü%.csv", timedelta(seconds=5)
    put = s3.presign("PUT", key, short)
    assert httpx.put(put, content=b"body", trust_env=False).status_code == 200
    get = s3.presign("GET", key, short)
    assert httpx.get(get, trust_env=False).content == b"body"
    # Only the verb that was signed.
    assert httpx.put(get, content=b"other", trust_env=False).status_code == 403
    time.sleep(6)
    assert httpx.get(get, trust_env=False).status_code == 403
    assert httpx.put(put, content=b"late", trust_env=False).status_code == 403
    assert s3.get(key) == b"body"


def test_a_folder_has_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        open_folder(tmp_path).presign("GET", "k", timedelta(minutes=1))


@pytest.mark.stack
def test_a_key_that_cannot_be_addressed_is_named(minio_server: S3Access) -> None:
    client = s3_client(minio_server)
    client.create_bucket(Bucket="odd-keys")
    client.put_object(Bucket="odd-keys", Key="inbox/a\x01b", Body=b"")
    with pytest.raises(InvalidKeyError, match="control character"):
        list(open_bucket(minio_server, "odd-keys").list("inbox"))


def test_with_versions_what_is_put_meanwhile_stays(access: S3Access, bucket: str) -> None:
    s3_client(access).put_bucket_versioning(
        Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    store = open_bucket(access, bucket)
    for body in (b"first", b"second"):
        store.put("k", body)
    store.put("k2", b"longer key")
    seen = store.head("k")
    assert seen is not None
    assert seen.version
    store.put("k", b"meanwhile")
    assert store.delete_unchanged(seen)
    assert store.get("k") == b"meanwhile"
    last = store.head("k")
    assert last is not None
    assert store.delete_unchanged(last)
    # Nothing that it had replaced comes back.
    assert not store.exists("k")
    assert store.exists("k2")


@pytest.mark.stack
def test_a_bucket_is_set_up_once(minio_server: S3Access) -> None:
    spec = BucketSpec("set-up", temporary={"tmp/": 1, "a/b/": 3})
    assert ensure_bucket(minio_server, spec) == [
        "bucket set-up: created",
        "bucket set-up: versions are kept",
        "bucket set-up: lifecycle set",
    ]
    assert ensure_bucket(minio_server, spec) == []
    longer = BucketSpec("set-up", temporary={"tmp/": 2})
    assert ensure_bucket(minio_server, longer) == ["bucket set-up: lifecycle set"]
    rules = s3_client(minio_server).get_bucket_lifecycle_configuration(Bucket="set-up")["Rules"]
    assert {rule["ID"] for rule in rules} == {
        "replaced-versions-and-abandoned-uploads",
        "temporary-tmp",
    }
