"""An S3 object store as a resource: MinIO, or any other that speaks S3."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import ConfigDict, PrivateAttr

from dataplatform.addresses import ServerAddress
from dataplatform.lake.secrets import SecretStore
from dataplatform.lake.store.changes import ChangeCursor, Changes, changes
from dataplatform.lake.store.object_store import ObjectStore, open_bucket
from dataplatform.lake.store.s3 import S3Access
from dataplatform.profiles import Settings

if TYPE_CHECKING:
    from dataplatform.lake.store.buckets import BucketSpec
    from dataplatform.lake.store.minio_admin import MinIOAdmin


class MinIOResource(ConfigurableResource):
    """MinIO, or any S3 store: its buckets, and for MinIO its users.

    No field holds a secret: Dagster keeps a resource's fields in its database. The key is read from
    the profile's secrets when the first request is made. Requests have time limits (5 s to connect,
    60 s for an answer) and are repeated a bounded number of times where that is safe.

    Every method, and every method of the `ObjectStore` it opens, raises an `ObjectStoreError` of
    `dataplatform.lake.store.errors`, which names cause and remedy: access refused, bucket
    missing, store full, unreachable and failed are types of their own.

    Attributes:
        endpoint: the store's address, such as `http://127.0.0.1:9000`; None, it is not set.
        region: the region that requests are signed for; MinIO takes any.
        path_style: the bucket stands in the path of addresses; False, in the host name.
        secret: the path of the key, {access_key, secret_key}, in the secret store.
        admin_secret: the path of the key that may set up buckets and users.
    """

    # What is refused may hold a password: it is not repeated.
    model_config = ConfigDict(hide_input_in_errors=True)

    endpoint: ServerAddress | None = None
    region: str = "us-east-1"
    path_style: bool = True
    secret: str = "minio/platform"  # noqa: S105
    admin_secret: str = "minio/root"  # noqa: S105
    _secrets: SecretStore | None = PrivateAttr(default=None)

    @classmethod
    def from_settings(cls, settings: Settings) -> "MinIOResource":
        """Describe the store as the settings say; nothing is read or asked yet."""
        return cls(endpoint=settings.s3_endpoint, region=settings.s3_region)

    def reading_from(self, secrets: SecretStore) -> "MinIOResource":
        """Read keys from `secrets` rather than from the profile's store; returns itself."""
        self._secrets = secrets
        return self

    @cached_property
    def access(self) -> S3Access:
        """The address with the key; read once.

        Raises:
            NotConfiguredError: no address is set.
            SecretError: the key can't be had; the message says why and what to do.
        """
        return self._access(self.secret)

    def bucket(self, name: str) -> ObjectStore:
        """Open a bucket: conditional and multipart writes, streams, lists, presigned addresses."""
        return open_bucket(self.access, name)

    def changes(self, bucket: str, prefix: str, cursor: ChangeCursor, limit: int = 1000) -> Changes:
        """Return the objects below a folder that were written since `cursor`, oldest first.

        Args:
            bucket: its name.
            prefix: the folder.
            cursor: where the reader stands; `ChangeCursor()` before the first look.
            limit: at most so many; the next call goes on from there.
        """
        return changes(self.bucket(bucket), prefix, cursor, limit)

    def bootstrap(self, buckets: "Sequence[BucketSpec] | None" = None) -> list[str]:
        """Make the buckets with versions and lifecycle, and each consumer's policy.

        Users are made where their secrets are, by `admin.ensure_user`. What is there already stays.

        Args:
            buckets: what to make; None, the platform's own.

        Returns:
            what changed, in words; empty where everything was as it should be.
        """
        from dataplatform.lake.store.buckets import BUCKETS, ensure_bucket
        from dataplatform.lake.store.minio_admin import POLICIES

        access = self._access(self.admin_secret)
        changed = [line for spec in (buckets or BUCKETS) for line in ensure_bucket(access, spec)]
        for name, document in POLICIES.items():
            changed += self.admin.ensure_policy(name, document)
        return changed

    @cached_property
    def admin(self) -> "MinIOAdmin":
        """MinIO's users, policies and quotas, with the key of `admin_secret`."""
        from dataplatform.lake.store.minio_admin import MinIOAdmin

        return MinIOAdmin(self._access(self.admin_secret))

    def _access(self, path: str) -> S3Access:
        from dataplatform.lake.place import NotConfiguredError
        from dataplatform.resources.vault import open_secrets

        if not self.endpoint:
            raise NotConfiguredError(
                "The object store's address is not set. Remedy: `dp stack up` starts one, or set"
                " DATAPLATFORM_S3_ENDPOINT."
            )
        key = (self._secrets or open_secrets(Settings())).read(path)
        return S3Access(
            self.endpoint,
            self.region,
            key["access_key"],
            key["secret_key"],
            key.get("session_token"),
            self.path_style,
        )
