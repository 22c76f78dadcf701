"""One face for every object store: a folder here, MinIO or any S3 store elsewhere.

Built on `obstore`; this module only adds the few verbs that the lake needs, with keys as
`/`-separated strings relative to the store's root. What a store refuses comes as an
`ObjectStoreError`.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from dataplatform.lake.object_store_errors import error_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

CONNECT_TIMEOUT: Final = timedelta(seconds=5)
REQUEST_TIMEOUT: Final = timedelta(seconds=60)
_RETRIES: "Final[RetryConfig]" = {
    "max_retries": 6,
    # With the last try's own timeout a put ends within two minutes: the arrivals log allows 15.
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"max_backoff": timedelta(seconds=5)},
}


@dataclass(frozen=True, order=True)
class StoredObject:
    """One listed object: `size` in bytes, `etag` without quotes."""

    last_modified: datetime
    key: str
    etag: str
    size: int


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


@dataclass(frozen=True)
class ObjectStore:
    """Objects below one root, addressed by key.

    Every method raises `ObjectStoreError` where the store refuses, fails or is out of reach.

    Args:
        backend: an obstore store whose root is this store's root.
        root_uri: the root as Spark and DuckDB name it, `file:///…` or `s3a://bucket`.
    """

    backend: LocalStore | S3Store = field(repr=False)
    root_uri: str

    @property
    def shows_partial_writes(self) -> bool:
        """Whether another program's file is listed before it is whole: in a folder it grows."""
        return isinstance(self.backend, LocalStore)

    def uri(self, key: str) -> str:
        """Return the URI under which an engine (Spark, DuckDB) reads `key`."""
        return f"{self.root_uri}/{key}"

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises FileNotFoundError where there is none."""
        with self._explained(key):
            return bytes(obstore.get(self.backend, key).bytes())

    def put(self, key: str, body: bytes) -> None:
        """Write `body` at `key`, all of it or nothing, replacing what was there."""
        with self._explained(key):
            obstore.put(self.backend, key, body)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Write `body` unless `key` exists; return whether it was written. Atomic.

        False may be this very call's doing, where a first answer was lost and the put repeated.
        """
        try:
            with self._explained(key):
                obstore.put(self.backend, key, body, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def head(self, key: str) -> StoredObject | None:
        """Return the object's metadata, or None where there is no such object.

        S3 answers a HEAD without saying why: of a bucket that is not there this says None too, and
        `last_modified` is in whole seconds, while that of `list` may be finer. Compare ETags.
        """
        try:
            with self._explained(key):
                return _stored(obstore.head(self.backend, key))
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        """Return whether there is an object at `key`."""
        return self.head(key) is not None

    def delete(self, key: str) -> None:
        """Remove the object; one that is already gone is no error."""
        try:
            with self._explained(key):
                obstore.delete(self.backend, key)
        except FileNotFoundError:
            return

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[StoredObject]:
        """Yield the objects below the folder `prefix`, those whose key sorts after `start_after`.

        They come sorted by key: S3 lists so, page by page, a folder is sorted here.
        """
        found = self._listed(prefix, start_after)
        yield from sorted(found, key=_by_key) if self.shows_partial_writes else found

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the sorted keys of the folders directly below the folder `prefix`."""
        with self._explained(prefix):
            return sorted(obstore.list_with_delimiter(self.backend, prefix)["common_prefixes"])

    def _listed(self, prefix: str, start_after: str | None) -> Iterator[StoredObject]:
        batches = obstore.list(self.backend, prefix, offset=start_after)
        while True:
            with self._explained(prefix):
                batch = next(batches, None)
            if batch is None:
                return
            yield from map(_stored, batch)

    @contextmanager
    def _explained(self, key: str) -> Generator[None]:
        """Turn what obstore raises into an error with cause and remedy, where there is one."""
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError) as error:
            explained = error_of(f"{self.root_uri}/{key}", str(error), type(error))
            if explained is None:
                raise
            # Not `from error`: its text runs over forty lines and says no more.
            raise explained from None


def _by_key(stored: StoredObject) -> str:
    return stored.key


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
    """Open a bucket as an object store; nothing is asked of it before it is used.

    Args:
        access: where, and with which key. Plain `http` is spoken where the endpoint says so.
        bucket: its name.
    """
    client: ClientConfig = {
        "allow_http": access.endpoint.startswith("http://"),
        "connect_timeout": CONNECT_TIMEOUT,
        "timeout": REQUEST_TIMEOUT,
    }
    backend = S3Store(
        bucket,
        config=_s3_config(access, bucket),
        client_options=client,
        retry_config=_RETRIES,
        # Not in `config`, which every holder of the store can read.
        credential_provider=lambda: _credential(access),
    )
    # The scheme of Hadoop's S3A, which Spark reads files by; DuckDB takes it for `s3://`.
    return ObjectStore(backend, f"s3a://{bucket}")


def _s3_config(access: S3Access, bucket: str) -> "S3Config":
    address = access.endpoint.rstrip("/")
    if not access.path_style:
        address = address.replace("://", f"://{bucket}.", 1)
    # obstore reads AWS_… from the environment first: all that could lead elsewhere is set here.
    return {
        "endpoint": address,
        "aws_endpoint_url_s3": address,
        "region": access.region,
        "virtual_hosted_style_request": not access.path_style,
        "conditional_put": "etag",
        "skip_signature": False,
    }


def _credential(access: S3Access) -> "S3Credential":
    return {
        "access_key_id": access.access_key,
        "secret_access_key": access.secret_key,
        "token": access.session_token,
        "expires_at": None,
    }
