"""Trino on PostgreSQL with files beneath: what the tests of this folder ask, started once."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg2

from dataplatform_tests.servers import Postgres, free_port, postgres, trino_home, trino_java

START_SECONDS: Final = 180.0
CATALOGS: Final = {"lake": "live", "recorded": "recorded"}
"""Trino's catalogs, each with the name that the Iceberg catalog's rows have."""
_ENDS: Final = 20.0
USER: Final = "platform"
PASSWORD: Final = "p@ss: word/1"
STRANGER: Final = "stranger"
"""A user who may read tables and change nothing."""
_RULES: Final = {
    "catalogs": [
        {"user": STRANGER, "catalog": "tpch|recorded", "allow": "read-only"},
        {"user": STRANGER, "allow": "none"},
        {"allow": "all"},
    ]
}
_HEADER: Final = {"alg": "RS256", "typ": "JWT"}
_JVM: Final = (
    "-Xmx1G",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Duser.timezone=UTC",
    "-Djdk.attach.allowAttachSelf=true",
)


@dataclass(frozen=True)
class Servers:
    """A running Trino and the PostgreSQL that keeps its catalogs."""

    root: Path
    trino_url: str
    trino_tls_url: str
    database: Postgres

    def postgres(self, database: str) -> str:
        """Return the address of a database, for SQLAlchemy and psycopg2."""
        return self.database.url(database)

    def jdbc(self, database: str) -> str:
        """Return the address of a database as JDBC has it, behind `jdbc:`."""
        return f"postgresql://127.0.0.1:{self.database.port}/{database}"

    def warehouse(self, catalog: str) -> Path:
        """Return the folder with a Trino catalog's Iceberg files."""
        return self.root / "warehouse" / catalog

    def execute(self, database: str, *statements: str) -> None:
        """Run statements on PostgreSQL, each committed by itself."""
        connection = psycopg2.connect(self.postgres(database))
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()


@contextmanager
def started(root: Path) -> Generator[Servers]:
    """Start both below `root`, a folder that an unprivileged user may enter; end both at last."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        urls = f"http://127.0.0.1:{free_port()}", f"https://localhost:{free_port()}"
        servers = Servers(root, *urls, database)
        _create_databases(servers)
        stack.enter_context(_trino(root / "trino", servers))
        yield servers


@contextmanager
def _running(command: list[str], log: Path, **options: Any) -> Generator[subprocess.Popen[str]]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, text=True, **options
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"{log.name}: not up\n{log.read_text()[-4000:]}")
        time.sleep(0.3)


def _create_databases(servers: Servers) -> None:
    servers.execute("postgres", "CREATE DATABASE catalog", "CREATE DATABASE dagster")
    # pyiceberg makes the tables V0; Trino's views need V1, whose rows have a type.
    servers.execute(
        "catalog",
        "CREATE TABLE iceberg_tables (catalog_name varchar(255) NOT NULL,"
        " table_namespace varchar(255) NOT NULL, table_name varchar(255) NOT NULL,"
        " metadata_location varchar(1000), previous_metadata_location varchar(1000),"
        " iceberg_type varchar(5), PRIMARY KEY (catalog_name, table_namespace, table_name))",
        "CREATE TABLE iceberg_namespace_properties (catalog_name varchar(255) NOT NULL,"
        " namespace varchar(255) NOT NULL, property_key varchar(255) NOT NULL,"
        " property_value varchar(1000), PRIMARY KEY (catalog_name, namespace, property_key))",
    )


@contextmanager
def _trino(folder: Path, servers: Servers) -> Generator[None]:
    etc = folder / "etc"
    for name, properties in _trino_files(folder, servers).items():
        _write(etc / f"{name}.properties", properties)
    (etc / "jvm.config").write_text("\n".join(_JVM) + "\n")
    (etc / "rules.json").write_text(json.dumps(_RULES))
    (etc / "password.db").write_text(f"{USER}:{_hashed(PASSWORD)}\n")
    _make_certificates(etc)
    log = folder.parent / "trino.log"
    launcher = [str(trino_home() / "bin/launcher"), "run", "--etc-dir", str(etc)]
    java = trino_java()
    path = f"{java}/bin:{os.environ['PATH']}"
    environment = {**os.environ, "JAVA_HOME": str(java), "PATH": path}
    with _running(launcher, log, env=environment) as process:
        wait_until(lambda: answers(servers.trino_url), process, log)
        yield


def _trino_files(folder: Path, servers: Servers) -> dict[str, dict[str, str]]:
    etc, port = folder / "etc", urlsplit(servers.trino_url).port
    files = {
        "node": {
            "node.environment": "test",
            "node.data-dir": str(folder / "data"),
            "node.bind-ip": "127.0.0.1",
            "node.internal-address": "127.0.0.1",
        },
        "config": {
            "coordinator": "true",
            "node-scheduler.include-coordinator": "true",
            "http-server.http.port": str(port),
            "discovery.uri": f"http://127.0.0.1:{port}",
            "query.max-memory-per-node": "300MB",
            "memory.heap-headroom-per-node": "200MB",
            "http-server.https.enabled": "true",
            "http-server.https.port": str(urlsplit(servers.trino_tls_url).port),
            "http-server.https.keystore.path": str(etc / "server.pem"),
            "http-server.authentication.type": "PASSWORD,JWT",
            "http-server.authentication.jwt.key-file": str(etc / "jwt.pub"),
            # One server for all tests: by http it believes any user, by https it wants a secret.
            "http-server.authentication.allow-insecure-over-http": "true",
            "internal-communication.shared-secret": "for-the-tests-only",
        },
        "password-authenticator": {
            "password-authenticator.name": "file",
            "file.password-file": str(etc / "password.db"),
        },
        "access-control": {
            "access-control.name": "file",
            "security.config-file": str(etc / "rules.json"),
        },
        "catalog/postgres": {
            "connector.name": "postgresql",
            "connection-url": f"jdbc:{servers.jdbc('dagster')}",
            "connection-user": "postgres",
            "connection-password": servers.database.admin["password"],
        },
        "catalog/tpch": {"connector.name": "tpch"},
    }
    for name in CATALOGS:
        servers.warehouse(name).mkdir(parents=True, exist_ok=True)
        files[f"catalog/{name}"] = _iceberg(name, servers)
    return files


def _iceberg(name: str, servers: Servers) -> dict[str, str]:
    jdbc = "iceberg.jdbc-catalog"
    return {
        "connector.name": "iceberg",
        "iceberg.catalog.type": "jdbc",
        f"{jdbc}.catalog-name": CATALOGS[name],
        f"{jdbc}.driver-class": "org.postgresql.Driver",
        f"{jdbc}.connection-url": f"jdbc:{servers.jdbc('catalog')}",
        f"{jdbc}.connection-user": "postgres",
        f"{jdbc}.connection-password": servers.database.admin["password"],
        f"{jdbc}.default-warehouse-dir": servers.warehouse(name).as_uri(),
        "fs.hadoop.enabled": "true",
    }


def _hashed(password: str) -> str:
    """Return a password as Trino's file has it: iterations, salt and PBKDF2 in hex."""
    salt = os.urandom(16)
    derived = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 1000, 64)
    return f"1000:{salt.hex()}:{derived.hex()}"


def _make_certificates(etc: Path) -> None:
    """Make a server's certificate, which is its own authority, and a key that signs tokens."""
    key, crt = etc / "server.key", etc / "ca.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    make += ["-keyout", str(key), "-out", str(crt), "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(make, check=True, capture_output=True)
    (etc / "server.pem").write_text(key.read_text() + crt.read_text())
    public = ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(etc / "jwt.pub")]
    subprocess.run(public, check=True, capture_output=True)


def token(servers: Servers, user: str) -> str:
    """Return a JSON Web Token that the server takes for `user`."""
    end = int(time.time()) + 3600
    claims = b".".join(
        _base64(json.dumps(p).encode()) for p in (_HEADER, {"sub": user, "exp": end})
    )
    sign = ["openssl", "dgst", "-sha256", "-sign", str(servers.root / "trino/etc/server.key")]
    signed = subprocess.run(sign, check=True, capture_output=True, input=claims).stdout
    return b".".join((claims, _base64(signed))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def answers(url: str) -> bool:
    """Return whether a SELECT is answered; the server says that it is up some seconds earlier."""
    from trino.dbapi import connect
    from trino.exceptions import Error, HttpError

    try:
        cursor = connect(url, user="test", max_attempts=1, timezone="UTC").cursor()
        cursor.execute("SELECT count(*) FROM tpch.tiny.nation")
        return cursor.fetchall() == [[25]]
    except (Error, HttpError):
        return False


def _write(path: Path, properties: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
