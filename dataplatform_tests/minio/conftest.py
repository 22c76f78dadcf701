from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from dataplatform.lake.store.object_store import ObjectStore, open_bucket, open_folder
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.minio import MinIOResource
from dataplatform_tests.minio.servers import ROOT, SECRET, minio, versitygw


class OneKey:
    """A store of secrets with the root key in every place."""

    def read(self, path: str) -> dict[str, str]:
        return {"access_key": ROOT, "secret_key": SECRET}


@pytest.fixture(scope="package")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    with minio(tmp_path_factory.mktemp("minio") / "data") as access:
        yield access


@pytest.fixture(scope="package")
def versitygw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    with versitygw(tmp_path_factory.mktemp("versitygw") / "data") as access:
        yield access


@pytest.fixture(
    params=[
        pytest.param("minio", marks=pytest.mark.stack),
        pytest.param("versitygw", marks=pytest.mark.stack),
    ]
)
def access(request: pytest.FixtureRequest) -> S3Access:
    """Both S3 servers, one after the other."""
    return request.getfixturevalue(f"{request.param}_server")


def new_bucket(access: S3Access) -> str:
    name = f"b{uuid4().hex[:12]}"
    s3_client(access).create_bucket(Bucket=name)
    return name


@pytest.fixture
def bucket(access: S3Access) -> str:
    return new_bucket(access)


@pytest.fixture
def s3(access: S3Access, bucket: str) -> ObjectStore:
    return open_bucket(access, bucket)


@pytest.fixture(
    params=[
        "folder",
        pytest.param("minio", marks=pytest.mark.stack),
        pytest.param("versitygw", marks=pytest.mark.stack),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind: what holds for one holds for all."""
    if request.param == "folder":
        return open_folder(tmp_path / "store")
    access = request.getfixturevalue(f"{request.param}_server")
    return open_bucket(access, new_bucket(access))


@pytest.fixture
def resource(minio_server: S3Access) -> MinIOResource:
    return MinIOResource(endpoint=minio_server.endpoint).reading_from(OneKey())
