"""An S3 store through boto3: what `obstore` has no verb for."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from dataplatform.lake.store.errors import error_of


@dataclass(frozen=True)
class S3Access:
    """Where an S3 store is, and the key to it.

    Args:
        endpoint: its address, such as `http://127.0.0.1:9000` or `https://minio.example.org`.
        region: the region that requests are signed for.
        access_key: the key's name.
        secret_key: the key.
        session_token: what belongs to a temporary key.
        path_style: the bucket stands in the path; False, in the host name.
    """

    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    path_style: bool = True

    def __post_init__(self) -> None:
        """Refuse an address that boto3 and obstore would read differently."""
        if not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"an S3 endpoint starts with http:// or https://: {self.endpoint!r}")


def s3_client(access: S3Access) -> Any:
    """Return a boto3 client, without types of its own; 0.3 s, so keep it."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region,
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        aws_session_token=access.session_token,
        config=Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            s3={"addressing_style": "path" if access.path_style else "virtual"},
        ),
    )


def make_folder(client: Any, address: str) -> None:
    """Make what Hadoop takes for a folder: an empty object whose key ends with a slash.

    Args:
        client: of boto3.
        address: such as `s3a://dagster-logs/spark-events`; of another scheme, nothing is made.

    Raises:
        ObjectStoreError: the store refused it.
    """
    parts = urlsplit(address)
    key = parts.path.strip("/")
    if parts.scheme in ("s3", "s3a") and key:
        with explained(address):
            client.put_object(Bucket=parts.netloc, Key=f"{key}/", Body=b"")


@contextmanager
def explained(what: str) -> Generator[None]:
    """Turn what boto3 raises into an `ObjectStoreError` about `what`, a URI without secrets."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
        text = f"<Code>{answer.get('Error', {}).get('Code', '')}</Code> status code: {status}"
        raise (error_of(what, text, ClientError) or error) from None
    except BotoCoreError as error:
        raise (error_of(what, f"HTTP error: {error}", type(error)) or error) from None


@dataclass(frozen=True)
class BucketVersions:
    """The versions of a bucket's objects.

    Args:
        access: where, and with which key.
        bucket: its name.
    """

    access: S3Access
    bucket: str

    def remove_up_to(self, key: str, version: str) -> None:
        """Remove a version of an object, and those that it replaced, for good.

        The oldest go first: would the newest, the one before would be back in its place.
        """
        with explained(f"s3://{self.bucket}/{key}"):
            ids = [found["VersionId"] for found in self._newest_first(key)]
            for one in reversed(ids[ids.index(version) :] if version in ids else []):
                self._client.delete_object(Bucket=self.bucket, Key=key, VersionId=one)

    @cached_property
    def _client(self) -> Any:
        return s3_client(self.access)

    def _newest_first(self, key: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self.bucket, Prefix=key
        )
        found = (version for page in pages for version in page.get("Versions", []))
        # The key sorts before all longer ones that begin with it.
        return takewhile(lambda version: version["Key"] == key, found)
