"""What stands in Vault, as data: engines, login methods, policies, roles, keys.

Every object is a path of Vault's API and the body that belongs there, so that one loop can compare
and write them all. HashiCorp Vault and OpenBao both have all of it. Audit devices are not in it:
OpenBao declares them in the server's configuration, Vault by its API.
"""

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from dataplatform.vault.client import MOUNT

CONSUMERS: Final = ("platform", "trino", "catalog", "rotation")
"""Who reads from Vault: each has one policy and one role, of its name."""

READER: Final = "reader"
"""The database engine's role, and the PostgreSQL group that its logins join."""

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR


@dataclass(frozen=True)
class Declared:
    """An object of Vault.

    Attributes:
        path: where it is in Vault's API.
        body: what is to stand there; what Vault has beside it is left alone.
        once: gives what is sent only when the object is made and can't be read back: a password.
    """

    path: str
    body: Mapping[str, Any]
    once: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)


@dataclass(frozen=True)
class Layout:
    """All that is declared.

    Attributes:
        engines: mount path to the type and options of the secrets engine.
        methods: mount path to the type of the login method.
        objects: the rest, in the order in which they are made.
        initial: secrets that are written where there are none, by path.
    """

    engines: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, str]
    objects: tuple[Declared, ...]
    initial: Mapping[str, Callable[[], Mapping[str, str]]]


@dataclass(frozen=True)
class Kubernetes:
    """The cluster whose service accounts log in.

    Attributes:
        host: the API server's address, seen from Vault.
        namespace: where the consumers' pods run.
        accounts: consumer to its service accounts, of which it may have several.
        audience: what their tokens are made for; Vault 1.21 and later asks for one.
        ca_certificate: PEM of the API server's authority; None, what Vault finds in its own pod.
        reviewer: gives the JWT by which Vault asks for reviews; empty, the one of its own pod.
    """

    host: str
    namespace: str
    accounts: Mapping[str, Sequence[str]]
    audience: str = "vault"
    ca_certificate: str | None = None
    reviewer: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)


@dataclass(frozen=True)
class Database:
    """The PostgreSQL in which Vault makes logins.

    Attributes:
        url: with `{{username}}` and `{{password}}` in it, which Vault fills in.
        username: the login role of Vault, which may make roles.
        password: gives its password, when the connection is first made.
    """

    url: str
    username: str
    password: Callable[[], str] = field(repr=False)


def platform_layout(
    database: Database | None = None, kubernetes: Kubernetes | None = None
) -> Layout:
    """Return the platform's layout.

    Args:
        database: where dynamic logins are made; None, nowhere.
        kubernetes: whose service accounts log in; None, AppRole only.
    """
    methods = {"approle": "approle", **({"kubernetes": "kubernetes"} if kubernetes else {})}
    return Layout(
        engines=_ENGINES,
        methods=methods,
        objects=(
            Declared(f"{MOUNT}/config", {"cas_required": True, "max_versions": 10}),
            Declared(f"transit/keys/{MOUNT}", {"type": "aes256-gcm96"}),
            *(Declared(f"sys/policies/acl/{name}", {"policy": policy(name)}) for name in CONSUMERS),
            *(role for name in CONSUMERS for role in _approle(name)),
            *(_database(database) if database else ()),
            *(_kubernetes(kubernetes) if kubernetes else ()),
        ),
        initial=_INITIAL,
    )


def policy(consumer: str) -> str:
    """Return a consumer's policy, in HCL."""
    return (files("dataplatform.vault") / "policies" / f"{consumer}.hcl").read_text()


def new_secret() -> str:
    """Return a random secret of 240 bits that every server accepts, such as MinIO's 40 signs."""
    return secrets.token_urlsafe(30)


def _new_minio_key() -> dict[str, str]:
    """Return a key by which MinIO encrypts its users' keys: without one they lie in clear text."""
    return {"key": f"stack:{base64.b64encode(secrets.token_bytes(32)).decode()}"}


_ENGINES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        MOUNT: {"type": "kv", "options": {"version": "2"}},
        "transit": {"type": "transit"},
        "database": {"type": "database"},
    }
)

# The administrators of the servers that the platform starts itself. All other secrets are made by
# their first rotation.
_INITIAL: Final[Mapping[str, Callable[[], Mapping[str, str]]]] = MappingProxyType(
    {
        "minio/root": lambda: {"access_key": "root", "secret_key": new_secret()},
        "minio/kms": _new_minio_key,
        "postgres/superuser": lambda: {"username": "postgres", "password": new_secret()},
    }
)

# A token is renewed while it is used; a run that lasts longer than a day logs in again.
_TOKEN: Final = {"token_ttl": _HOUR, "token_max_ttl": _DAY}

_CREATE_LOGIN: Final = (
    "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
    f" IN ROLE {READER}"
)
# A role that somebody dropped is as good as ended: else its lease could never be revoked. Vault cuts
# statements at each semicolon, unless it finds an END between blanks.
_END_LOGIN: Final = (
    "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN"
    ' ALTER ROLE "{{name}}" NOLOGIN; END IF; END $$'
)


def _approle(consumer: str) -> tuple[Declared, Declared]:
    path = f"auth/approle/role/{consumer}"
    return (
        Declared(path, {"token_policies": [consumer], **_TOKEN}),
        # A role's id is no secret: naming it like the role makes it the same everywhere.
        Declared(f"{path}/role-id", {"role_id": consumer}),
    )


def _kubernetes(cluster: Kubernetes) -> tuple[Declared, ...]:
    config = {"kubernetes_host": cluster.host}
    if cluster.ca_certificate:
        config["kubernetes_ca_cert"] = cluster.ca_certificate
    roles = (
        Declared(
            f"auth/kubernetes/role/{consumer}",
            {
                "bound_service_account_names": list(accounts),
                "bound_service_account_namespaces": [cluster.namespace],
                "audience": cluster.audience,
                "token_policies": [consumer],
                **_TOKEN,
            },
        )
        for consumer, accounts in cluster.accounts.items()
    )
    return (Declared("auth/kubernetes/config", config, cluster.reviewer), *roles)


def _database(database: Database) -> tuple[Declared, Declared]:
    connection = Declared(
        "database/config/postgres",
        {
            "plugin_name": "postgresql-database-plugin",
            "connection_url": database.url,
            "allowed_roles": [READER],
            "username": database.username,
            # Else each new login's password would stand in PostgreSQL's statement log.
            "password_authentication": "scram-sha-256",
        },
        lambda: {"password": database.password()},
    )
    role = Declared(
        f"database/roles/{READER}",
        {
            "db_name": "postgres",
            "creation_statements": [_CREATE_LOGIN],
            "renew_statements": ["ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'"],
            # Without the second a session that is open would outlive its login.
            "revocation_statements": [
                _END_LOGIN,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'",
                'DROP ROLE IF EXISTS "{{name}}"',
            ],
            "default_ttl": _HOUR,
            "max_ttl": _DAY,
        },
    )
    return connection, role
