"""What a driver tells is in the store before it goes on."""

import json

import pytest

from dataplatform.lake.driver import PromptS3MessageWriter
from dataplatform.lake.store.object_store import open_bucket
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform_tests.minio.conftest import new_bucket

pytestmark = pytest.mark.stack


def test_each_message_is_in_the_bucket_at_once(minio_server: S3Access) -> None:
    bucket = new_bucket(minio_server)
    store = open_bucket(minio_server, bucket)
    writer = PromptS3MessageWriter(s3_client(minio_server))
    with writer.open({"bucket": bucket, "key_prefix": "pipes/app"}) as channel:
        for number in (1, 2):
            channel.write_message(
                {"__dagster_pipes_version": "0.1", "method": "opened", "params": {"n": number}}
            )
            stored = json.loads(store.get(f"pipes/app/{number}.json"))
            assert stored["params"] == {"n": number}
    assert len(list(store.list("pipes/app"))) == 2
