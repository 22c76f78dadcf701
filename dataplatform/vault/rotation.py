"""Rotation: a new secret takes over while the old one stays good until the next rotation.

Each consumer has two slots, such as the users `platform-a` and `platform-b`. A rotation

1. stages: writes the new secret for the idle slot at `rotation/<path>`,
2. installs it on the server and logs in with it,
3. promotes: writes it as the next version of `<path>`.

Both writes are check-and-set, and what is staged is the same for whoever finds it. So a rotation that
was killed is finished by the next one, and two at once do the same work and write one version. A
staged secret is pending while it is younger than the current one, by Vault's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

from dataplatform.lake.secrets import SecretError
from dataplatform.vault.client import Secret, VaultClient
from dataplatform.vault.errors import VaultConflictError, VaultNotFoundError

STAGE: Final = "rotation"
"""Below this path is what is about to become current."""
ROTATED_AT: Final = "rotated_at"
SLOTS: Final = ("a", "b")
_ATTEMPTS: Final = 5


class RotationError(SecretError):
    """A secret that could not be rotated; the current one is as it was."""


class Rotatable(Protocol):
    """A secret that can be replaced while it is in use."""

    @property
    def path(self) -> str:
        """Where the current secret is, such as `minio/platform`."""

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return a new secret for the slot that is idle; None where only a person can get one.

        Args:
            current: the secret in use; empty before the first rotation.
        """

    def install(self, secret: Mapping[str, str]) -> None:
        """Make the server accept the secret, beside the current one; twice is like once.

        Raises:
            RotationError: the server does not take it.
        """

    def verify(self, secret: Mapping[str, str]) -> None:
        """Use the secret once.

        Raises:
            RotationError: it is not accepted.
        """


@dataclass(frozen=True)
class Rotated:
    """What became of one secret; holds none.

    Attributes:
        path: which secret.
        outcome: rotated; young, where the current one is too new to be replaced; waiting, where a
            person has to stage a new one.
        version: of the current secret; 0 where there is none.
        rotated_at: since when it is current.
    """

    path: str
    outcome: Literal["rotated", "young", "waiting"]
    version: int
    rotated_at: datetime | None


class Rotation:
    """Rotates secrets of one Vault.

    Args:
        vault: logged in as the role `rotation`.
        min_age: a secret younger than this is not replaced: what runs may still use the slot that
            would be overwritten. A secret that is staged already is promoted at any age.
    """

    def __init__(self, vault: VaultClient, min_age: timedelta) -> None:
        self._vault = vault
        self._min_age = min_age

    def rotate(self, consumer: Rotatable) -> Rotated:
        """Replace a consumer's secret, or finish what an earlier rotation left.

        Raises:
            RotationError: the server refuses the new secret; the current one stays.
            VaultError: Vault can't be asked.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(consumer)
            except VaultConflictError:
                # Another rotation was faster: look at what it made.
                continue
        raise RotationError(
            f"rotation of {consumer.path}",
            f"other writers were faster {_ATTEMPTS} times",
            "see who else writes there, and run it again",
        )

    def _attempt(self, consumer: Rotatable) -> Rotated:
        path, stage = consumer.path, f"{STAGE}/{consumer.path}"
        # In this order: what is staged after this look makes the write below a conflict.
        staged, last_staged = self._look(stage)
        current, last = self._look(path)
        if staged is None or not _pending(staged, current):
            if current and datetime.now(UTC) - current.created_at < self._min_age:
                return self._note(path, "young")
            proposal = consumer.propose(current.values if current else {})
            if proposal is None:
                return self._note(path, "waiting")
            self._vault.write(stage, proposal, cas=last_staged)
            staged = self._vault.read(stage)
        consumer.install(staged.values)
        consumer.verify(staged.values)
        self._vault.write(path, staged.values, cas=last)
        return self._note(path, "rotated")

    def _note(self, path: str, outcome: Literal["rotated", "young", "waiting"]) -> Rotated:
        """Record when the current secret became so, also where a killed rotation could not."""
        current, _ = self._look(path)
        if current is None:
            return Rotated(path, outcome, 0, None)
        moment = current.created_at.isoformat()
        if current.metadata.get(ROTATED_AT) != moment:
            self._vault.annotate(path, **{ROTATED_AT: moment})
        return Rotated(path, outcome, current.version, current.created_at)

    def _look(self, path: str) -> tuple[Secret | None, int]:
        """Return a secret, if there is one, and the version that a write has to follow."""
        # Before the read: a version that is written in between must not be overwritten.
        last = self._vault.last_version(path)
        try:
            found = self._vault.read(path)
        except VaultNotFoundError:
            return None, last
        return found, found.version


def idle_slot(group: str, active: str | None) -> str:
    """Return the name of the slot that is not in use: `platform-b` while `platform-a` is."""
    first, second = (f"{group}-{slot}" for slot in SLOTS)
    return second if active == first else first


def _pending(staged: Secret, current: Secret | None) -> bool:
    return current is None or staged.created_at > current.created_at
