"""What the servers hold before anybody uses them: secrets, databases, buckets and their users.

Every step looks first and changes only what is missing, so a second start changes nothing.
"""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from dataplatform.stack.launch import UNPRIVILEGED, unprivileged
from dataplatform.stack.layout import Layout, Plan, StackError, write_private
from dataplatform.stack.secrets import MOUNT

if TYPE_CHECKING:
    import hvac
    from psycopg2.extensions import cursor as Cursor

BUCKETS: Final = ("datalake", "warehouse", "datalake-recorded", "warehouse-recorded")

PLATFORM_SECRETS: Final = ("minio/platform", "postgres/dagster", "coingecko")
SERVER_SECRETS: Final = (
    "minio/root",
    "minio/catalog",
    "minio/trino",
    "postgres/catalog",
    "postgres/trino",
)
ROLES: Final[dict[str, tuple[str, ...]]] = {
    "platform": PLATFORM_SECRETS,
    "servers": SERVER_SECRETS,
}
"""The AppRoles, and the secrets that each may read."""

_TOKEN_LIFE: Final = {"token_ttl": "1h", "token_max_ttl": "24h"}

_CATALOG_TABLES: Final = """
CREATE TABLE IF NOT EXISTS iceberg_tables (
    catalog_name varchar(255) NOT NULL,
    table_namespace varchar(255) NOT NULL,
    table_name varchar(255) NOT NULL,
    metadata_location varchar(1000),
    previous_metadata_location varchar(1000),
    iceberg_type varchar(5),
    PRIMARY KEY (catalog_name, table_namespace, table_name)
);
CREATE TABLE IF NOT EXISTS iceberg_namespace_properties (
    catalog_name varchar(255) NOT NULL,
    namespace varchar(255) NOT NULL,
    property_key varchar(255),
    property_value varchar(1000),
    PRIMARY KEY (catalog_name, namespace, property_key)
);
"""


def new_password() -> str:
    """Return a password that needs no quoting anywhere."""
    return secrets.token_hex(20)


def two_slot_user(name: str) -> str:
    """Return the first of a consumer's two users; a rotation changes between `-a` and `-b`."""
    return f"{name}-a"


# ---- Vault ----


def initialise_vault(layout: Layout, address: str) -> None:
    """Initialise a Vault that is new; it unseals itself by the key in the state folder."""
    import hvac

    client = hvac.Client(url=address, timeout=60)
    if client.sys.is_initialized():
        return
    answer = client.sys.initialize(
        secret_shares=None, secret_threshold=None, recovery_shares=1, recovery_threshold=1
    )
    write_private(layout.root_token, answer["root_token"])
    write_private(layout.recovery_key, answer["recovery_keys"][0])


def is_listening(address: str) -> bool:
    """Whether a Vault answers at all, be it new or sealed."""
    import hvac
    from requests.exceptions import RequestException

    try:
        hvac.Client(url=address, timeout=5).sys.is_initialized()
    except RequestException:
        return False
    return True


def vault_client(layout: Layout, address: str) -> "hvac.Client":
    """Return a client with every right on our own Vault."""
    import hvac

    return hvac.Client(url=address, token=layout.root_token.read_text().strip(), timeout=30)


def bootstrap_vault(layout: Layout, plan: Plan) -> None:
    """Make mount, policies, AppRoles and the first secrets; notes the servers' role in the plan."""
    client = vault_client(layout, plan.address("vault"))
    if f"{MOUNT}/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("kv", path=MOUNT, options={"version": "2"})
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    for role, paths in ROLES.items():
        _role(client, role, paths)
    plan.servers_role_id = _role_id(client, "servers")
    for role, file in (("platform", layout.secret_id), ("servers", layout.servers_secret_id)):
        if not file.exists():
            answer = client.auth.approle.generate_secret_id(role)
            write_private(file, answer["data"]["secret_id"])
    for path, values in _first_secrets().items():
        ensure_secret(client, path, values)


def platform_role_id(layout: Layout, address: str) -> str:
    """Return the role id that the platform logs in with."""
    return _role_id(vault_client(layout, address), "platform")


def _role_id(client: "hvac.Client", role: str) -> str:
    return client.auth.approle.read_role_id(role)["data"]["role_id"]


def _role(client: "hvac.Client", role: str, paths: tuple[str, ...]) -> None:
    rules = "\n".join(f'path "{MOUNT}/data/{path}" {{ capabilities = ["read"] }}' for path in paths)
    client.sys.create_or_update_policy(f"dataplatform-{role}", rules)
    client.auth.approle.create_or_update_approle(
        role, token_policies=[f"dataplatform-{role}"], **_TOKEN_LIFE
    )


def _first_secrets() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {
        "minio/root": {"access_key": "root", "secret_key": new_password()},
        "postgres/superuser": {"username": "postgres", "password": new_password()},
        "coingecko": {"api_key": ""},
    }
    for name in ("platform", "trino", "catalog"):
        found[f"minio/{name}"] = {"access_key": two_slot_user(name), "secret_key": new_password()}
    for name in ("dagster", "catalog", "trino"):
        found[f"postgres/{name}"] = {"username": two_slot_user(name), "password": new_password()}
    return found


def ensure_secret(client: "hvac.Client", path: str, values: Mapping[str, str]) -> None:
    """Write a secret unless there is one at this path."""
    from hvac.exceptions import InvalidPath

    try:
        client.secrets.kv.v2.read_secret_metadata(path=path, mount_point=MOUNT)
    except InvalidPath:
        client.secrets.kv.v2.create_or_update_secret(
            path=path, secret=dict(values), cas=0, mount_point=MOUNT
        )


def read_secret(client: "hvac.Client", path: str) -> dict[str, str]:
    """Return a secret's values."""
    answer = client.secrets.kv.v2.read_secret_version(
        path=path, mount_point=MOUNT, raise_on_deleted_version=True
    )
    return answer["data"]["data"]


# ---- PostgreSQL ----


def create_cluster(layout: Layout, plan: Plan, superuser: Mapping[str, str]) -> None:
    """Run initdb where there are no data yet."""
    data = layout.data("postgres")
    if (data / "PG_VERSION").exists():
        return
    if os.geteuid() == 0:
        shutil.chown(data, UNPRIVILEGED, UNPRIVILEGED)
    initdb = str(plan.homes["postgres"] / "bin" / "initdb")
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--pwfile=/dev/stdin"]
    run = subprocess.run(  # noqa: S603
        unprivileged([initdb, "-D", str(data), "-U", superuser["username"], *options]),
        input=superuser["password"] + "\n",
        text=True,
        check=False,
        capture_output=True,
        cwd=data,
    )
    if run.returncode:
        raise StackError(
            f"initdb failed: {run.stderr.strip()}. Remedy: empty {data}, then dp stack up."
        )


@contextmanager
def cursor(plan: Plan, user: Mapping[str, str], database: str) -> "Generator[Cursor]":
    """Open a database for a few statements, each its own transaction."""
    import psycopg2

    address = urlsplit(plan.address("postgres"))
    opened = psycopg2.connect(
        host=address.hostname,
        port=address.port,
        user=user["username"],
        password=user["password"],
        dbname=database,
        connect_timeout=10,
    )
    opened.autocommit = True
    try:
        with opened.cursor() as ready:
            yield ready
    finally:
        opened.close()


def bootstrap_postgres(plan: Plan, client: "hvac.Client") -> None:
    """Make the databases, a role for each consumer that owns its objects, and its first user."""
    superuser = read_secret(client, "postgres/superuser")
    with cursor(plan, superuser, "postgres") as server:
        for consumer in ("dagster", "catalog", "trino"):
            _login(server, consumer, read_secret(client, f"postgres/{consumer}"))
        for database in ("dagster", "catalog"):
            _database(server, database)
        # Trino reads what Dagster keeps, and writes nothing.
        server.execute("GRANT pg_read_all_data TO trino")
        server.execute("GRANT CONNECT ON DATABASE dagster TO trino")
    with cursor(plan, superuser, "catalog") as database:
        database.execute("SET ROLE catalog")
        database.execute(_CATALOG_TABLES)


def _login(server: "Cursor", consumer: str, user: Mapping[str, str]) -> None:
    """Make a role that owns the consumer's objects, and a user that acts as it."""
    from psycopg2.sql import SQL, Identifier

    owner, name = Identifier(consumer), Identifier(user["username"])
    if not _exists(server, "pg_roles", "rolname", consumer):
        server.execute(SQL("CREATE ROLE {} NOLOGIN").format(owner))
    if not _exists(server, "pg_roles", "rolname", user["username"]):
        server.execute(
            SQL("CREATE ROLE {} LOGIN PASSWORD %s IN ROLE {}").format(name, owner),
            (user["password"],),
        )
        server.execute(SQL("ALTER ROLE {} SET role TO {}").format(name, owner))


def _database(server: "Cursor", name: str) -> None:
    from psycopg2.sql import SQL, Identifier

    if not _exists(server, "pg_database", "datname", name):
        server.execute(SQL("CREATE DATABASE {0} OWNER {0}").format(Identifier(name)))
        server.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(Identifier(name)))


def _exists(server: "Cursor", table: str, column: str, name: str) -> bool:
    from psycopg2.sql import SQL, Identifier

    query = SQL("SELECT 1 FROM {} WHERE {} = %s").format(Identifier(table), Identifier(column))
    server.execute(query, (name,))
    return server.fetchone() is not None


# ---- MinIO ----


def bootstrap_minio(plan: Plan, client: "hvac.Client") -> None:
    """Make the buckets, and a user with a policy for each consumer."""
    from minio import Minio, MinioAdmin
    from minio.credentials import StaticProvider

    root = read_secret(client, "minio/root")
    address = urlsplit(plan.address("minio"))
    keys = root["access_key"], root["secret_key"]
    secure = address.scheme == "https"
    store = Minio(address.netloc, *keys, secure=secure, region=plan.region)
    for bucket in BUCKETS:
        if not store.bucket_exists(bucket):
            store.make_bucket(bucket)
    admin = MinioAdmin(endpoint=address.netloc, credentials=StaticProvider(*keys), secure=secure)
    known = json.loads(admin.user_list() or "{}")
    for consumer, buckets in _GRANTS.items():
        user = read_secret(client, f"minio/{consumer}")
        if user["access_key"] in known:
            continue
        admin.policy_add(f"dataplatform-{consumer}", policy=_policy(buckets))
        admin.user_add(user["access_key"], user["secret_key"])
        admin.policy_set(f"dataplatform-{consumer}", user=user["access_key"])


_GRANTS: Final[dict[str, tuple[str, ...]]] = {
    "platform": BUCKETS,
    "trino": ("warehouse", "warehouse-recorded"),
    "catalog": ("warehouse", "warehouse-recorded"),
}


def _policy(buckets: tuple[str, ...]) -> dict[str, Any]:
    """Return the policy that lets a user list, read, write and delete in these buckets."""
    arns = [f"arn:aws:s3:::{bucket}" for bucket in buckets]
    on_bucket = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    on_object = [
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject"),
        *("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
    ]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": on_bucket, "Resource": arns},
            {"Effect": "Allow", "Action": on_object, "Resource": [f"{arn}/*" for arn in arns]},
        ],
    }
