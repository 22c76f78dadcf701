"""The administrator's kubeconfig: fetched from a control-plane machine, merged into the user's own."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infra.kubespray.errors import KubeconfigError
from infra.kubespray.inventory import write_private
from infra.kubespray.operations import OURS
from infra.kubespray.runner import Playbook, Runner
from infra.kubespray.variables import API_PORT
from infra.spec.model import ClusterSpec

_LISTS: Final = ("clusters", "users", "contexts")
_EMPTY: Final[dict[str, Any]] = {"apiVersion": "v1", "kind": "Config", "preferences": {}}


def default_path() -> Path:
    """Return the file that kubectl reads: the first of KUBECONFIG, or ~/.kube/config."""
    named = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    return Path(named[0] if named else "~/.kube/config").expanduser()


def server_address(spec: ClusterSpec, *, direct: bool = False) -> str:
    """Return where the API server is reached.

    Args:
        spec: the specification.
        direct: from within the machines' network: by the virtual address, or the first machine's.
            Else through the tunnel, whose address the server's certificate has as well.

    Raises:
        KubeconfigError: no tunnel leads to the API server.
    """
    if direct:
        first = next(m.ip for m in spec.machines() if m.role == "control_plane")
        return f"https://{spec.kubernetes.virtual_ip or first}:{API_PORT}"
    for tunnel in spec.tunnels:
        if tunnel.port == API_PORT:
            return f"https://127.0.0.1:{tunnel.local_port}"
    raise KubeconfigError(
        f"No tunnel leads to port {API_PORT}", "add one to tunnels, or ask for the direct address"
    )


def fetch_kubeconfig(runner: Runner, extra_vars: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the kubeconfig of the first control-plane machine that answers.

    Args:
        runner: of the cluster.
        extra_vars: variables of the playbook `kubeconfig.yml`.

    Raises:
        KubeconfigError: none of them has one.
    """
    with tempfile.TemporaryDirectory(prefix="dp-kubeconfig-") as folder:
        extra = {**(extra_vars or {}), "destination": folder}
        log = runner.run(Playbook(OURS / "kubeconfig.yml", extra), "kubeconfig")
        found = sorted(Path(folder).iterdir())
        if not found:
            raise KubeconfigError(
                f"No control-plane machine has a kubeconfig. Log: {log}",
                "look whether they are up (dp infra status) and installed (dp infra kubernetes install)",
            )
        return _read(found[0])


def renamed(kubeconfig: Mapping[str, Any], name: str, server: str) -> dict[str, Any]:
    """Return a kubeconfig of one cluster under another name and address.

    Args:
        kubeconfig: with one cluster and one user.
        name: of cluster, user (with `-admin`) and context.
        server: the API server's address.
    """
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    who = f"{name}-admin"
    return {
        **_EMPTY,
        "clusters": [{"name": name, "cluster": {**cluster, "server": server}}],
        "users": [{"name": who, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": who}}],
        "current-context": name,
    }


def merge_kubeconfig(
    path: Path, new: Mapping[str, Any], *, use: bool = False, replace: bool = False
) -> None:
    """Put a kubeconfig into a file; what is of other clusters stays as it is.

    Args:
        path: the file; made, for its owner alone, where it is missing.
        new: of `renamed`.
        use: make its context the current one; done in any case where the file has none.
        replace: even if the file has a cluster of that name at another address.

    Raises:
        KubeconfigError: the file is no kubeconfig, or has another cluster of that name.
    """
    target = path.resolve()  # A link stays a link.
    before = _read(target) if target.exists() else _whole({})
    name = new["clusters"][0]["name"]
    server = new["clusters"][0]["cluster"]["server"]
    there = {one["name"]: one.get("cluster", {}).get("server") for one in before["clusters"]}
    if not replace and there.get(name, server) != server:
        raise KubeconfigError(
            f"{path} has a cluster {name!r} at {there[name]}, and this one is at {server}",
            "--replace overwrites it; --output writes another file",
        )
    after = before | {key: _merged(before[key], new[key]) for key in _LISTS}
    if use or not before.get("current-context"):
        after["current-context"] = new["current-context"]
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(target, _dump(after))


def _merged(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {one["name"] for one in new}
    return [*(one for one in before if one["name"] not in names), *new]


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _no_kubeconfig(path) from error
    if not isinstance(content, dict | None):
        raise _no_kubeconfig(path)
    found = _whole(content or {})
    for key in _LISTS:
        listed = found[key]
        if not all(isinstance(one, dict) and "name" in one for one in listed):
            raise _no_kubeconfig(path)
    return found


def _whole(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**_EMPTY, **content, **{key: content.get(key) or [] for key in _LISTS}}


def _no_kubeconfig(path: Path) -> KubeconfigError:
    # What it holds is not shown: it may be a key.
    return KubeconfigError(f"{path} is no kubeconfig", "mend it, or write another file by --output")


def _dump(content: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(content), sort_keys=False)
