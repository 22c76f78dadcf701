"""What a backup and a restoration work on: the stack's servers, as their administrator."""

import hashlib
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dataplatform.backup.databases import Databases
from dataplatform.backup.folder import BackupError
from dataplatform.backup.manifest import VaultKeys
from dataplatform.backup.objects import LakeBucket
from dataplatform.lake.store.buckets import DATA_BUCKETS
from dataplatform.lake.store.s3 import S3Access
from dataplatform.stack.install import install_postgres
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import Layout, Plan
from dataplatform.vault.client import VaultClient
from dataplatform.vault.postgres import PostgresServer


@dataclass(frozen=True)
class Servers:
    """The servers of a stack that is up.

    Attributes:
        layout: the stack's files.
        plan: where its servers are.
        vault: logged in as the one who set the stack up.
    """

    layout: Layout
    plan: Plan
    vault: VaultClient

    @property
    def has_vault(self) -> bool:
        """Whether Vault is the stack's own: the user's is backed up where it is run."""
        return "vault" in self.plan.ours

    @property
    def postgres(self) -> PostgresServer:
        """PostgreSQL and its administrator."""
        superuser = "postgres/superuser"
        return PostgresServer(
            self.plan.address("postgres"), lambda: self.vault.read(superuser).values
        )

    @property
    def databases(self) -> Databases:
        """The platform's databases."""
        home = self.plan.homes.get("postgres") or install_postgres(lambda _what: None)
        return Databases(self.postgres, home / "bin")

    @property
    def access(self) -> S3Access:
        """The object store, by its administrator's key."""
        root = self.vault.read("minio/root").values
        return S3Access(
            self.plan.address("minio"), self.plan.region, root["access_key"], root["secret_key"]
        )

    def buckets(self) -> list[LakeBucket]:
        """Return the buckets of raw files and tables, live and recorded."""
        access = self.access
        return [LakeBucket(access, spec.name) for spec in DATA_BUCKETS]

    def versions(self) -> dict[str, str]:
        """Return the version of each server whose own format a backup has."""
        found = {"postgres": self.databases.version}
        if self.has_vault:
            status = self.vault.call("Vault", lambda client: client.sys.read_seal_status())
            found["vault"] = status["version"]
        return found

    def vault_keys(self, token: Path | None = None) -> VaultKeys | None:
        """Return the fingerprints of what opens the stack's Vault.

        Args:
            token: the file of its administrator's token; None, the stack's.
        """
        if not self.has_vault:
            return None
        return VaultKeys(
            seal_key=_fingerprint(self.layout.seal_key.read_bytes()),
            token=_fingerprint((token or self.layout.root_token).read_text().strip().encode()),
        )


@contextmanager
def open_servers(home: Path) -> Generator[Servers]:
    """Give the servers of the stack of this home.

    Raises:
        BackupError: there is no stack, or it is down.
    """
    layout = Layout.below(home)
    if not layout.endpoints.exists():
        raise BackupError(f"The stack of {home} is not up. Remedy: dp stack up.")
    plan = Plan.read(layout)
    with closing(open_vault(plan, "setup")) as vault:
        yield Servers(layout, plan, vault)


def _fingerprint(key: bytes) -> str:
    """Return what tells random keys apart and says nothing about them."""
    return hashlib.sha256(key).hexdigest()[:16]
