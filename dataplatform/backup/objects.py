"""The lake's objects: listed with their versions, copied where asked for, brought back."""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from dataplatform.backup.folder import BackupFolder, StoredFile
from dataplatform.lake.store.s3 import S3Access, explained, s3_client

Count = Callable[[int], None]
"""Told how many objects are done."""

_AT_ONCE: Final = 8
_CHUNK: Final = 1024 * 1024
_IN_MEMORY: Final = 32 * _CHUNK
_UNVERSIONED: Final = "null"


@dataclass(frozen=True)
class Listed:
    """An object as it was listed.

    Attributes:
        key: its key.
        version: its version; `null` where the bucket keeps none.
        size: bytes.
        etag: the store's.
        sha256: of its copy in the backup; empty where there is none.
    """

    key: str
    version: str
    size: int
    etag: str
    sha256: str = ""


@dataclass(frozen=True)
class LakeBucket:
    """A bucket of the lake.

    Args:
        access: where, with a key that may list versions.
        name: the bucket's.
    """

    access: S3Access = field(repr=False)
    name: str

    @cached_property
    def _client(self) -> Any:
        return s3_client(self.access)

    def versions(self) -> Iterator[Listed]:
        """Yield the objects that are there, in the order of their keys."""
        with explained(f"s3://{self.name}"):
            pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self.name)
            for page in pages:
                for one in page.get("Versions", []):
                    if one["IsLatest"]:
                        etag = one["ETag"].strip('"')
                        yield Listed(one["Key"], one["VersionId"], one["Size"], etag)

    def copy_to(
        self, folder: BackupFolder, objects: Iterable[Listed], done: Count
    ) -> Sequence[Listed]:
        """Copy objects into a backup; returns them with the checksums of their copies."""

        def copy(one: Listed) -> Listed:
            stored = folder.write(copy_of(self.name, one).name, self._content(one))
            done(1)
            return replace(one, sha256=stored.sha256)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(copy, objects))

    def bring_back(
        self, objects: Iterable[Listed], folder: BackupFolder, done: Count
    ) -> Sequence[str]:
        """Put back what is gone, from the backup's copy or from a version that the bucket kept.

        What is there stays as it is, be it newer or not: raw files and tables' files are never
        changed after they were written.

        Returns:
            The keys that neither has.
        """
        present = {one.key for one in self.versions()}

        def bring(one: Listed) -> str | None:
            done(1)
            if one.key in present or self._from_copy(one, folder) or self._from_version(one):
                return None
            return one.key

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [key for key in pool.map(bring, objects) if key is not None]

    def _content(self, one: Listed) -> Iterator[bytes]:
        version = {} if one.version == _UNVERSIONED else {"VersionId": one.version}
        with explained(f"s3://{self.name}/{one.key}"):
            answer = self._client.get_object(Bucket=self.name, Key=one.key, **version)
            yield from answer["Body"].iter_chunks(_CHUNK)

    def _from_copy(self, one: Listed, folder: BackupFolder) -> bool:
        if not one.sha256:
            return False
        # Not chunk by chunk: one store of obstore can't be read while another one is written.
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            for chunk in folder.read(copy_of(self.name, one).name):
                body.write(chunk)
            body.seek(0)
            with explained(f"s3://{self.name}/{one.key}"):
                self._client.upload_fileobj(body, self.name, one.key)
        return True

    def _from_version(self, one: Listed) -> bool:
        from botocore.exceptions import ClientError

        if one.version == _UNVERSIONED:
            return False
        source = {"Bucket": self.name, "Key": one.key, "VersionId": one.version}
        try:
            self._client.copy_object(Bucket=self.name, Key=one.key, CopySource=source)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchVersion", "NoSuchKey", "InvalidArgument"):
                return False
            raise
        return True


def copy_of(bucket: str, one: Listed) -> StoredFile:
    """Return the file of a backup that holds an object's copy."""
    return StoredFile(name=f"data/{bucket}/{one.key}", size=one.size, sha256=one.sha256)


def write_listing(folder: BackupFolder, name: str, objects: Iterable[Listed]) -> StoredFile:
    """Write a listing: one JSON object a line, gzipped."""
    lines = "".join(json.dumps(asdict(one)) + "\n" for one in objects)
    return folder.write(name, [gzip.compress(lines.encode(), mtime=0)])


def read_listing(folder: BackupFolder, name: str) -> Sequence[Listed]:
    """Read what `write_listing` wrote."""
    lines = gzip.decompress(b"".join(folder.read(name))).decode().splitlines()
    return [Listed(**json.loads(line)) for line in lines]
