"""After runs no secret of Vault stands in clear text anywhere but where it is listed, and why."""

import gzip
import subprocess
import sys
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest

from dataplatform.lake.store.buckets import BUCKETS
from dataplatform.lake.store.object_store import open_bucket
from dataplatform.lake.store.s3 import S3Access
from dataplatform.stack.launch import open_vault
from dataplatform.vault.client import MOUNT, VaultClient
from dataplatform.vault.postgres import PostgresServer
from dataplatform_tests.dagster_home import REPOSITORY
from dataplatform_tests.stack.fixtures import RunningStack
from dataplatform_tests.stack.test_runner import PUBLIC, processes_of
from dataplatform_tests.stack.worker import worker

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

LINEAGE = ("raw/coins_markets", "warehouse/market_snapshots", "analytics/data_freshness")
MARK = "DATAPLATFORM_TESTS_OF_SECRETS"
"""Set in the environment of Dagster's processes, and so of those that they start."""
KEPT = 10
"""How many versions of a secret Vault keeps."""
OWN_ENVIRONMENT = {
    "MINIO_ROOT_PASSWORD": "MinIO takes its administrator's key from there only",
    "MINIO_KMS_SECRET_KEY": "and the key by which it encrypts its users' keys",
    "CATALOG_JDBC_PASSWORD": "the REST catalog takes its login to PostgreSQL from there",
    "CATALOG_S3_SECRET_KEY": "and its key to MinIO",
    "STACK_S3_SECRET_KEY": "Trino's catalog files name this variable instead of the key",
    "STACK_POSTGRES_PASSWORD": "and this one instead of the password",
}
"""Variables of a server's own process, which only its own user and root can read, and why."""
FILES = {
    "vault-root-token": "sets Vault up again at the next start; mode 0600",
}
"""Files of the stack, and why."""

Process = tuple[Mapping[str, str], str]
"""A process's environment and its command line."""


@dataclass(frozen=True)
class Scanned:
    """What is looked for, and where runs have been.

    Attributes:
        secrets: what each is → its value.
        said: what the run and the daemon logged.
        dagster: the environments and command lines of the run, its JVM and the daemon.
    """

    secrets: Mapping[str, bytes]
    said: bytes
    dagster: tuple[Process, ...]

    def within(self, text: bytes) -> list[str]:
        """Return which secrets stand in a text; empty for none."""
        return [name for name, value in self.secrets.items() if value in text]


@pytest.fixture(scope="module")
def scanned(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    """Run a lineage beside the daemon, and look at their processes while they are there."""
    folder = tmp_path_factory.mktemp("secrets")
    own = {"DATAPLATFORM_ORIGIN": "recorded", "DAGSTER_HOME": str(stack.dagster_home), MARK: "1"}
    env, log = stack.env | own, folder / "daemon.log"
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "dataplatform.definitions"]
    stack.drop("market_snapshots")
    with log.open("wb") as output, worker(env, folder) as runs:
        daemon = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=output)
        try:
            with watched() as seen:
                done = runs.run(*LINEAGE)
            assert done.success, done.errors
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)
    return Scanned(values_of(stack), done.said.encode() + log.read_bytes(), tuple(seen.values()))


@contextmanager
def watched() -> Generator[dict[int, Process]]:
    """Gather all of Dagster's processes by PID: a run's JVM is gone when the run has ended."""
    seen: dict[int, Process] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            seen.update(marked())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def marked() -> Iterator[tuple[int, Process]]:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if MARK in process.environ():
                yield process.pid, (process.environ(), "\0".join(process.cmdline()))


def values_of(stack: RunningStack) -> dict[str, bytes]:
    """Return every secret that Vault holds, versions that were replaced included."""
    found = {"root token": stack.layout.root_token.read_bytes().strip()}
    with closing(open_vault(stack.plan, "setup")) as vault:
        for path in paths(vault):
            last = vault.last_version(path)
            for version in range(max(1, last - KEPT + 1), last + 1):
                for name, value in vault.read(path, version).values.items():
                    if name not in PUBLIC:
                        found[f"{path} {name} {version}"] = value.encode()
    return found


def paths(vault: VaultClient, folder: str = "") -> Iterator[str]:
    listed = vault.call("secrets", lambda v: v.list(f"{MOUNT}/metadata/{folder}"))
    for key in listed["data"]["keys"]:
        yield from paths(vault, folder + key) if key.endswith("/") else [folder + key]


def test_every_secret_is_looked_for(scanned: Scanned) -> None:
    looked_for = {name.rsplit(" ", 1)[0] for name in scanned.secrets}
    assert {"minio/platform secret_key", "postgres/dagster password"} <= looked_for
    assert min(map(len, scanned.secrets.values())) >= 16, "a short one would be found by chance"
    assert scanned.within(b"x" + scanned.secrets["minio/platform secret_key 1"])


def test_nothing_logged_holds_a_secret(scanned: Scanned) -> None:
    assert b"market_snapshots" in scanned.said
    assert scanned.within(scanned.said) == []


def test_no_file_of_the_stack_holds_one_but_those_listed(
    scanned: Scanned, stack: RunningStack
) -> None:
    """Logs, Trino's configuration, endpoints.json, Dagster's home and the servers' data are there."""
    root = stack.layout.root
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"endpoints.json", "lake.properties", "trino.log"} <= {path.name for path in files}
    found = {
        str(path.relative_to(root)) for path in files if scanned.within(unpacked(path.read_bytes()))
    }
    assert found == set(FILES)


def test_no_page_of_the_documentation_holds_one(scanned: Scanned) -> None:
    pages = list((REPOSITORY / "docs").rglob("*.md"))
    assert pages
    assert not [page for page in pages if scanned.within(page.read_bytes())]


def test_a_servers_environment_holds_its_own_and_no_command_line_any(
    scanned: Scanned, stack: RunningStack
) -> None:
    found = set()
    for process in processes_of(stack.stack):
        assert scanned.within("\0".join(process.cmdline()).encode()) == []
        variables = process.environ().items()
        found |= {name for name, value in variables if scanned.within(value.encode())}
    assert found == set(OWN_ENVIRONMENT)


def test_no_process_of_dagster_was_given_one(scanned: Scanned) -> None:
    lines = [line for _, line in scanned.dagster]
    assert any("dagster._daemon" in line for line in lines)
    assert any("java" in line for line in lines)
    for environment, line in scanned.dagster:
        assert scanned.within(line.encode()) == []
        assert [n for n, value in environment.items() if scanned.within(value.encode())] == []


@pytest.mark.parametrize("database", ["dagster", "catalog"])
def test_no_row_of_a_database_holds_one(
    scanned: Scanned, stack: RunningStack, database: str
) -> None:
    rows = 0
    for table, row in rows_of(stack, database):
        rows += 1
        for value in row:
            whole = bytes(value) if isinstance(value, memoryview) else str(value).encode()
            assert scanned.within(unpacked(whole)) == [], table
    assert rows


def rows_of(stack: RunningStack, database: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    with closing(open_vault(stack.plan, "setup")) as vault:
        login = vault.read("postgres/superuser").values
    server = PostgresServer(f"{stack.endpoints['postgres_url']}/{database}", lambda: login)
    with closing(server.connect(login["username"], login["password"])) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608  names of the catalogue
            for row in cursor.fetchall():
                yield table, row


@pytest.mark.parametrize("bucket", [spec.name for spec in BUCKETS])
def test_no_object_of_a_bucket_holds_one(
    scanned: Scanned, stack: RunningStack, bucket: str
) -> None:
    with closing(open_vault(stack.plan, "setup")) as vault:
        root = vault.read("minio/root").values
    address = stack.endpoints["s3_endpoint"]
    access = S3Access(address, "us-east-1", root["access_key"], root["secret_key"])
    store = open_bucket(access, bucket)
    keys = [stored.key for stored in store.list("")]
    # Live data are landed by other tests, if at all.
    assert keys or bucket in {"datalake", "warehouse"}
    assert not [key for key in keys if scanned.within(unpacked(store.get(key)))]


def unpacked(body: bytes) -> bytes:
    """Return a body, with what is packed in it: raw files by gzip, Dagster's snapshots by zlib."""
    for unpack in (gzip.decompress, zlib.decompress):
        with suppress(OSError, EOFError, zlib.error):
            return body + unpack(body)
    return body
