"""PostgreSQL's roles: logins in two slots, and the role by which Vault makes logins."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dataplatform.addresses import is_loopback
from dataplatform.vault.layout import READER, Database, new_secret

if TYPE_CHECKING:
    from psycopg2.extensions import connection, cursor

VAULT_ROLE: Final = "vault"
_SECONDS: Final = 10
# Two that change roles at once would fail with "tuple concurrently updated".
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('dataplatform roles'))"


@dataclass(frozen=True)
class PostgresServer:
    """A PostgreSQL server and who administers it.

    Attributes:
        address: such as `postgresql://127.0.0.1:5432`; a database and options may follow.
        superuser: reads `postgres/superuser`, when it is first needed.
    """

    address: str
    superuser: Callable[[], Mapping[str, str]] = field(repr=False)

    def connect(self, username: str, password: str) -> "connection":
        """Return a connection.

        Raises:
            psycopg2.OperationalError: the server is not there or refuses the login.
        """
        import psycopg2

        database = {} if urlsplit(self.address).path.strip("/") else {"dbname": "postgres"}
        return psycopg2.connect(
            self.address, user=username, password=password, connect_timeout=_SECONDS, **database
        )

    def set_login(self, name: str, password: str, *, group: str) -> None:
        """Make a login role with this password, or change it; it acts as `group`.

        What it makes belongs to the group, so the group's other login can change it too.
        """
        with self._administered() as cursor:
            _ensure_role(cursor, group)
            _ensure_login(cursor, name, password)
            _execute(cursor, "GRANT {} TO {}", group, name)
            _execute(cursor, "ALTER ROLE {} SET role = {}", name, group)

    def prepare_vault(self) -> str:
        """Make the role by which Vault makes logins of the group `reader`; return its new password.

        Vault is the only one to keep it.
        """
        password = new_secret()
        with self._administered() as cursor:
            _ensure_role(cursor, READER)
            _ensure_login(cursor, VAULT_ROLE, password)
            _execute(cursor, "ALTER ROLE {} CREATEROLE", VAULT_ROLE)
            _execute(cursor, "GRANT {} TO {} WITH ADMIN OPTION", READER, VAULT_ROLE)
            # To end the sessions of a login whose lease is over.
            _execute(cursor, "GRANT pg_signal_backend TO {}", VAULT_ROLE)
        return password

    def for_vault(self) -> Database:
        """Describe this server for the layout; the role is made when the connection is."""
        parts = urlsplit(self.address)
        # Elsewhere the default of Vault's driver holds, which takes TLS where the server has it.
        query = parts.query or ("sslmode=disable" if is_loopback(self.address) else "")
        login = "{{username}}:{{password}}"
        place = f"{parts.netloc}/{parts.path.strip('/') or 'postgres'}"
        url = f"postgresql://{login}@{place}" + (f"?{query}" if query else "")
        return Database(url, VAULT_ROLE, self.prepare_vault)

    @contextmanager
    def _administered(self) -> "Generator[cursor]":
        login = self.superuser()
        connected = self.connect(login["username"], login["password"])
        # psycopg2's own `with` ends the transaction and leaves the connection open.
        with closing(connected), connected, connected.cursor() as cursor:
            cursor.execute(_LOCK)
            yield cursor


def _ensure_role(cursor: "cursor", name: str) -> None:
    cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
    if cursor.fetchone() is None:
        _execute(cursor, "CREATE ROLE {}", name)


def _ensure_login(cursor: "cursor", name: str, password: str) -> None:
    from psycopg2 import sql
    from psycopg2.extensions import encrypt_password

    _ensure_role(cursor, name)
    # The verifier instead of the password: statements are logged.
    verifier = encrypt_password(password, name, cursor.connection, "scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}")
    cursor.execute(statement.format(sql.Identifier(name), sql.Literal(verifier)))


def _execute(cursor: "cursor", template: str, *names: str) -> None:
    from psycopg2 import sql

    cursor.execute(sql.SQL(template).format(*map(sql.Identifier, names)))
