"""Vault as a whole, saved and brought back: Raft's snapshots, which are encrypted by Vault itself."""

from dataplatform.vault.client import VaultClient


def take_snapshot(vault: VaultClient) -> bytes:
    """Return a snapshot: what Vault holds at one moment, readable to who has its seal key only.

    Raises:
        VaultForbiddenError: the token is not an administrator's.
        VaultRefusedError: the storage is not Raft.
        VaultError: any other reason.
    """
    return vault.call("Vault's snapshot", lambda client: client.sys.take_raft_snapshot().content)


def restore_snapshot(vault: VaultClient, snapshot: bytes) -> None:
    """Make Vault what it was at a snapshot, also that of another Vault with the same seal key.

    Every token and secret id is the snapshot's afterwards.

    Raises:
        VaultError: it was not taken; the type says why.
    """
    vault.call("Vault's snapshot", lambda client: client.sys.force_restore_raft_snapshot(snapshot))
