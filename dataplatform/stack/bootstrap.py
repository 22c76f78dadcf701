"""What the servers hold before anybody uses them: secrets, databases, buckets and their users.

Every step looks first and changes only what is missing, so a second start changes nothing. Vault's
layout and the making of secrets are those of `dataplatform.vault`; this module adds the order.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dataplatform.addresses import in_database
from dataplatform.lake.api.budget_store import DATABASE as BUDGET
from dataplatform.lake.api.budget_store import schema
from dataplatform.lake.store.buckets import BUCKETS, ensure_bucket
from dataplatform.lake.store.minio_admin import POLICIES, MinIOAdmin
from dataplatform.lake.store.s3 import S3Access
from dataplatform.stack.launch import UNPRIVILEGED, open_vault, unprivileged
from dataplatform.stack.layout import HOST, Layout, Plan, StackError, write_private
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.client import MOUNT, VaultClient
from dataplatform.vault.consumers import MinioUser, PostgresLogin
from dataplatform.vault.layout import READER, Declared, platform_layout
from dataplatform.vault.layout import Layout as VaultLayout
from dataplatform.vault.postgres import PostgresServer
from dataplatform.vault.rotation import Rotatable, Rotation, RotationError

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

INBOX: Final = "inbox"
"""The user of other programs, which put files into the inbox."""
MINIO_USERS: Final = ("platform", "trino", "catalog", INBOX)
"""The consumers of the store; the policy of each has its name."""
POSTGRES_LOGINS: Final = ("dagster", "catalog", "trino")
DATABASES: Final = ("dagster", "catalog")
"""Those of which there are backups; the API's budget is not among them."""
APP_ROLES: Final = ("platform", "rotation", "minio", "catalog", "trino")
"""Who logs in to our Vault by a secret id of its own."""

# MinIO's starter reads the administrator's keys, and nothing else does but the rotation.
_MINIO_STARTER: Final = (
    Declared(
        "sys/policies/acl/minio",
        {
            "policy": "".join(
                f'path "{MOUNT}/data/minio/{name}" {{\n  capabilities = ["read"]\n}}\n'
                for name in ("root", "kms")
            )
        },
    ),
    Declared("auth/approle/role/minio", {"token_policies": ["minio"], "token_ttl": 3600}),
    Declared("auth/approle/role/minio/role-id", {"role_id": "minio"}),
)

# Iceberg's own start makes these without the column that views need.
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


# ---- Vault ----


def is_listening(address: str) -> bool:
    """Whether a Vault answers at all, be it new or sealed."""
    import httpx

    try:
        httpx.get(f"{address}/v1/sys/init", timeout=5.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return True


def initialise_vault(layout: Layout, address: str) -> None:
    """Initialise a Vault that is new; it unseals itself by the key in the state folder.

    Raises:
        StackError: it refuses, or its root token was lost.
    """
    import httpx

    try:
        with httpx.Client(base_url=address, timeout=60.0, trust_env=False) as client:
            known = client.get("/v1/sys/init").raise_for_status().json()["initialized"]
            if known and layout.root_token.exists():
                return
            if known:
                raise StackError(_LOST.format(file=layout.root_token))
            wanted = {"recovery_shares": 1, "recovery_threshold": 1}
            answer = client.put("/v1/sys/init", json=wanted).raise_for_status().json()
    except httpx.HTTPError as error:
        raise StackError(
            f"Vault was not initialised ({type(error).__name__})."
            " Remedy: dp stack logs vault; after a mend, dp stack up."
        ) from error
    # The token is last: where it is, both are.
    write_private(layout.recovery_key, answer["recovery_keys"][0])
    write_private(layout.root_token, answer["root_token"])


_LOST: Final = (
    "Vault is initialised, and its root token is not in {file}: an earlier start was ended before it"
    " was written, or it was removed. Remedy: bring the file back; else dp stack down --purge, which"
    " removes the data of all servers, and dp stack up."
)


def bootstrap_vault(layout: Layout, plan: Plan) -> None:
    """Bring our Vault to the platform's layout, and issue the secret ids that are missing."""
    with closing(open_vault(plan, "setup")) as vault:
        bootstrap(vault, vault_layout(given=plan.given))
        for role in APP_ROLES:
            if not layout.secret_id(role).exists():
                write_private(layout.secret_id(role), issue_secret_id(vault, role))


def vault_layout(server: PostgresServer | None = None, given: Collection[str] = ()) -> VaultLayout:
    """Return what stands in our Vault: the platform's layout, and the role of MinIO's starter.

    Args:
        server: where Vault makes logins; None, nowhere.
        given: the servers that have an administrator already: no secret is made for one.
    """
    declared = platform_layout(server.for_vault() if server else None)
    initial = {
        path: new for path, new in declared.initial.items() if path.split("/")[0] not in given
    }
    objects = tuple(map(_bound_to_here, (*declared.objects, *_MINIO_STARTER)))
    return replace(declared, objects=objects, initial=initial)


def _bound_to_here(declared: Declared) -> Declared:
    """Return an AppRole so that its secret ids and tokens are good on this machine only."""
    if "token_policies" not in declared.body:
        return declared
    # Vault gives the address of a single machine back without the length of its prefix.
    here = {"secret_id_bound_cidrs": [f"{HOST}/32"], "token_bound_cidrs": [HOST]}
    return replace(declared, body={**declared.body, **here})


def issue_first(vault: VaultClient, consumers: Iterable[Rotatable]) -> None:
    """Make the secrets that are not there yet, as a rotation makes them.

    A server that is new, or lost its data, is told those that Vault has already.
    """
    rotation = Rotation(vault, timedelta(0))
    for consumer in consumers:
        if vault.last_version(consumer.path) == 0:
            rotation.rotate(consumer)
            continue
        current = vault.read(consumer.path).values
        try:
            consumer.verify(current)
        except RotationError:
            consumer.install(current)


def consumers_of(server: str, plan: Plan, vault: VaultClient) -> list[Rotatable]:
    """Return the users of PostgreSQL or MinIO that the platform can't do without."""
    if server == "postgres":
        return [PostgresLogin(name, _postgres(plan, vault)) for name in POSTGRES_LOGINS]
    return [_minio_user(name, plan, vault) for name in MINIO_USERS if name != INBOX]


def _minio_user(name: str, plan: Plan, vault: VaultClient) -> MinioUser:
    def _root() -> Mapping[str, str]:
        return vault.read("minio/root").values

    return MinioUser(name, plan.address("minio"), _root, plan.region)


def _postgres(plan: Plan, vault: VaultClient) -> PostgresServer:
    return PostgresServer(plan.address("postgres"), lambda: vault.read("postgres/superuser").values)


# ---- PostgreSQL ----


def create_cluster(layout: Layout, plan: Plan) -> None:
    """Run initdb where there are no data yet; data that it was killed over are no data.

    Raises:
        StackError: it fails.
    """
    data = layout.data("postgres")
    if (data / "PG_VERSION").exists():
        return
    scratch = data.with_name(".postgres-new")
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(scratch, UNPRIVILEGED, UNPRIVILEGED)
    _run_initdb(plan, scratch)
    scratch.rename(data)


def _run_initdb(plan: Plan, data: Path) -> None:
    with closing(open_vault(plan, "setup")) as vault:
        superuser = vault.read("postgres/superuser").values
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
            f"initdb failed: {run.stderr.strip()}. Remedy: see that the disk has room and who owns"
            f" {data.parent}; then dp stack up."
        )


def bootstrap_postgres(plan: Plan) -> None:
    """Make the databases, each consumer's group with its first login, and Vault's own role."""
    with closing(open_vault(plan, "setup")) as vault:
        server = _postgres(plan, vault)
        issue_first(vault, consumers_of("postgres", plan, vault))
        if "vault" in plan.ours:
            bootstrap(vault, vault_layout(server, plan.given))
        with administered(server, "postgres") as cursor:
            for name in DATABASES:
                make_database(cursor, name)
            _make_group(cursor, READER)
            grant_reading(cursor)
        with administered(server, "catalog") as cursor:
            cursor.execute("SET ROLE catalog")
            cursor.execute(_CATALOG_TABLES)
        bootstrap_budget(server)


def bootstrap_budget(server: PostgresServer) -> None:
    """Make the API's budget, whose rows the platform may read and change, and no more."""
    with administered(server, "postgres") as cursor:
        make_database(cursor, BUDGET, owner="DEFAULT")
        cursor.execute(f"GRANT CONNECT ON DATABASE {BUDGET} TO dagster")
    with administered(server, BUDGET) as cursor:
        cursor.execute(schema())
        cursor.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO dagster"
        )


@contextmanager
def administered(server: PostgresServer, database: str) -> "Generator[Cursor]":
    """Open a database as the superuser; each statement is its own transaction."""
    login = server.superuser()
    inside = replace(server, address=in_database(server.address, database))
    with closing(inside.connect(login["username"], login["password"])) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor


def _make_group(cursor: "Cursor", name: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    if cursor.fetchone() is None:
        cursor.execute(f"CREATE ROLE {name}")


def make_database(cursor: "Cursor", name: str, owner: str | None = None) -> None:
    """Make a database that nobody but its owner may open, unless it is there; None, of its name."""
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
    if cursor.fetchone() is None:
        cursor.execute(f"CREATE DATABASE {name} OWNER {owner or name}")
    # Each time: whoever was killed after the first statement left it open to all.
    cursor.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")


def grant_reading(cursor: "Cursor") -> None:
    """Let Trino and Vault's logins read what Dagster keeps, and write nothing."""
    cursor.execute(f"GRANT CONNECT ON DATABASE dagster TO trino, {READER}")
    cursor.execute(f"GRANT pg_read_all_data TO trino, {READER}")


# ---- MinIO ----


def bootstrap_minio(plan: Plan) -> None:
    """Make the buckets, each consumer's policy, and its first keys."""
    with closing(open_vault(plan, "setup")) as vault:
        root = vault.read("minio/root").values
        access = S3Access(
            plan.address("minio"), plan.region, root["access_key"], root["secret_key"]
        )
        for bucket in BUCKETS:
            ensure_bucket(access, bucket)
        admin = MinIOAdmin(access)
        for name, document in POLICIES.items():
            admin.ensure_policy(name, document)
        issue_first(vault, (_minio_user(name, plan, vault) for name in MINIO_USERS))


SET_UP: Final[dict[str, Callable[[Plan], None]]] = {
    "postgres": bootstrap_postgres,
    "minio": bootstrap_minio,
}
"""How a server is set up, by the secrets in Vault."""
