"""Kubespray's inventory: which machines there are, in which groups, with which variables."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from infra.kubespray.errors import InventoryError
from infra.kubespray.variables import (
    cluster_variables,
    connection,
    host_variables,
    pool_variables,
)
from infra.spec.model import ClusterSpec, Machine

HOSTS: Final = "hosts.yaml"
GROUP_VARS: Final = "group_vars"
_HEADER: Final = (
    "# Written by `dp infra inventory` from the specification: edit that, not this file.\n"
)


def state_folder(name: str) -> Path:
    """Return where what is kept of a cluster is: inventory, logs, facts, the machines' host keys.

    Args:
        name: of the cluster.
    """
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "dataplatform" / "kubespray" / name


def inventory_files(spec: ClusterSpec, *, direct: bool = False) -> dict[str, str]:
    """Return the inventory as relative path → content.

    Args:
        spec: the specification.
        direct: the machines are reached from within their network, not through the host.

    Raises:
        InventoryError: the machines make no cluster.
    """
    machines = spec.machines()
    check_machines(machines)
    groups: dict[str, dict[str, Any]] = {
        "all": connection(spec, direct=direct),
        "k8s_cluster": cluster_variables(spec),
        **{pool_group(m.pool): pool_variables(m) for m in machines},
    }
    files = {f"{GROUP_VARS}/{name}.yaml": _yaml(content) for name, content in groups.items()}
    return {HOSTS: _yaml(hosts(machines))} | files


def check_machines(machines: Iterable[Machine]) -> None:
    """Refuse machines of which Kubespray makes no cluster.

    Raises:
        InventoryError: there is no control plane, an even number of etcd members, or no worker.
    """
    roles = [machine.role for machine in machines]
    masters = roles.count("control_plane")
    if masters % 2 == 0:
        raise InventoryError(
            f"{masters} control-plane machines: etcd, which runs on them, needs an odd number to have a majority",
            "set the count of the pools with role control_plane to 1, 3 or 5",
        )
    if "worker" not in roles:
        raise InventoryError(
            "No machine is a worker, and nothing of the platform runs on the control plane",
            "add a pool with role worker",
        )


def hosts(machines: Iterable[Machine]) -> dict[str, Any]:
    """Return the groups by the names that Kubespray has for them, and one a pool."""
    listed = list(machines)
    masters = [m for m in listed if m.role == "control_plane"]
    workers = [m for m in listed if m.role == "worker"]
    pools = dict.fromkeys(machine.pool for machine in listed)
    return {
        "all": {
            "hosts": {machine.name: host_variables(machine) for machine in listed},
            "children": {
                "kube_control_plane": _members(masters),
                "etcd": {"children": {"kube_control_plane": {}}},
                "kube_node": _members(workers),
                "k8s_cluster": {"children": {"kube_control_plane": {}, "kube_node": {}}},
                **{pool_group(p): _members([m for m in listed if m.pool == p]) for p in pools},
            },
        }
    }


def _members(machines: Iterable[Machine]) -> dict[str, Any]:
    return {"hosts": {machine.name: {} for machine in machines}}


def pool_group(pool: str) -> str:
    """Return the Ansible group of a pool; Ansible's names have no dashes."""
    return f"pool_{pool.replace('-', '_')}"


def _yaml(content: object) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes what occurs twice twice: references are hard to read."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  yaml's signature
            return True

    return _HEADER + yaml.dump(content, Dumper=Plain, sort_keys=False, width=1000)


def write_inventory(folder: Path, files: dict[str, str]) -> tuple[str, ...]:
    """Bring a folder to the inventory; what Kubespray keeps in it, its credentials, stays.

    Args:
        folder: where; made, for its owner alone, where it is missing.
        files: of `inventory_files`.

    Returns:
        The machines that the folder's inventory had before and no longer has.
    """
    before = machine_names(folder)
    # Kubespray keeps the key that secrets are encrypted with in the folder `credentials` beside.
    _private(folder)
    _private(folder / GROUP_VARS)
    for stale in (folder / GROUP_VARS).glob("*.yaml"):
        if f"{GROUP_VARS}/{stale.name}" not in files:
            stale.unlink()
    for name, content in files.items():
        write_private(folder / name, content)
    gone = before - machine_names(folder)
    return tuple(sorted(gone))


def machine_names(folder: Path) -> set[str]:
    """Return the machines of the inventory in a folder; none where there is no inventory."""
    import yaml

    path = folder / HOSTS
    if not path.is_file():
        return set()
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return set(content.get("all", {}).get("hosts") or {})


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def write_private(path: Path, content: str) -> None:
    """Replace a file at once, readable by its owner alone."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
