"""What is done to a cluster: which of Kubespray's playbooks, in which order, with what."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from infra.kubespray.errors import InventoryError
from infra.kubespray.runner import Playbook
from infra.spec.model import ClusterSpec

OURS: Final = Path(__file__).with_name("playbooks")
Named = tuple[str, Playbook]


def check(source: Path) -> Iterator[Named]:
    """Kubespray's own checks of inventory and variables, which need no machine."""
    yield "check", Playbook(source / "playbooks/boilerplate.yml")


def install(source: Path) -> Iterator[Named]:
    """Make the machines a cluster, or bring the cluster to the specification."""
    yield "prerequisites", Playbook(OURS / "prerequisites.yml")
    yield "install", Playbook(source / "cluster.yml")


def scale(source: Path, spec: ClusterSpec, nodes: Sequence[str] = ()) -> Iterator[Named]:
    """Add workers to the cluster.

    Args:
        source: the folder of Kubespray.
        spec: the specification, which has them.
        nodes: the new ones; the others are left alone. Empty: all workers are gone through.

    Raises:
        InventoryError: one of them is no worker.
    """
    _check_workers(spec, nodes)
    limit = tuple(nodes)
    yield "prerequisites", Playbook(OURS / "prerequisites.yml", limit=limit)
    if limit:  # Kubespray needs the facts of those that it leaves alone, too.
        yield "facts", Playbook(source / "playbooks/facts.yml")
    yield "scale", Playbook(source / "scale.yml", limit=limit)


def upgrade(source: Path, at_once: int | None = None) -> Iterator[Named]:
    """Bring Kubernetes to the version of the specification, machine by machine, drained before.

    Args:
        source: the folder of Kubespray.
        at_once: workers that are upgraded at once; None: a fifth of them.
    """
    extra: dict[str, Any] = {} if at_once is None else {"serial": at_once}
    yield "prerequisites", Playbook(OURS / "prerequisites.yml")
    yield "upgrade", Playbook(source / "upgrade-cluster.yml", extra)


def remove_node(
    source: Path, spec: ClusterSpec, node: str, *, lost: bool = False
) -> Iterator[Named]:
    """Drain a worker and take it out of the cluster; the machine itself stays.

    Args:
        source: the folder of Kubespray.
        spec: the specification, which still has it.
        node: the worker.
        lost: it does not answer any more, so nothing is done on it.

    Raises:
        InventoryError: it is no worker, or the last one.
    """
    _check_workers(spec, [node])
    if len(_workers(spec)) == 1:
        raise InventoryError(
            f"{node} is the last worker", "add another one first, or reset the cluster"
        )
    extra: dict[str, Any] = {"node": node, "skip_confirmation": True}
    if lost:
        extra |= {"reset_nodes": False, "allow_ungraceful_removal": True}
    yield "remove-node", Playbook(source / "remove-node.yml", extra)


def reset(source: Path) -> Iterator[Named]:
    """Take Kubernetes off the machines, with all that the cluster holds."""
    yield "reset", Playbook(source / "reset.yml", {"reset_confirmation": True})


def _workers(spec: ClusterSpec) -> list[str]:
    return [machine.name for machine in spec.machines() if machine.role == "worker"]


def _check_workers(spec: ClusterSpec, nodes: Sequence[str]) -> None:
    roles: dict[str, Literal["control_plane", "worker"]] = {
        machine.name: machine.role for machine in spec.machines()
    }
    for node in nodes:
        if node not in roles:
            raise InventoryError(
                f"{node} is no machine of the specification",
                f"name one of {', '.join(roles)}; one that leaves is in it until it has left",
            )
        if roles[node] != "worker":
            raise InventoryError(
                f"{node} is of the control plane, which this command leaves alone",
                "see docs/kubespray.md#the-control-plane",
            )
