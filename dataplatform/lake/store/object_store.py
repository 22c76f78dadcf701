"""One face for every object store: a folder here, MinIO or any S3 store elsewhere.

Built on `obstore`; this module only adds the few verbs that the lake needs, with keys as
`/`-separated strings relative to the store's root. What a store refuses comes as an
`ObjectStoreError`.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, S3Store

from dataplatform.lake.store.errors import error_of
from dataplatform.lake.store.s3 import BucketVersions, S3Access

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

CONNECT_TIMEOUT: Final = timedelta(seconds=5)
REQUEST_TIMEOUT: Final = timedelta(seconds=60)
PART_SIZE: Final = 8 << 20
_RETRIES: "Final[RetryConfig]" = {
    "max_retries": 6,
    # With the last try's own timeout a put ends within two minutes: the arrivals log allows 15.
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"max_backoff": timedelta(seconds=5)},
}


@dataclass(frozen=True, order=True)
class StoredObject:
    """One object: `size` in bytes, `etag` without quotes.

    `version` names it in a bucket that keeps versions; a list does not tell it.
    """

    last_modified: datetime
    key: str
    etag: str
    size: int
    version: str | None = None


class ObjectVersions(Protocol):
    """What removes versions of objects in a bucket that keeps them."""

    def remove_up_to(self, key: str, version: str) -> None:
        """Remove a version of an object, and those that it replaced, for good."""


@dataclass(frozen=True)
class ObjectStore:
    """Objects below one root, addressed by key.

    Every method raises `ObjectStoreError` where the store refuses, fails or is out of reach.

    Args:
        backend: an obstore store whose root is this store's root.
        root_uri: the root as Spark and DuckDB name it, `file:///…` or `s3a://bucket`.
        versions: removes versions of objects, where the store may keep them.
    """

    backend: LocalStore | S3Store = field(repr=False)
    root_uri: str
    versions: ObjectVersions | None = field(default=None, repr=False)

    @property
    def shows_partial_writes(self) -> bool:
        """Whether another program's file is listed before it is whole: in a folder it grows."""
        return isinstance(self.backend, LocalStore)

    @property
    def lists_from_key(self) -> bool:
        """Whether a list from a key on costs what it gives: a folder is walked whole for it."""
        return isinstance(self.backend, S3Store)

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

    def delete_unchanged(self, seen: StoredObject) -> bool:
        """Remove an object unless it was replaced since `head` gave `seen`; return whether it was.

        Where the bucket keeps versions, exactly those up to `seen` go, whatever is put meanwhile.
        Elsewhere what is put between the look and the removal, a millisecond, goes with it: of S3
        stores only AWS has a conditional delete.
        """
        if seen.version and self.versions:
            self.versions.remove_up_to(seen.key, seen.version)
            return True
        if self.head(seen.key) != seen:
            return False
        self.delete(seen.key)
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the object's bytes in chunks, so that a large one is never in memory at once.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with self._explained(key):
            for chunk in obstore.get(self.backend, key).stream(PART_SIZE):
                yield bytes(chunk)

    def upload(self, key: str, body: IO[bytes] | Iterable[bytes]) -> None:
        """Write a large body, read bit by bit, in parts; all of it or nothing.

        Where reading or writing fails, the parts that were written are taken back. Those of a
        killed process stay until the bucket's lifecycle removes them.

        Args:
            key: where.
            body: an open file, or chunks; at most 80 GB, as S3 takes 10,000 parts.
        """
        with self._explained(key):
            obstore.put(self.backend, key, body, chunk_size=PART_SIZE, max_concurrency=4)

    def replace(self, key: str, body: bytes, seen: StoredObject) -> bool:
        """Write `body` if `key` still holds what `seen` says; return whether it was written."""
        try:
            with self._explained(key):
                obstore.put(self.backend, key, body, mode={"e_tag": f'"{seen.etag}"'})
        except (PreconditionError, FileNotFoundError):
            return False
        return True

    def presign(self, method: Literal["GET", "PUT"], key: str, expires_in: timedelta) -> str:
        """Return an address that reads or writes one object without a key, until it expires.

        The address is a secret: whoever has it may do that.

        Args:
            method: GET or PUT.
            key: the object.
            expires_in: up to seven days.

        Raises:
            NotImplementedError: the store is a folder.
        """
        if not isinstance(self.backend, S3Store):
            raise NotImplementedError("a folder has no addresses to sign")
        with self._explained(key):
            return obstore.sign(self.backend, method, key, expires_in)

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
            # The client drops a final `/` of `start_after`.
            found = map(_stored, batch)
            yield from (one for one in found if start_after is None or one.key > start_after)

    @contextmanager
    def _explained(self, key: str) -> Generator[None]:
        """Turn what obstore raises into an error with cause and remedy, where there is one."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError):
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
        version=meta["version"],
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
    return ObjectStore(backend, f"s3a://{bucket}", BucketVersions(access, bucket))


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
        # One DELETE an object: the bulk answer is 200 with the reason where it can't be told.
        "disable_bulk_delete": True,
    }


def _credential(access: S3Access) -> "S3Credential":
    return {
        "access_key_id": access.access_key,
        "secret_access_key": access.secret_key,
        "token": access.session_token,
        "expires_at": None,
    }
