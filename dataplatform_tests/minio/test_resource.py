"""MinIO as a resource: set up as code, each consumer with no more rights than it needs."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
from dagster import asset, materialize

from dataplatform.lake.store.changes import ChangeCursor
from dataplatform.lake.store.errors import (
    ObjectStoreError,
    StoreAccessError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
)
from dataplatform.lake.store.minio_admin import POLICIES, is_accepted
from dataplatform.lake.store.object_store import ObjectStore, open_bucket
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.minio import MinIOResource
from dataplatform_tests.minio.conftest import OneKey, new_bucket
from dataplatform_tests.minio.servers import SECRET

KEY = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def ready(minio_server: S3Access) -> MinIOResource:
    """A MinIO with the platform's buckets, and one user for each policy."""
    made = MinIOResource(endpoint=minio_server.endpoint).reading_from(OneKey())
    made.bootstrap()
    for policy in POLICIES:
        made.admin.ensure_user(f"{policy}-a", KEY, policy)
    for bucket in ("datalake", "warehouse"):
        made.bucket(bucket).put("kept/object", b"x")
        made.bucket(bucket).put("inbox/object", b"x")
    return made


def of(resource: MinIOResource, user: str, bucket: str) -> ObjectStore:
    access = replace(resource.access, access_key=f"{user}-a", secret_key=KEY)
    return open_bucket(access, bucket)


VERBS: dict[str, Callable[[ObjectStore], object]] = {
    "read": lambda store: store.get("kept/object"),
    "list": lambda store: list(store.list("kept")),
    "write": lambda store: store.put("kept/other", b"x"),
    "delete": lambda store: store.delete("kept/other"),
    "parts": lambda store: store.upload("kept/parts", iter([b"x"])),
}
ALL, NONE = frozenset(VERBS), frozenset()
ALLOWED = {
    ("platform", "datalake"): ALL,
    ("platform", "warehouse"): ALL,
    ("trino", "datalake"): NONE,
    ("trino", "warehouse"): ALL,
    ("catalog", "datalake"): NONE,
    ("catalog", "warehouse"): ALL,
    ("inbox", "datalake"): NONE,
    ("inbox", "warehouse"): NONE,
    ("readonly-lake", "datalake"): frozenset({"read", "list"}),
    ("readonly-lake", "warehouse"): frozenset({"read", "list"}),
}


@pytest.mark.stack
@pytest.mark.parametrize(("user", "bucket"), ALLOWED)
@pytest.mark.parametrize("verb", VERBS)
def test_a_user_may_do_what_it_needs_and_no_more(
    ready: MinIOResource, user: str, bucket: str, verb: str
) -> None:
    store = of(ready, user, bucket)
    if verb in ALLOWED[user, bucket]:
        VERBS[verb](store)
        return
    with pytest.raises(StoreAccessError) as caught:
        VERBS[verb](store)
    assert caught.value.code == "AccessDenied"


@pytest.mark.stack
def test_nobody_but_root_touches_buckets_policies_or_what_was_replaced(
    ready: MinIOResource,
) -> None:
    client = s3_client(replace(ready.access, access_key="platform-a", secret_key=KEY))
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.create_bucket(Bucket="of-my-own")
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.put_bucket_versioning(
            Bucket="datalake", VersioningConfiguration={"Status": "Suspended"}
        )
    version = s3_client(ready.access).head_object(Bucket="datalake", Key="kept/object")["VersionId"]
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.delete_object(Bucket="datalake", Key="kept/object", VersionId=version)


@pytest.mark.stack
@pytest.mark.parametrize("bucket", ["datalake", "datalake-recorded"])
def test_the_inboxs_user_puts_files_there_and_sees_nothing(
    ready: MinIOResource, bucket: str
) -> None:
    store = of(ready, "inbox", bucket)
    store.put("inbox/prices.csv", b"a")
    store.upload("inbox/parts.csv", iter([b"a"]))
    for refused in (
        lambda: store.get("inbox/prices.csv"),
        lambda: list(store.list("inbox")),
        lambda: store.delete("inbox/prices.csv"),
    ):
        with pytest.raises(StoreAccessError) as caught:
            refused()
        assert caught.value.code == "AccessDenied"


@pytest.mark.stack
def test_the_platform_removes_for_good_what_it_landed(ready: MinIOResource) -> None:
    store = of(ready, "platform", "datalake")
    seen = store.head("inbox/object")
    assert seen is not None
    assert seen.version
    assert store.delete_unchanged(seen)
    assert not store.exists("inbox/object")


@pytest.mark.stack
def test_setting_up_twice_changes_nothing(ready: MinIOResource) -> None:
    assert ready.bootstrap() == []
    assert ready.admin.ensure_user("trino-a", KEY, "trino") == []


@pytest.mark.stack
def test_what_was_changed_by_hand_is_set_right(ready: MinIOResource) -> None:
    client = s3_client(ready.access)
    client.put_bucket_versioning(
        Bucket="warehouse-recorded", VersioningConfiguration={"Status": "Suspended"}
    )
    client.delete_bucket_lifecycle(Bucket="datalake")
    wide = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
    }
    ready.admin.ensure_policy("readonly-lake", wide)
    assert ready.bootstrap() == [
        "bucket datalake: lifecycle set",
        "bucket warehouse-recorded: versions are kept",
        "policy readonly-lake: set",
    ]


@pytest.mark.stack
def test_a_new_secret_takes_the_place_of_the_old(ready: MinIOResource) -> None:
    user = replace(ready.access, access_key="rotated", secret_key="the-first-secret")
    added = ready.admin.ensure_user("rotated", "the-first-secret", "trino")
    assert added == ["user rotated: secret set", "user rotated: policy trino"]
    assert is_accepted(user)
    changed = ready.admin.ensure_user("rotated", "the-second-secret", "catalog")
    assert changed == ["user rotated: secret set", "user rotated: policy catalog"]
    assert not is_accepted(user)
    assert is_accepted(replace(user, secret_key="the-second-secret"))
    ready.admin.remove_user("rotated")
    ready.admin.remove_user("rotated")
    assert not is_accepted(replace(user, secret_key="the-second-secret"))


@pytest.mark.stack
def test_a_full_quota_is_named_as_such(ready: MinIOResource) -> None:
    bucket = new_bucket(ready.access)
    store = ready.bucket(bucket)
    ready.admin.set_quota(bucket, 1 << 20)
    # More than the quota at once: MinIO counts what is stored only once in a while.
    with pytest.raises(StoreFullError, match="quota is full"):
        store.put("k", bytes(2 << 20))
    ready.admin.set_quota(bucket, 0)
    store.put("k", bytes(2 << 20))


@pytest.mark.stack
def test_changes_are_read_through_the_resource(ready: MinIOResource) -> None:
    bucket = new_bucket(ready.access)
    ready.bucket(bucket).put("in/a", b"x")
    found = ready.changes(bucket, "in", ChangeCursor())
    assert [one.key for one in found.objects] == ["in/a"]
    assert ready.changes(bucket, "in", found.cursor).objects == []


@pytest.mark.stack
def test_administration_refused_or_out_of_reach_is_named_as_such(ready: MinIOResource) -> None:
    stranger = replace(ready.admin, access=replace(ready.access, access_key="nobody"))
    with pytest.raises(StoreAccessError, match="does not know this access key"):
        stranger.ensure_policy("p", POLICIES["trino"])
    user = replace(ready.admin, access=replace(ready.access, access_key="trino-a", secret_key=KEY))
    with pytest.raises(StoreAccessError, match="not allowed"):
        user.ensure_user("mine", KEY, "trino")
    with pytest.raises(StoreRefusedError) as short:
        ready.admin.ensure_user("short", "five5", "trino")
    assert "five5" not in str(short.value)
    nowhere = replace(ready.admin, access=replace(ready.access, endpoint="http://127.0.0.1:9"))
    with pytest.raises(StoreUnreachableError):
        nowhere.ensure_policy("p", POLICIES["trino"])


def test_policies_name_no_wildcard_action_and_no_foreign_bucket() -> None:
    for policy in POLICIES.values():
        for statement in policy["Statement"]:
            assert not any("*" in action for action in statement["Action"])
            for arn in statement.get("Resource", []):
                bucket = arn.removeprefix("arn:aws:s3:::")
                assert bucket.startswith(("datalake", "warehouse", "dagster-logs"))


def test_the_key_is_read_at_first_use_and_stands_nowhere() -> None:
    read: list[str] = []

    class Watched(OneKey):
        def read(self, path: str) -> dict[str, str]:
            read.append(path)
            return super().read(path)

    made = MinIOResource(endpoint="http://127.0.0.1:9").reading_from(Watched())
    assert read == []
    assert made.access.secret_key == SECRET
    assert made.bucket("b").root_uri == "s3a://b"
    assert read == ["minio/platform"]
    shown = f"{made!r} {made} {made.model_dump()} {made.access!r}"
    assert SECRET not in shown


@pytest.mark.stack
def test_an_asset_writes_and_dagster_shows_no_secret(
    ready: MinIOResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplatform.resources.vault.open_secrets", lambda _: OneKey())

    @asset
    def written(minio: MinIOResource) -> None:
        minio.bucket("datalake").put("from/an/asset", b"x")

    shown = io.StringIO()
    with redirect_stderr(shown), redirect_stdout(shown):
        result = materialize([written], resources={"minio": MinIOResource(endpoint=ready.endpoint)})
    assert ready.bucket("datalake").get("from/an/asset") == b"x"
    events = json.dumps([str(event) for event in result.all_events])
    assert SECRET not in shown.getvalue() + events


def test_errors_are_of_one_family() -> None:
    for kind in (StoreAccessError, StoreFullError, StoreRefusedError, StoreUnreachableError):
        assert issubclass(kind, ObjectStoreError)
