"""Buckets as code: their versions and lifecycle, brought about through plain S3."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dataplatform.lake.store.errors import BucketMissingError
from dataplatform.lake.store.s3 import S3Access, explained, s3_client


@dataclass(frozen=True)
class BucketSpec:
    """What a bucket is to be.

    Args:
        name: its name.
        keep_replaced_days: how long versions that were replaced or deleted are kept.
        abort_upload_days: when the parts of an upload that was never completed are removed.
        temporary: prefix → days after which what lies below it is removed.
    """

    name: str
    keep_replaced_days: int = 30
    abort_upload_days: int = 2
    temporary: Mapping[str, int] = field(default_factory=lambda: {"tmp/": 7})

    @property
    def lifecycle(self) -> list[dict[str, Any]]:
        """The rules as S3 writes them."""
        everything = {
            "ID": "replaced-versions-and-abandoned-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "NoncurrentVersionExpiration": {"NoncurrentDays": self.keep_replaced_days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": self.abort_upload_days},
        }
        return [everything] + [
            {
                "ID": f"temporary-{prefix.strip('/').replace('/', '-')}",
                "Status": "Enabled",
                "Filter": {"Prefix": prefix},
                "Expiration": {"Days": days},
            }
            for prefix, days in self.temporary.items()
        ]


# Iceberg removes a file when no snapshot needs it any more: a week is for mistakes with that.
DATA_BUCKETS: Final = tuple(
    BucketSpec(f"{name}{of}", keep_replaced_days=days)
    for of in ("", "-recorded")
    for name, days in (("datalake", 30), ("warehouse", 7))
)
"""Raw files and tables, live and recorded."""

LOGS: Final = BucketSpec(
    "dagster-logs", keep_replaced_days=1, temporary={"compute-logs/": 90, "tmp/": 7}
)
"""What steps print: history that ends after 90 days, as the ticks of failed sensors do."""

BUCKETS: Final = (*DATA_BUCKETS, LOGS)
"""All buckets of the platform."""


def ensure_bucket(access: S3Access, spec: BucketSpec) -> list[str]:
    """Make a bucket what `spec` says; return what changed, in words.

    Raises:
        StoreAccessError: the key may not do this.
        StoreUnreachableError: nothing answers.
    """
    client, changed = s3_client(access), []
    with explained(f"s3://{spec.name}"):
        if not _exists(client, spec.name):
            client.create_bucket(Bucket=spec.name)
            changed.append(f"bucket {spec.name}: created")
        if client.get_bucket_versioning(Bucket=spec.name).get("Status") != "Enabled":
            client.put_bucket_versioning(
                Bucket=spec.name, VersioningConfiguration={"Status": "Enabled"}
            )
            changed.append(f"bucket {spec.name}: versions are kept")
        if not _holds(_lifecycle(client, spec.name), spec.lifecycle):
            client.put_bucket_lifecycle_configuration(
                Bucket=spec.name, LifecycleConfiguration={"Rules": spec.lifecycle}
            )
            changed.append(f"bucket {spec.name}: lifecycle set")
    return changed


def _exists(client: Any, bucket: str) -> bool:
    try:
        with explained(f"s3://{bucket}"):
            # Not HeadBucket, which does not say why it refuses.
            client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except BucketMissingError:
        return False
    return True


def _lifecycle(client: Any, bucket: str) -> list[dict[str, Any]]:
    from botocore.exceptions import ClientError

    try:
        return client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
            return []
        raise


def _holds(present: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Return whether rules are those wanted, but for what a store has in a way of its own.

    MinIO drops the rule about abandoned uploads: it removes them after a day, whatever the rules.
    """
    dropped = [{n: v for n, v in rule.items() if not n.startswith("Abort")} for rule in wanted]
    return _comparable(present) in (_comparable(wanted), _comparable(dropped))


def _comparable(rules: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """Return rules without what stores fill in, in an order of their own."""
    return sorted((rule["ID"], _without_empty(rule)) for rule in rules)


def _without_empty(value: object) -> object:
    if not isinstance(value, dict):
        return value
    kept = {name: _without_empty(one) for name, one in value.items()}
    return {name: one for name, one in kept.items() if one not in ("", {}, 0, None, False)}
