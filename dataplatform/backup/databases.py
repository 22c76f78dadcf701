"""PostgreSQL's databases, dumped and brought back by its own clients.

A database is restored beside the present one and takes its name at the end: one that can't be read to
its end changes nothing, and one that is broken off can be restored again.
"""

import os
import subprocess
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from dataplatform.addresses import in_database
from dataplatform.backup.folder import BackupError
from dataplatform.backup.manifest import TableState
from dataplatform.stack.bootstrap import DATABASES, administered, grant_reading, make_database
from dataplatform.stack.layout import write_private
from dataplatform.vault.postgres import PostgresServer

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

_CHUNK: Final = 1024 * 1024
_POINTERS: Final = """
SELECT catalog_name, table_namespace, table_name, coalesce(iceberg_type, 'TABLE'), metadata_location
FROM iceberg_tables ORDER BY 1, 2, 3
"""
# By what Dagster wrote down itself: the column's time is that of whatever zone a session is in.
_SINCE_HEARTBEAT: Final = """
SELECT (extract(epoch FROM now()) - max((body::json ->> 'timestamp')::float8))::float8
FROM daemon_heartbeats
"""
# Each is waited for, up to ten seconds: a database with sessions can't be renamed.
_END_SESSIONS: Final = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = %s AND backend_type = 'client backend'
"""


@dataclass(frozen=True)
class Databases:
    """The platform's databases on one server.

    Args:
        server: where, and who administers it.
        tools: the folder of pg_dump and pg_restore.
    """

    server: PostgresServer
    tools: Path

    @property
    def version(self) -> str:
        """The server's version, such as `18.0`."""
        with administered(self.server, "postgres") as cursor:
            cursor.execute("SHOW server_version")
            return _one(cursor).split()[0]

    @contextmanager
    def still_catalog(self) -> Generator[tuple[tuple[TableState, ...], str]]:
        """Give what the catalog points to at one moment, and that moment's name for `dump`.

        No writer is kept out: a table's row is replaced in one statement, and the files that it
        points to are never changed.
        """
        inside = replace(self.server, address=in_database(self.server.address, "catalog"))
        login = self.server.superuser()
        with closing(inside.connect(login["username"], login["password"])) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_export_snapshot()")
                moment = _one(cursor)
                yield _pointers(cursor), moment

    def pointers(self) -> tuple[TableState, ...]:
        """Return what the catalog points to now."""
        with administered(self.server, "catalog") as cursor:
            return _pointers(cursor)

    def dump(self, database: str, moment: str | None = None) -> Iterator[bytes]:
        """Yield a dump in PostgreSQL's custom format, chunk by chunk.

        Args:
            database: which.
            moment: the one of `still_catalog`; None, the present one.

        Raises:
            BackupError: pg_dump fails; then what was yielded is not whole.
        """
        options = ["--format=custom", "--no-owner", "--no-acl"]
        options += [f"--snapshot={moment}"] if moment else []
        with self._client("pg_dump", database, *options) as (process, said):
            assert process.stdout  # noqa: S101  it is a pipe
            while chunk := process.stdout.read(_CHUNK):
                yield chunk
            _check(process, said, f"The database {database} could not be dumped")

    @contextmanager
    def closed(self, databases: Iterable[str]) -> Generator[None]:
        """Let nobody into databases: sessions are ended, new ones refused, the superuser's too.

        Who is killed inside leaves them closed, so that nobody works on the half of a restoration.
        """
        names = list(databases)
        try:
            with administered(self.server, "postgres") as cursor:
                for name in names:
                    _allow(cursor, name, "false")
                    cursor.execute(_END_SESSIONS, (name,))
            yield
        finally:
            with administered(self.server, "postgres") as cursor:
                for name in names:
                    _allow(cursor, name, "true")

    def accepts(self, database: str) -> bool:
        """Whether the database is there and lets anybody in; not so within `closed`."""
        with administered(self.server, "postgres") as cursor:
            return _accepts(cursor, database)

    def restore(self, database: str, dump: Iterable[bytes]) -> None:
        """Replace a database, within `closed`, by a dump.

        Both names change at one moment: there is always a database of this name, the old or the new.

        Raises:
            BackupError: pg_restore fails; the present database stays.
        """
        scratch, old = f"{database}_restored", f"{database}_replaced"
        with administered(self.server, "postgres") as cursor:
            # What a restoration that was killed left.
            for leftover in (scratch, old):
                cursor.execute(f"DROP DATABASE IF EXISTS {leftover} WITH (FORCE)")
            make_database(cursor, scratch, owner=database)
        self._fill(scratch, database, dump)
        with administered(self.server, "postgres") as cursor:
            _allow(cursor, scratch, "false")
            rename = f"ALTER DATABASE {scratch} RENAME TO {database}"
            if _exists(cursor, database):
                rename = f"ALTER DATABASE {database} RENAME TO {old}; {rename}"
            cursor.execute(rename)
            grant_reading(cursor)
            cursor.execute(f"DROP DATABASE IF EXISTS {old} WITH (FORCE)")

    def _fill(self, scratch: str, owner: str, dump: Iterable[bytes]) -> None:
        options = ["--no-owner", "--no-acl", f"--role={owner}", "--exit-on-error"]
        with self._client("pg_restore", scratch, *options) as (process, said):
            assert process.stdin  # noqa: S101  it is a pipe
            try:
                for chunk in dump:
                    process.stdin.write(chunk)
                process.stdin.close()
            except BrokenPipeError:
                pass  # It says why on stderr.
            _check(process, said, f"The database {owner} could not be restored")

    def used(self) -> str | None:
        """Return what is in the databases, in words; None where they are new."""
        with administered(self.server, "postgres") as cursor:
            shut = [name for name in DATABASES if not _accepts(cursor, name)]
        if shut:
            return f"a restoration of {' and '.join(shut)} was broken off"
        if tables := self.pointers():
            return f"the catalog has {len(tables)} tables and views"
        with administered(self.server, "dagster") as cursor:
            cursor.execute("SELECT to_regclass('runs') IS NOT NULL")
            if _one(cursor) == "True":
                cursor.execute("SELECT count(*) FROM runs")
                if (runs := _one(cursor)) != "0":
                    return f"Dagster has {runs} runs"
        return None

    def daemon_seen(self) -> float | None:
        """Return how many seconds ago Dagster's daemon gave its last sign of life; None where never."""
        with administered(self.server, "dagster") as cursor:
            cursor.execute("SELECT to_regclass('daemon_heartbeats') IS NOT NULL")
            if _one(cursor) != "True":
                return None
            cursor.execute(_SINCE_HEARTBEAT)
            [seconds] = cursor.fetchone() or (None,)
            return seconds

    @contextmanager
    def _client(
        self, tool: str, database: str, *options: str
    ) -> "Generator[tuple[subprocess.Popen[bytes], IO[bytes]]]":
        """Run a client of PostgreSQL; the password is in a file that only this user may read."""
        login = self.server.superuser()
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
            passwords = Path(folder) / "pgpass"
            escaped = login["password"].replace("\\", "\\\\").replace(":", "\\:")
            write_private(passwords, f"*:*:*:*:{escaped}\n")
            process = subprocess.Popen(  # noqa: S603
                [
                    str(self.tools / tool),
                    *("--no-password", "--dbname", self._address(database, login["username"])),
                    *options,
                ],
                env={"PATH": os.environ.get("PATH", ""), "PGPASSFILE": str(passwords)},
                stdin=subprocess.PIPE if tool == "pg_restore" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if tool == "pg_dump" else subprocess.DEVNULL,
                stderr=said,
            )
            try:
                yield process, said
            finally:
                process.kill()
                process.communicate()

    def _address(self, database: str, user: str) -> str:
        from psycopg2.extensions import make_dsn

        return make_dsn(in_database(self.server.address, database), user=user)


def _pointers(cursor: "Cursor") -> tuple[TableState, ...]:
    cursor.execute(_POINTERS)
    names = ("origin", "namespace", "name", "kind", "metadata_location")
    return tuple(
        TableState.model_validate(dict(zip(names, row, strict=True))) for row in cursor.fetchall()
    )


def _allow(cursor: "Cursor", database: str, allowed: str) -> None:
    if _exists(cursor, database):
        cursor.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS {allowed}")


def _exists(cursor: "Cursor", database: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
    return cursor.fetchone() is not None


def _accepts(cursor: "Cursor", database: str) -> bool:
    cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s AND datallowconn", (database,))
    return cursor.fetchone() is not None


def _one(cursor: "Cursor") -> str:
    [value] = cursor.fetchone() or ("",)
    return str(value)


def _check(process: "subprocess.Popen[bytes]", said: IO[bytes], what: str) -> None:
    if process.wait():
        said.seek(0)
        reason = said.read().decode(errors="replace").strip().splitlines()[-3:]
        raise BackupError(f"{what}: {' '.join(reason)}. Remedy: dp stack logs postgres.")
