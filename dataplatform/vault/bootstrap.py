"""Brings Vault to its layout: compares, writes what differs, says what that was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dataplatform.vault.client import VaultClient
from dataplatform.vault.errors import VaultConflictError, VaultRefusedError
from dataplatform.vault.layout import Declared, Layout


@dataclass(frozen=True)
class Change:
    """What was not as declared.

    Attributes:
        action: made, or changed.
        path: where in Vault's API.
    """

    action: Literal["made", "changed"]
    path: str

    def __str__(self) -> str:
        return f"{self.action} {self.path}"


def bootstrap(vault: VaultClient, layout: Layout) -> list[Change]:
    """Make Vault as the layout says, and return what was changed; nothing on a second call.

    What the layout does not name is left alone, and a secret that is there is never replaced.

    Args:
        vault: logged in with a token that may administer it.
        layout: what is to stand there.

    Raises:
        VaultRefusedError: a path is taken by another kind of engine or method.
        VaultError: any other reason.
    """
    changes = [
        *_mount(vault, "sys/mounts", layout.engines),
        *_mount(vault, "sys/auth", {path: {"type": kind} for path, kind in layout.methods.items()}),
    ]
    for declared in layout.objects:
        changes += _apply(vault, declared)
    for path, values in layout.initial.items():
        if vault.last_version(path) == 0:
            changes += _write_first(vault, path, values())
    return changes


def issue_secret_id(vault: VaultClient, role: str) -> str:
    """Return a new secret id of an AppRole; earlier ones stay valid."""
    answer = vault.call(
        f"secret id of {role}",
        lambda client: client.auth.approle.generate_secret_id(role),
        repeatable=False,
    )
    return answer["data"]["secret_id"]


def _mount(vault: VaultClient, root: str, wanted: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    there = _read(vault, root) or {}
    changes = []
    for path, body in wanted.items():
        found = there.get(f"{path}/")
        if found is None:
            _write(vault, f"{root}/{path}", body)
            changes.append(Change("made", f"{root}/{path}"))
        elif found["type"] != body["type"] or _differs(body, found):
            raise VaultRefusedError(
                f"{root}/{path}",
                f"the path is taken by another engine ({found['type']})",
                "move what is mounted there, or use another Vault or namespace",
            )
    return changes


def _apply(vault: VaultClient, declared: Declared) -> list[Change]:
    found = _read(vault, declared.path)
    if found is None:
        _write(vault, declared.path, {**declared.body, **declared.once()})
        return [Change("made", declared.path)]
    # Where the engine has one, a database's address and user are one level down.
    if not _differs(declared.body, {**found, **found.get("connection_details", {})}):
        return []
    _write(vault, declared.path, declared.body)
    return [Change("changed", declared.path)]


def _differs(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return any(found.get(name) != value for name, value in wanted.items())


def _write_first(vault: VaultClient, path: str, values: Mapping[str, str]) -> list[Change]:
    try:
        vault.write(path, values, cas=0)
    except VaultConflictError:
        # Another bootstrap was faster; its secret is as good.
        return []
    return [Change("made", path)]


def _read(vault: VaultClient, path: str) -> dict[str, Any] | None:
    answer = vault.call(path, lambda client: client.read(path))
    return answer["data"] if answer else None


def _write(vault: VaultClient, path: str, body: Mapping[str, Any]) -> None:
    vault.call(path, lambda client: client.write_data(path, data=dict(body)))
