"""What service accounts may do by the platform's manifests, and what they asked a node for."""

from typing import Any, NamedTuple

import yaml

from dataplatform_tests.kubernetes.deployment import MANIFESTS
from dataplatform_tests.kubernetes.node import Node


class Permission(NamedTuple):
    """A verb on a resource, such as `get` on `pods/log`, in a namespace."""

    namespace: str
    resource: str
    verb: str


def granted() -> dict[str, set[Permission]]:
    """Return what each account (`namespace:name`) may do by the roles that are bound to it."""
    files = sorted(MANIFESTS.glob("*/rbac.yaml"))
    objects = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    roles = {_key(one): _permissions(one) for one in objects if one["kind"] == "Role"}
    found: dict[str, set[Permission]] = {}
    for binding in (one for one in objects if one["kind"] == "RoleBinding"):
        role = roles[binding["metadata"]["namespace"], binding["roleRef"]["name"]]
        for subject in binding["subjects"]:
            account = f"{subject['namespace']}:{subject['name']}"
            found[account] = found.get(account, set()) | role
    return found


def asked(node: Node, account: str) -> dict[Permission, set[int]]:
    """Return what an account asked for in namespaces, with the status codes of the answers."""
    found: dict[Permission, set[int]] = {}
    for event in node.requests(account):
        target = event.get("objectRef", {})
        if "namespace" in target:
            parts = (target["resource"], target.get("subresource"))
            resource = "/".join(part for part in parts if part)
            permission = Permission(target["namespace"], resource, event["verb"])
            found.setdefault(permission, set()).add(event["responseStatus"]["code"])
    return found


def _key(described: dict[str, Any]) -> tuple[str, str]:
    return described["metadata"]["namespace"], described["metadata"]["name"]


def _permissions(role: dict[str, Any]) -> set[Permission]:
    return {
        Permission(role["metadata"]["namespace"], resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
