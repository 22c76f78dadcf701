"""MinIO's users and what each may do: the part of MinIO that is not S3."""

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dataplatform.lake.store.buckets import LOGS
from dataplatform.lake.store.errors import (
    ObjectStoreError,
    StoreAccessError,
    error_of,
)
from dataplatform.lake.store.s3 import S3Access, explained, s3_client

if TYPE_CHECKING:
    from minio import MinioAdmin

_LAKE: Final = ("datalake", "datalake-recorded")
_WAREHOUSE: Final = ("warehouse", "warehouse-recorded")
_LOGS: Final = (LOGS.name,)
_SEE: Final = ("s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads")
_READ: Final = ("s3:GetObject",)
_WRITE: Final = (
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)


def _statement(actions: Iterable[str], resources: Iterable[str]) -> dict[str, Any]:
    arns = sorted(f"arn:aws:s3:::{resource}" for resource in resources)
    return {"Effect": "Allow", "Action": sorted(actions), "Resource": arns}


def _policy(buckets: Iterable[str], actions: Iterable[str]) -> dict[str, Any]:
    """Allow `actions` in buckets; what is replaced or deleted there can be brought back."""
    buckets = tuple(buckets)
    # Said by name: MinIO takes the right to delete an object for that to delete any version.
    keep = _statement(["s3:DeleteObjectVersion"], (f"{bucket}/inbox/*" for bucket in _LAKE))
    keep = {"Effect": "Deny", "Action": keep["Action"], "NotResource": keep["Resource"]}
    return {
        "Version": "2012-10-17",
        "Statement": [
            _statement(_SEE, buckets),
            _statement(actions, (f"{bucket}/*" for bucket in buckets)),
            keep,
        ],
    }


def _platform() -> dict[str, Any]:
    """Read and write all; remove for good only what was dropped into the inbox and landed."""
    policy = _policy((*_LAKE, *_WAREHOUSE, *_LOGS), (*_READ, *_WRITE))
    policy["Statement"] += [
        _statement(["s3:ListBucketVersions"], _LAKE),
        _statement(["s3:DeleteObjectVersion"], (f"{bucket}/inbox/*" for bucket in _LAKE)),
    ]
    return policy


def _inbox() -> dict[str, Any]:
    """Put files into the inboxes, and neither see nor read what is there."""
    put = _statement(["s3:PutObject"], (f"{bucket}/inbox/*" for bucket in _LAKE))
    return {"Version": "2012-10-17", "Statement": [put]}


POLICIES: Final[Mapping[str, dict[str, Any]]] = MappingProxyType(
    {
        "platform": _platform(),
        "trino": _policy(_WAREHOUSE, (*_READ, *_WRITE)),
        "catalog": _policy(_WAREHOUSE, (*_READ, *_WRITE)),
        "inbox": _inbox(),
        "readonly-lake": _policy((*_LAKE, *_WAREHOUSE), _READ),
    }
)
"""What each consumer may do: no more than it needs."""


@dataclass(frozen=True)
class MinIOAdmin:
    """MinIO's administration.

    Every method raises an `ObjectStoreError` where MinIO refuses or does not answer.

    Args:
        access: where, and the key of root or of another administrator.
    """

    access: S3Access

    def ensure_policy(self, name: str, document: Mapping[str, Any]) -> list[str]:
        """Make the policy `name` what `document` says; return what changed, in words."""
        if _canonical(self._policies().get(name)) == _canonical(document):
            return []
        with self._explained(f"policy {name}"):
            self._client.policy_add(name, policy=dict(document))
        return [f"policy {name}: set"]

    def ensure_user(self, access_key: str, secret_key: str, policy: str) -> list[str]:
        """Let a key be valid with this secret, and do what one policy allows.

        Args:
            access_key: the user's name; 3 to 20 characters.
            secret_key: 8 to 40 characters; is set where the present one is another.
            policy: the only policy that the user has afterwards.

        Returns:
            what changed, in words and without the secret.
        """
        changed, what = [], f"user {access_key}"
        user = S3Access(self.access.endpoint, self.access.region, access_key, secret_key)
        if not is_accepted(user):
            with self._explained(what):
                self._client.user_add(access_key, secret_key)
            changed.append(f"{what}: secret set")
        with self._explained(what):
            present = json.loads(self._client.user_info(access_key)).get("policyName", "")
            if present != policy:
                self._client.policy_set(policy, user=access_key)
                changed.append(f"{what}: policy {policy}")
        return changed

    def remove_user(self, access_key: str) -> None:
        """End a key; one that is gone already is no error."""
        with self._explained(f"user {access_key}"):
            if access_key in json.loads(self._client.user_list()):
                self._client.user_remove(access_key)

    def set_quota(self, bucket: str, size: int) -> None:
        """Let a bucket hold `size` bytes at most; 0, any number."""
        with self._explained(f"s3://{bucket}"):
            if size:
                self._client.bucket_quota_set(bucket, size)
            else:
                self._client.bucket_quota_clear(bucket)

    def _policies(self) -> dict[str, Any]:
        with self._explained("policies"):
            return json.loads(self._client.policy_list())

    @cached_property
    def _client(self) -> "MinioAdmin":
        import certifi
        from minio import MinioAdmin
        from minio.credentials.providers import StaticProvider
        from urllib3 import PoolManager, Retry, Timeout

        address, access = urlsplit(self.access.endpoint), self.access
        pool = PoolManager(
            timeout=Timeout(connect=5, read=30),
            retries=Retry(total=3, backoff_factor=0.2, status_forcelist=[502, 503, 504]),
            ca_certs=certifi.where(),
        )
        return MinioAdmin(
            endpoint=address.netloc,
            secure=address.scheme == "https",
            region=access.region,
            credentials=StaticProvider(access.access_key, access.secret_key, access.session_token),
            http_client=pool,
        )

    @contextmanager
    def _explained(self, what: str) -> Generator[None]:
        from minio.error import MinioAdminException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except MinioAdminException as error:
            raise (_error(f"{self.access.endpoint} {what}", str(error)) or error) from None
        except HTTPError as error:
            text = f"HTTP error: {type(error).__name__}"
            found = error_of(f"{self.access.endpoint} {what}", text, type(error))
            raise (found or error) from None


def is_minio(endpoint: str) -> bool:
    """Return whether a store knows MinIO's administration: it refuses in JSON, others in XML.

    Who does not answer, or fails, is taken for MinIO: what is asked of it next says why.
    """
    import httpx

    try:
        answer = httpx.get(f"{endpoint.rstrip('/')}/minio/admin/v3/info", timeout=10)
    except httpx.HTTPError:
        return True
    return answer.is_server_error or "json" in answer.headers.get("content-type", "")


def is_accepted(access: S3Access) -> bool:
    """Return whether the store takes this key with this secret, whatever it may do with it."""
    try:
        with explained(access.endpoint):
            s3_client(access).list_buckets()
    except StoreAccessError as error:
        return error.code == "AccessDenied"
    return True


def _error(what: str, text: str) -> ObjectStoreError | None:
    """Return the error of an answer of MinIO's: JSON with a code, in the exception's text."""
    body, status = text.partition("Body: ")[2], text.partition("Status: ")[2][:3]
    code = json.loads(body).get("Code", "") if body.startswith("{") else ""
    return error_of(what, f"<Code>{code}</Code> status code: {status}", ValueError)


def _canonical(document: Any) -> str:
    """Return a policy in one spelling: MinIO sorts, and writes single actions as they come."""
    if document is None:
        return ""
    statements = [
        {name: sorted(value) if isinstance(value, list) else value for name, value in one.items()}
        for one in document["Statement"]
    ]
    return json.dumps(sorted(statements, key=str), sort_keys=True)
