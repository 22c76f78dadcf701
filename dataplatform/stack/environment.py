"""What a shell needs to speak to the stack's servers with their own clients."""

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from dataplatform.stack.install import mc_folder
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import Layout, Plan, StackError

ALIAS: Final = "stack"
"""What `mc` calls the store."""


def administration(layout: Layout, plan: Plan) -> list[str]:
    """Return the lines that let `bao` and PostgreSQL's clients be found, and `bao` log in.

    The token is not in them: the shell reads its file. They are there as soon as Vault is, since `up`
    may ask for a secret before it goes on.

    Raises:
        StackError: the stack was never started.
    """
    _require(bool(plan.ports))
    folders = (plan.homes[name] / "bin" for name in ("vault", "postgres") if name in plan.ours)
    lines = [*_path(folders), _export("BAO_ADDR", plan.address("vault"))]
    if plan.vault_ca_file:
        lines.append(_export("BAO_CACERT", str(plan.vault_ca_file)))
    if "vault" in plan.ours:
        lines.append(f'export BAO_TOKEN="$(cat {shlex.quote(str(layout.root_token))})"')
    return lines


def inbox(layout: Layout, plan: Plan) -> list[str]:
    """Return the lines by which `mc`, boto3 and other S3 clients put files into the inbox.

    They hold the keys of the user who may do that, and nothing else.

    Raises:
        StackError: the servers were not started, or were ended.
        SecretError: Vault does not give them.
    """
    _require(layout.endpoints.exists())
    with closing(open_vault(plan, "setup")) as vault:
        keys = vault.read("minio/inbox").values
    address = plan.address("minio")
    values = {
        f"MC_HOST_{ALIAS}": _with_login(address, keys),
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": plan.region,
        "AWS_ACCESS_KEY_ID": keys["access_key"],
        "AWS_SECRET_ACCESS_KEY": keys["secret_key"],
    }
    found = [mc_folder()] if mc_folder().exists() else []
    return [*_path(found), *(_export(name, value) for name, value in values.items())]


def _require(holds: bool) -> None:
    if not holds:
        raise StackError("The stack is not up. Remedy: dp stack up.")


def _with_login(address: str, keys: Mapping[str, str]) -> str:
    scheme, _, host = address.partition("://")
    login = ":".join(quote(keys[name], safe="") for name in ("access_key", "secret_key"))
    return f"{scheme}://{login}@{host}"


def _export(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _path(folders: Iterable[Path]) -> list[str]:
    found = os.pathsep.join(map(str, folders))
    return [f'export PATH={shlex.quote(found)}{os.pathsep}"$PATH"'] if found else []
