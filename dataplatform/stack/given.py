"""Servers of the user's own: set up as ours are, or found to be set up already."""

import json
import re
from contextlib import closing
from typing import Final

from dataplatform.addresses import in_database
from dataplatform.lake.secrets import SecretError
from dataplatform.lake.store.errors import ObjectStoreError
from dataplatform.lake.store.object_store import open_bucket
from dataplatform.lake.store.s3 import S3Access
from dataplatform.stack import readiness
from dataplatform.stack.bootstrap import SET_UP, consumers_of
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import SETTING, Plan, StackError
from dataplatform.vault.errors import VaultNotFoundError
from dataplatform.vault.postgres import PostgresServer
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
        done = "yours, taken as it is"
    else:
        done = "yours, set up"
    lost = lost_table(plan) if server == "minio" else None
    return f"{done}. Warning: {lost}" if lost else done


def is_set_up(server: str, plan: Plan) -> bool:
    """Whether each consumer's secret is in Vault, and the server takes it."""
    with closing(open_vault(plan, "setup")) as vault:
        try:
            for consumer in consumers_of(server, plan, vault):
                consumer.verify(vault.read(consumer.path).values)
        except (VaultNotFoundError, RotationError):
            return False
    return True


def lost_table(plan: Plan) -> str | None:
    """Say so where the catalog points to files that are not in the store, as in one that is new.

    One table is looked at. None too where either can't be asked: a run will say why.
    """
    import psycopg2

    try:
        with closing(open_vault(plan, "setup")) as vault:
            login, key = (
                dict(vault.read(p).values) for p in ("postgres/catalog", "minio/platform")
            )
        address = in_database(plan.address("postgres"), "catalog")
        connection = PostgresServer(address, dict).connect(login["username"], login["password"])
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(_ONE_TABLE)
            name, location = cursor.fetchone() or ("", "")
        bucket, _, path = location.partition("://")[2].partition("/")
        access = S3Access(plan.address("minio"), plan.region, key["access_key"], key["secret_key"])
        if not path or open_bucket(access, bucket).exists(path):
            return None
    except (psycopg2.Error, SecretError, ObjectStoreError):
        return None
    return (
        f"the catalog has {name}, whose file {location} is not in this store."
        " Remedy: copy the buckets of the store before (docs/stack.md)."
    )


_ONE_TABLE: Final = """
SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables
WHERE iceberg_type = 'TABLE' ORDER BY catalog_name, table_namespace, table_name LIMIT 1
"""


def _refusal(server: str, plan: Plan, error: Exception) -> str:
    where = f"Your {server} at {plan.address(server)}"
    if not readiness.answers(server, plan):
        setting = f"DATAPLATFORM_{SETTING[server].upper()}"
        return (
            f"{where} did not answer. Remedy: see that it runs, and check {setting}; then"
            " dp stack up."
        )
    with closing(open_vault(plan, "setup")) as vault:
        paths = [consumer.path for consumer in consumers_of(server, plan, vault)]
    return (
        f"{where} can't be set up: {said_by(error)}."
        f" Remedy: put its administrator into Vault at {ADMINISTRATOR[server]}, or set it up"
        f" yourself and put its users at {', '.join(paths)} (docs/stack.md); then dp stack up."
    )


_OF_SERVER: Final = re.compile(r"FATAL: +(.+)")


def said_by(error: Exception) -> str:
    """Return in words why a server was not set up: what a driver says may repeat more than that."""
    import psycopg2

    if isinstance(error, SecretError):
        return str(error).partition(" Remedy:")[0].rstrip(".")
    if isinstance(error, ObjectStoreError):
        return error.cause
    if isinstance(error, psycopg2.OperationalError) and (said := _OF_SERVER.search(str(error))):
        return said[1]
    if isinstance(error, psycopg2.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return f"it failed with {type(error).__name__}"
