"""Servers of the user's own: set up as ours are, or found to be set up already."""

import json
from contextlib import closing
from typing import Final

from dataplatform.lake.secrets import SecretError
from dataplatform.lake.store.errors import ObjectStoreError
from dataplatform.stack.bootstrap import SET_UP, consumers_of
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import Plan, StackError
from dataplatform.vault.errors import VaultNotFoundError
from dataplatform.vault.rotation import RotationError

ADMINISTRATOR: Final = {"postgres": "postgres/superuser", "minio": "minio/root"}
"""Where in Vault the secret of a server's administrator is."""


def set_up_given(server: str, plan: Plan) -> str:
    """Make databases, buckets, users and what else the platform needs; return what was done, in words.

    A server whose administrator Vault does not know is taken as it is if the consumers' secrets work.

    Raises:
        StackError: neither the administrator's secret nor those of the consumers do.
        SecretError: Vault can't be asked.
    """
    import psycopg2
    from minio.error import MinioAdminException
    from urllib3.exceptions import HTTPError

    # Another S3 store than MinIO may give any answer to what only MinIO knows.
    refusals = (psycopg2.Error, MinioAdminException, HTTPError, json.JSONDecodeError)
    try:
        SET_UP[server](plan)
    except (SecretError, ObjectStoreError, *refusals) as error:
        if not is_set_up(server, plan):
            raise StackError(_refusal(server, plan, error)) from error
        return "yours, taken as it is"
    return "yours, set up"


def is_set_up(server: str, plan: Plan) -> bool:
    """Whether each consumer's secret is in Vault, and the server takes it."""
    with closing(open_vault(plan, "setup")) as vault:
        try:
            for consumer in consumers_of(server, plan, vault):
                consumer.verify(vault.read(consumer.path).values)
        except (VaultNotFoundError, RotationError):
            return False
    return True


def _refusal(server: str, plan: Plan, error: Exception) -> str:
    with closing(open_vault(plan, "setup")) as vault:
        paths = [consumer.path for consumer in consumers_of(server, plan, vault)]
    # What a driver says may repeat more than the address.
    said = str(error).partition(" Remedy:")[0] if isinstance(error, SecretError) else ""
    return (
        f"Your {server} at {plan.address(server)} can't be set up: {said or type(error).__name__}."
        f" Remedy: put its administrator into Vault at {ADMINISTRATOR[server]}, or set it up"
        f" yourself and put its users at {', '.join(paths)} (docs/stack.md); then dp stack up."
    )
