"""Take a backup while the platform is at work."""

from datetime import UTC, datetime
from typing import Final

from dataplatform.backup.folder import BackupError, BackupFolder, StoredFile
from dataplatform.backup.manifest import BucketState, Manifest, TableState, write_manifest
from dataplatform.backup.objects import LakeBucket, Listed, write_listing
from dataplatform.backup.progress import Progress
from dataplatform.backup.servers import Servers
from dataplatform.backup.tables import examine
from dataplatform.vault.snapshot import take_snapshot

CATALOG: Final = "postgres/catalog.dump"
DAGSTER: Final = "postgres/dagster.dump"
VAULT: Final = "vault.snap"


def back_up(
    servers: Servers, folder: BackupFolder, progress: Progress, *, with_data: bool
) -> tuple[Manifest, list[str]]:
    """Back up catalog, Dagster, Vault and the list of the lake's objects.

    The catalog comes first: all that it points to is listed after it, and is there, as files are
    never changed and stay for days when no snapshot needs them.

    Args:
        servers: of what.
        folder: into where.
        progress: told of each step.
        with_data: copy the objects as well.

    Returns:
        The manifest, and the files that tables need and that were not there.

    Raises:
        BackupError: the folder is not empty, or a server does not give what it holds.
    """
    if not folder.is_empty:
        raise BackupError(f"{folder} is not empty. Remedy: name a new folder for each backup.")
    begun, databases = datetime.now(UTC), servers.databases
    with databases.still_catalog() as (pointers, moment):
        progress.step("catalog")
        files = [folder.write(CATALOG, databases.dump("catalog", moment))]
    progress.step("Dagster")
    files.append(folder.write(DAGSTER, databases.dump("dagster")))
    if servers.has_vault:
        progress.step("Vault")
        files.append(folder.write(VAULT, [take_snapshot(servers.vault)]))
    listed = _listed(servers, folder, progress, with_data=with_data)
    tables, missing = _examined(servers, pointers, listed, progress)
    files += [listing for _, _, listing in listed]
    manifest = Manifest(
        created_at=begun,
        versions=servers.versions(),
        databases={"catalog": CATALOG, "dagster": DAGSTER},
        vault=VAULT if servers.has_vault else None,
        vault_keys=servers.vault_keys(),
        with_data=with_data,
        tables=tables,
        buckets=tuple(_state(*one) for one in listed),
        files=tuple(files),
    )
    write_manifest(folder, manifest)
    return manifest, missing


_Listing = tuple[LakeBucket, list[Listed], StoredFile]


def _listed(
    servers: Servers, folder: BackupFolder, progress: Progress, *, with_data: bool
) -> list[_Listing]:
    return [_list(bucket, folder, progress, with_data=with_data) for bucket in servers.buckets()]


def _list(
    bucket: LakeBucket, folder: BackupFolder, progress: Progress, *, with_data: bool
) -> _Listing:
    progress.step(f"bucket {bucket.name}")
    objects = list(bucket.versions())
    if with_data:
        progress.expect(len(objects))
        objects = list(bucket.copy_to(folder, objects, progress.advance))
    return bucket, objects, write_listing(folder, f"objects/{bucket.name}.jsonl.gz", objects)


def _examined(
    servers: Servers,
    pointers: tuple[TableState, ...],
    listed: list[_Listing],
    progress: Progress,
) -> tuple[tuple[TableState, ...], list[str]]:
    progress.step("tables' files")
    present = {bucket.name: {one.key for one in objects} for bucket, objects, _ in listed}
    return examine(pointers, servers.access, present)


def _state(bucket: LakeBucket, objects: list[Listed], listing: StoredFile) -> BucketState:
    size = sum(one.size for one in objects)
    return BucketState(bucket=bucket.name, listing=listing.name, objects=len(objects), size=size)
