"""What a backup holds, as one file that is written last: a backup without it is none."""

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dataplatform.backup.folder import WHERE, BackupError, BackupFolder, StoredFile

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableState(_Frozen):
    """What the catalog said of a table or view when it was dumped.

    Attributes:
        origin: live or recorded.
        namespace: such as `warehouse`.
        name: the table's or view's.
        kind: TABLE or VIEW.
        metadata_location: its current metadata file.
        snapshot_id: the snapshot that readers see; None for a view, or a table without rows.
    """

    origin: str
    namespace: str
    name: str
    kind: Literal["TABLE", "VIEW"]
    metadata_location: str
    snapshot_id: int | None = None

    def __str__(self) -> str:
        """Return how people name it."""
        return f"{self.origin} {self.namespace}.{self.name}"


class BucketState(_Frozen):
    """A bucket as it was listed.

    Attributes:
        bucket: its name.
        listing: the file that lists its objects, one JSON object a line.
        objects: how many.
        size: their bytes.
    """

    bucket: str
    listing: str
    objects: int
    size: int


class VaultKeys(_Frozen):
    """By what a Vault snapshot is opened: fingerprints, as the keys are kept apart from backups.

    Attributes:
        seal_key: of the key that unseals it.
        token: of its administrator's token.
    """

    seal_key: str
    token: str


class Manifest(_Frozen):
    """A whole backup.

    Attributes:
        format: of this file.
        created_at: when the backup began.
        versions: server to the version that was backed up, such as postgres to 18.0.
        databases: database to its dump.
        vault: the snapshot; None where Vault is the user's own.
        vault_keys: by what it is opened.
        with_data: whether the objects were copied.
        tables: what the dump of the catalog points to.
        buckets: what the lake consists of.
        files: every file of the backup but this one and the objects' copies, whose checksums are
            in the listings.
    """

    format: Literal[1] = FORMAT
    created_at: datetime
    versions: dict[str, str]
    databases: dict[str, str]
    vault: str | None
    vault_keys: VaultKeys | None
    with_data: bool
    tables: tuple[TableState, ...]
    buckets: tuple[BucketState, ...]
    files: tuple[StoredFile, ...]


def write_manifest(folder: BackupFolder, manifest: Manifest) -> None:
    """Write the manifest: from now on the backup is whole."""
    folder.write(MANIFEST, [manifest.model_dump_json(indent=2).encode()])


def read_manifest(folder: BackupFolder) -> Manifest:
    """Return the manifest.

    Raises:
        BackupError: there is none, so that the backup is not whole, or it can't be read.
    """
    try:
        return Manifest.model_validate_json(b"".join(folder.read(MANIFEST)))
    except FileNotFoundError:
        if folder.is_empty:
            raise BackupError(f"There is no backup in {folder}. {WHERE}") from None
        raise BackupError(
            f"{folder} is not a whole backup: it has no {MANIFEST}, which is written last."
            " Remedy: take another backup; what is here was left by one that did not end."
        ) from None
    except ValidationError as error:
        raise BackupError(
            f"The manifest of {folder} can't be read ({error.error_count()} errors)."
            " Remedy: take another backup, or the version of dp that wrote this one."
        ) from None
