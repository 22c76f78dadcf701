"""Bring a backup back: checked first, then catalog, Dagster, objects and Vault, then checked again."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from dataplatform.backup.folder import BackupError, BackupFolder
from dataplatform.backup.manifest import Manifest, read_manifest
from dataplatform.backup.objects import copy_of, read_listing
from dataplatform.backup.progress import Progress
from dataplatform.backup.servers import Servers
from dataplatform.backup.tables import examine
from dataplatform.lake.writer_lock import LakeBusyError, postgres_lock
from dataplatform.stack.bootstrap import (
    APP_ROLES,
    MINIO_USERS,
    POSTGRES_LOGINS,
    vault_layout,
)
from dataplatform.stack.layout import write_private
from dataplatform.vault.auth import Login
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.client import VaultClient
from dataplatform.vault.consumers import MinioUser, PostgresLogin
from dataplatform.vault.snapshot import restore_snapshot

_ADMINISTRATORS: Final = ("minio/root", "minio/kms", "postgres/superuser")
"""By these the servers that run now were started, whatever the backup says."""
_BUSY_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 60.0
_HEARTBEAT_SECONDS: Final = 90.0
"""A daemon gives a sign of life each 30 s."""


@dataclass(frozen=True)
class Restored:
    """What a restoration did.

    Attributes:
        manifest: of the backup.
        lost: objects that were listed and that neither the backup nor the buckets have.
        missing: files that tables need and that are not there, as `table: file`.
    """

    manifest: Manifest
    lost: tuple[str, ...]
    missing: tuple[str, ...]


def verify(folder: BackupFolder, progress: Progress) -> Manifest:
    """Read a backup to its end and return its manifest.

    Raises:
        BackupError: it is not whole, or a file is not what was written.
    """
    progress.step("checksums")
    manifest = read_manifest(folder)
    for file in manifest.files:
        folder.verify(file)
    for bucket in manifest.buckets if manifest.with_data else ():
        objects = read_listing(folder, bucket.listing)
        progress.step(f"checksums of {bucket.bucket}")
        progress.expect(len(objects))
        for one in objects:
            folder.verify(copy_of(bucket.bucket, one))
            progress.advance(1)
    return manifest


def restore(
    servers: Servers,
    folder: BackupFolder,
    progress: Progress,
    *,
    force: bool,
    token: Path | None = None,
    despite_daemon: bool = False,
) -> Restored:
    """Bring a backup back into a stack that is up.

    Args:
        servers: the stack's; those that hold Vault's secrets have to be restarted afterwards.
        folder: the backup.
        progress: told of each step.
        force: replace what is there.
        token: the file of the administrator's token of the Vault that was backed up; None, this
            stack's, as it is the same Vault.
        despite_daemon: go on where Dagster's daemon seems to run.

    Raises:
        BackupError: the backup is damaged or does not fit, or the stack is in use; nothing is
            changed then.
    """
    manifest = verify(folder, progress)
    _refuse_other(manifest, servers, token)
    if not force:
        _refuse_used(servers)
    if not despite_daemon:
        _refuse_daemon(servers)
    with _alone(servers, manifest.databases):
        for database, dump in manifest.databases.items():
            progress.step(f"database {database}")
            servers.databases.restore(database, folder.read(dump))
        lost = _bring_back(manifest, servers, folder, progress)
        if manifest.vault and servers.has_vault:
            progress.step("Vault")
            snapshot = b"".join(folder.read(manifest.vault))
            servers = _restore_vault(servers, snapshot, token)
    progress.step("tables' files")
    return Restored(manifest, lost, _missing(manifest, servers))


def _refuse_other(manifest: Manifest, servers: Servers, token: Path | None) -> None:
    """Refuse a backup of newer servers, or one whose Vault could not be opened."""
    for server, present in servers.versions().items():
        backed_up = manifest.versions.get(server, present)
        if _major(backed_up) > _major(present):
            raise BackupError(
                f"The backup is of {server} {backed_up}, which {present} can't read."
                f" Remedy: restore it with the version of the platform that has {backed_up}."
            )
    keys = servers.vault_keys(token)
    if keys is None or manifest.vault_keys is None:
        return
    if keys.seal_key != manifest.vault_keys.seal_key:
        raise BackupError(
            "This stack's Vault has another seal key than the one that was backed up. Remedy: dp"
            f" stack down --purge, put the key kept from then at {servers.layout.seal_key} (mode"
            " 0600), dp stack up, and restore again."
        )
    if keys.token != manifest.vault_keys.token:
        raise BackupError(
            "The token is not that of the Vault that was backed up."
            " Remedy: --vault-token-file with the vault-root-token kept from then."
        )


def _major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


def _refuse_used(servers: Servers) -> None:
    if used := servers.databases.used():
        raise BackupError(
            f"This stack is in use: {used}."
            " Remedy: restore into a new one, or replace all of it by --force."
        )


def _refuse_daemon(servers: Servers) -> None:
    """Refuse where a daemon may start a run, which would write beside the restoration."""
    # In a database that an earlier restoration left closed, none runs.
    seen = servers.databases.daemon_seen() if servers.databases.accepts("dagster") else None
    if seen is not None and seen < _HEARTBEAT_SECONDS:
        raise BackupError(
            f"Dagster's daemon gave a sign of life {max(seen, 0):.0f} s ago, so dp ui or another daemon"
            f" runs. Remedy: end it, and try again {_HEARTBEAT_SECONDS:.0f} s after that sign; or"
            " --despite-daemon, where you know that none runs."
        )


@contextmanager
def _alone(servers: Servers, databases: Iterable[str]) -> Generator[None]:
    """Keep all others out of the databases: a writer's table would lose what it points to."""
    with ExitStack() as until_the_end:
        with ExitStack() as until_closed:
            # Nobody writes in a database that an earlier restoration left closed, or took away.
            if servers.databases.accepts("dagster"):
                for origin in ("live", "recorded"):
                    until_closed.enter_context(_writer_lock(servers, origin))
            until_the_end.enter_context(servers.databases.closed(databases))
        yield


@contextmanager
def _writer_lock(servers: Servers, origin: str) -> Generator[None]:
    from psycopg2.extensions import make_dsn

    login = servers.postgres.superuser()
    dsn = make_dsn(
        servers.postgres.address,
        dbname="dagster",
        user=login["username"],
        password=login["password"],
    )
    try:
        with postgres_lock(dsn, f"lake {origin}", "dp restore", _BUSY_SECONDS):
            yield
    except LakeBusyError as error:
        raise BackupError(str(error)) from None


def _bring_back(
    manifest: Manifest, servers: Servers, folder: BackupFolder, progress: Progress
) -> tuple[str, ...]:
    states = {state.bucket: state for state in manifest.buckets}
    lost: list[str] = []
    for bucket in servers.buckets():
        if bucket.name in states:
            objects = read_listing(folder, states[bucket.name].listing)
            progress.step(f"bucket {bucket.name}")
            progress.expect(len(objects))
            gone = bucket.bring_back(objects, folder, progress.advance)
            lost += [f"s3://{bucket.name}/{key}" for key in gone]
    return tuple(lost)


def _missing(manifest: Manifest, servers: Servers) -> tuple[str, ...]:
    present = {bucket.name: {one.key for one in bucket.versions()} for bucket in servers.buckets()}
    found, missing = examine(servers.databases.pointers(), servers.access, present)
    seen = {(one.origin, one.namespace, one.name): one for one in found}
    for wanted in manifest.tables:
        now = seen.get((wanted.origin, wanted.namespace, wanted.name))
        if now is None or now.metadata_location != wanted.metadata_location:
            missing.append(f"{wanted}: the catalog does not point to {wanted.metadata_location}")
    return tuple(missing)


# ---- Vault ----


def _restore_vault(servers: Servers, snapshot: bytes, token: Path | None) -> Servers:
    """Restore Vault, and make it and the servers agree again.

    The servers keep the administrators they were started with; the consumers' logins and keys are
    made what the backup says.
    """
    administrators = {path: servers.vault.read(path).values for path in _ADMINISTRATORS}
    restore_snapshot(servers.vault, snapshot)
    write_private(servers.layout.root_token, (token or servers.layout.root_token).read_text())
    login = Login("token", None, servers.layout.root_token)
    restored = VaultClient(servers.vault.address, login, patience=_PATIENCE_SECONDS)
    servers = replace(servers, vault=restored)
    for path, values in administrators.items():
        _keep(restored, path, values)
    _install(servers)
    _connect_database(servers)
    for role in APP_ROLES:
        write_private(servers.layout.secret_id(role), issue_secret_id(restored, role))
    return servers


def _keep(vault: VaultClient, path: str, values: Mapping[str, str]) -> None:
    if vault.read(path).values != values:
        vault.write(path, values, cas=vault.last_version(path))


def _install(servers: Servers) -> None:
    """Give each consumer's users in the servers the secrets that Vault has."""
    store, root = servers.plan.address("minio"), servers.vault.read("minio/root").values
    consumers = chain(
        (PostgresLogin(name, servers.postgres) for name in POSTGRES_LOGINS),
        (MinioUser(name, store, lambda: root, servers.plan.region) for name in MINIO_USERS),
    )
    for consumer in consumers:
        # Vault may be from before a consumer was there: `dp stack up` makes its secret.
        if servers.vault.last_version(consumer.path):
            consumer.install(servers.vault.read(consumer.path).values)


def _connect_database(servers: Servers) -> None:
    """Give Vault's own role in PostgreSQL a new password; its old leases have nothing to end."""
    vault = servers.vault
    vault.call("leases", lambda client: client.sys.revoke_force("database/creds"))
    vault.call("database", lambda client: client.delete("database/config/postgres"))
    bootstrap(vault, vault_layout(servers.postgres, servers.plan.given))
