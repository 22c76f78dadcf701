"""Leases: credentials that Vault makes for a while, kept alive while they are used."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from dataplatform.vault.errors import VaultError, VaultLeaseExpiredError

if TYPE_CHECKING:
    from dataplatform.vault.client import VaultClient

_log: Final = logging.getLogger(__name__)


@dataclass
class Lease:
    """What Vault lends: it ends after `seconds` unless it is renewed.

    A lease ends with the token that asked for it, at the latest at that token's longest life.

    Attributes:
        id: what Vault calls it.
        seconds: what is left of it when it was last renewed.
    """

    vault: "VaultClient" = field(repr=False)
    id: str
    seconds: float

    def renew(self) -> float:
        """Prolong it, and return the seconds that are left.

        Raises:
            VaultLeaseExpiredError: it is over or revoked.
            VaultError: Vault can't be asked.
        """
        answer = self.vault.call(f"lease {self.id}", lambda vault: vault.sys.renew_lease(self.id))
        self.seconds = float(answer["lease_duration"])
        return self.seconds

    def revoke(self) -> None:
        """End it now; the credentials are refused when this returns.

        Raises:
            VaultError: Vault can't be asked, or can't undo what it made.
        """
        # `sync`: without it Vault only queues the revocation. hvac has no argument for it.
        self.vault.call(
            f"lease {self.id}",
            lambda vault: vault.write_data(
                "sys/leases/revoke", data={"lease_id": self.id, "sync": True}
            ),
        )


@dataclass(frozen=True)
class DatabaseCredentials:
    """A login that Vault made in a database.

    Attributes:
        username: the login role.
        password: its password.
        lease: how long it lives.
    """

    username: str
    password: str = field(repr=False)
    lease: Lease


@contextmanager
def kept_alive(lease: Lease) -> Generator[None]:
    """Renew a lease at each half of its life, and revoke it at the end."""
    over = Event()
    renewer = Thread(target=_renew_until, args=(lease, over), name="vault-lease", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        over.set()
        renewer.join()
        _give_back(lease)


def _renew_until(lease: Lease, over: Event) -> None:
    while not over.wait(max(lease.seconds / 2, 0.1)):
        try:
            lease.renew()
        except VaultLeaseExpiredError as error:
            _log.warning("%s", error)
            return
        except VaultError as error:
            # Tried again sooner each time, as long as something is left of the lease.
            lease.seconds /= 2
            _log.warning("%s", error)


def _give_back(lease: Lease) -> None:
    """Revoke; what the credentials were used for does not fail because this does."""
    try:
        lease.revoke()
    except VaultError as error:
        _log.warning("%s; it ends by itself within %.0f s", error, lease.seconds)
