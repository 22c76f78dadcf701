"""One face for every object store: a folder here, MinIO or any S3 store elsewhere.

Built on `obstore`; this module only adds the few verbs that the lake needs, with keys as
`/`-separated strings relative to the store's root.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store


@dataclass(frozen=True, order=True)
class StoredObject:
    """One listed object: `size` in bytes, `etag` without quotes."""

    last_modified: datetime
    key: str
    etag: str
    size: int


@dataclass(frozen=True)
class S3Access:
    """How an S3 store is reached; any will do, MinIO is what the platform brings.

    Args:
        endpoint: such as `http://127.0.0.1:9000`.
        region: what the store calls its region; MinIO takes any.
        access_key: the key's id.
        secret_key: the key.
        path_style: the bucket stands in the path rather than in the host name.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    path_style: bool = True


@dataclass(frozen=True)
class ObjectStore:
    """Objects below one root, addressed by key.

    Args:
        backend: an obstore store whose root is this store's root.
        root_uri: the root as Spark and DuckDB name it, `file:///…` or `s3://bucket`.
    """

    backend: LocalStore | S3Store
    root_uri: str

    def uri(self, key: str) -> str:
        """Return the URI under which an engine (Spark, DuckDB) reads `key`."""
        return f"{self.root_uri}/{key}"

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises FileNotFoundError where there is none."""
        return bytes(obstore.get(self.backend, key).bytes())

    def put(self, key: str, body: bytes) -> None:
        """Write `body` at `key`, all of it or nothing, replacing what was there."""
        obstore.put(self.backend, key, body)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Write `body` unless `key` exists; return whether it was written. Atomic."""
        try:
            obstore.put(self.backend, key, body, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def head(self, key: str) -> StoredObject | None:
        """Return the object's metadata, or None where there is no such object."""
        try:
            return _stored(obstore.head(self.backend, key))
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Return whether there is an object at `key`."""
        return self.head(key) is not None

    def delete(self, key: str) -> None:
        """Remove the object; one that is already gone is no error."""
        try:
            obstore.delete(self.backend, key)
        except FileNotFoundError:
            return

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[StoredObject]:
        """Yield the objects below the folder `prefix`, those whose key sorts after `start_after`.

        The order is the backend's: S3 sorts by key, a local folder does not.
        """
        for batch in obstore.list(self.backend, prefix, offset=start_after):
            for meta in batch:
                yield _stored(meta)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the sorted keys of the folders directly below the folder `prefix`."""
        return sorted(obstore.list_with_delimiter(self.backend, prefix)["common_prefixes"])


def _stored(meta: "obstore.ObjectMeta") -> StoredObject:
    return StoredObject(
        last_modified=meta["last_modified"],
        key=meta["path"],
        etag=(meta["e_tag"] or "").strip('"'),
        size=meta["size"],
    )


def open_folder(path: Path) -> ObjectStore:
    """Open (and make) the folder `path` as an object store."""
    path.mkdir(parents=True, exist_ok=True)
    # Not `Path.as_uri()`: engines take what follows `file://` as it stands, `%20` and all.
    return ObjectStore(LocalStore(path.resolve()), f"file://{path.resolve()}")


def open_bucket(access: S3Access, bucket: str) -> ObjectStore:
    """Open a bucket of an S3 store."""
    raise NotImplementedError
