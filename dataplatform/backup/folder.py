"""Where a backup lies: a folder of this machine, or a prefix in a bucket of any S3 store."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from dataplatform.lake.store.object_store import ObjectStore, S3Access, open_bucket, open_folder

_SCHEME: Final = "s3://"
WHERE: Final = "Remedy: name the folder, or s3://bucket/prefix, that dp backup wrote."
_VARIABLES: Final = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class BackupError(Exception):
    """A backup or a restoration that can't be done; the message names the cause and the remedy."""


class StoredFile(BaseModel):
    """A file of a backup.

    Attributes:
        name: its path in the backup.
        size: bytes.
        sha256: of its content, in hexadecimal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: int
    sha256: str


@dataclass
class _Sum:
    """Counts and sums up what passes through."""

    size: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def of(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


@dataclass(frozen=True)
class BackupFolder:
    """The files of one backup.

    Args:
        store: the folder or the bucket.
        prefix: what all keys begin with; empty, or it ends with a slash.
        address: how people name it.
    """

    store: ObjectStore
    prefix: str
    address: str

    def __str__(self) -> str:
        """Return how people name it."""
        return self.address

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return next(iter(self.store.list(self.prefix.rstrip("/"))), None) is None

    def write(self, name: str, chunks: Iterable[bytes]) -> StoredFile:
        """Write a file, all of it or nothing, and return its checksum."""
        passing = _Sum()
        self.store.upload(self.prefix + name, passing.of(chunks))
        return StoredFile(name=name, size=passing.size, sha256=passing.digest.hexdigest())

    def read(self, name: str) -> Iterator[bytes]:
        """Yield a file's content in chunks.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return self.store.stream(self.prefix + name)

    def verify(self, wanted: StoredFile) -> None:
        """Read a file to its end.

        Raises:
            BackupError: it is not there, or not what was written.
        """
        passing = _Sum()
        try:
            for _ in passing.of(self.read(wanted.name)):
                continue
        except FileNotFoundError:
            raise self._damaged(wanted, "is missing") from None
        if (passing.size, passing.digest.hexdigest()) != (wanted.size, wanted.sha256):
            raise self._damaged(wanted, "is not what was written (SHA-256)")

    def _damaged(self, wanted: StoredFile, what: str) -> BackupError:
        return BackupError(
            f"{wanted.name} of the backup {self} {what}."
            " Remedy: restore another backup; nothing was changed."
        )


def open_backup(address: str, environment: Mapping[str, str], *, new: bool = False) -> BackupFolder:
    """Return the place of a backup; nothing in it is read yet.

    Args:
        address: a folder, or `s3://bucket/prefix`.
        environment: has the store's address and key in AWS's own variables: when everything has to
            be restored, there is no Vault to ask.
        new: it is to be written; a folder is made.

    Raises:
        BackupError: a variable is not set, the address names no bucket, or a folder that is not there.
    """
    if not address.startswith(_SCHEME):
        path = Path(address).expanduser().resolve()
        if new:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not path.is_dir():
            raise BackupError(f"There is no folder {path}. {WHERE}")
        return BackupFolder(open_folder(path), "", str(path))
    bucket, _, prefix = address.removeprefix(_SCHEME).partition("/")
    missing = [name for name in _VARIABLES if not environment.get(name)]
    if missing or not bucket:
        what = f"{missing[0]} is not set" if missing else "it names no bucket"
        raise BackupError(
            f"{address} can't be opened: {what}."
            f" Remedy: set {', '.join(_VARIABLES)} and name s3://bucket/prefix."
        )
    endpoint, key, secret = (environment[name] for name in _VARIABLES)
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    return BackupFolder(
        open_bucket(S3Access(endpoint, region, key, secret), bucket), prefix, address
    )
