"""What was destroyed is back: catalog, runs, secrets, rows; damage and gaps are found first."""

import gzip
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from dagster import DagsterInstance, job, op
from dagster._core.instance.ref import InstanceRef
from dagster._daemon.types import DaemonHeartbeat
from pyiceberg.catalog import Catalog
from pyiceberg.table import StaticTable

from dataplatform.backup.databases import Databases
from dataplatform.backup.manifest import Manifest
from dataplatform.backup.servers import open_servers
from dataplatform.lake.catalog import file_io
from dataplatform.lake.store.buckets import DATA_BUCKETS
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.lake.writer_lock import postgres_lock
from dataplatform.profiles import Settings, lake_place
from dataplatform.resources.servers import find_servers
from dataplatform.resources.vault import VaultResource
from dataplatform.stack.bootstrap import administered
from dataplatform.stack.launch import open_vault
from dataplatform.stack.layout import Given, write_private
from dataplatform.stack.runner import Stack
from dataplatform_tests.stack.fixtures import RunningStack, quiet

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

NAMES = frozenset({"access_key", "username"})
"""Names of users are no secret."""
ROWS = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
OWN_SECRET = "written-before-the-backup"


@op
def speak() -> None:
    """Do nothing, in a run of its own."""


@job
def remembered() -> None:
    """Be a run that Dagster remembers."""
    speak()


def dp(stack: RunningStack, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).with_name("dp")), *arguments]
    return subprocess.run(
        command,
        env=stack.env | env,
        # Not the repository's folder: a developer's `.env` lies there.
        cwd=stack.home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def catalog_of(stack: RunningStack) -> Catalog:
    return lake_place(stack.settings, "live").open_catalog()


def rows(stack: RunningStack, name: str) -> list[dict[str, object]]:
    table = catalog_of(stack).load_table(("warehouse", name))
    return table.scan().to_arrow().sort_by("a").to_pylist()


def instance_of(stack: RunningStack) -> DagsterInstance:
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(stack.dagster_home)))


def run_ids(stack: RunningStack) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        point_at(stack, patch)
        with instance_of(stack) as instance:
            return {run.run_id for run in instance.get_runs()}


def point_at(stack: RunningStack, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("DATAPLATFORM_PROFILE", "stack")
    patch.setenv("DATAPLATFORM_HOME", str(stack.home))
    patch.setattr("dataplatform.resources.dagster_storage._login", _current_login)


def _current_login() -> dict[str, str]:
    """Ask Vault each time: a test looks at more than one stack."""
    return dict(VaultResource.from_settings(Settings()).read("postgres/dagster"))


def manifest_of(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def table(stack: RunningStack) -> Iterator[str]:
    """A small table in the live catalog, written twice."""
    made = catalog_of(stack).create_table("warehouse.kept", ROWS.schema)
    made.append(ROWS)
    made.append(pa.table({"a": [4], "b": ["w"]}))
    yield "kept"
    catalog_of(stack).drop_table("warehouse.kept")


@pytest.fixture(scope="module")
def run_id(stack: RunningStack) -> str:
    with pytest.MonkeyPatch.context() as patch:
        point_at(stack, patch)
        with instance_of(stack) as instance:
            return remembered.execute_in_process(instance=instance).run_id


@pytest.fixture(scope="module")
def secret(stack: RunningStack) -> str:
    with closing(open_vault(stack.plan, "setup")) as vault:
        last = vault.last_version("trino/kept")
        vault.write("trino/kept", {"password": OWN_SECRET}, cas=last)
    return "trino/kept"


@pytest.fixture(scope="module")
def listed(
    stack: RunningStack,
    table: str,
    run_id: str,
    secret: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A backup that lists the objects."""
    folder = tmp_path_factory.mktemp("backups") / "listed"
    done = dp(stack, "backup", str(folder))
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def copied(listed: Path, stack: RunningStack) -> Path:
    """A backup that holds the objects as well."""
    folder = listed.with_name("copied")
    done = dp(stack, "backup", str(folder), "--with-data")
    assert done.returncode == 0, done.stdout
    return folder


def test_the_manifest_says_what_there_was(stack: RunningStack, listed: Path, table: str) -> None:
    manifest = manifest_of(listed)
    loaded = catalog_of(stack).load_table(("warehouse", table))
    [state] = [one for one in manifest.tables if one.name == table]
    current = loaded.current_snapshot()
    assert current is not None
    assert (state.origin, state.snapshot_id) == ("live", current.snapshot_id)
    assert state.metadata_location == loaded.metadata_location
    assert {one.bucket for one in manifest.buckets} == {spec.name for spec in DATA_BUCKETS}
    assert manifest.versions.keys() == {"postgres", "vault"}
    assert {file.name for file in manifest.files} >= {"vault.snap", "postgres/dagster.dump"}


def test_nobody_else_may_read_it(listed: Path) -> None:
    for path in (listed, *listed.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def secrets_of(stack: RunningStack) -> dict[str, str]:
    """Return every secret of the stack: those in Vault, and the keys that open it."""
    layout = stack.layout
    files = [layout.root_token, layout.recovery_key, *layout.root.glob("*secret-id")]
    found = {path.name: path.read_text().strip() for path in files}
    with closing(open_vault(stack.plan, "setup")) as vault:
        for folder in ("minio", "postgres", "trino"):
            keys = vault.call(
                "keys", lambda client, at=folder: client.list(f"dataplatform/metadata/{at}")
            )
            for key in keys["data"]["keys"]:
                path = f"{folder}/{key}"
                values = vault.read(path).values
                found |= {f"{path}.{name}": v for name, v in values.items() if name not in NAMES}
    return found


def test_no_secret_is_in_it_in_clear_text(stack: RunningStack, copied: Path) -> None:
    """PostgreSQL's dumps and the listings are compressed, and looked at as text as well."""
    tool = stack.plan.homes["postgres"] / "bin" / "pg_restore"
    contents = {str(path): path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    for dump in copied.rglob("*.dump"):
        text = subprocess.run([tool, "-f", "-", dump], capture_output=True, check=True).stdout
        assert b"COPY public." in text
        contents[f"{dump} as SQL"] = text
    for listing in copied.rglob("*.jsonl.gz"):
        contents[f"{listing} as text"] = gzip.decompress(listing.read_bytes())
    secrets = secrets_of(stack)
    assert secrets["trino/kept.password"] == OWN_SECRET
    seal_key = stack.layout.seal_key.read_bytes()
    leaks = [
        (name, where)
        for where, content in contents.items()
        for name, value in [*secrets.items()]
        if value.encode() in content or seal_key in content
    ]
    assert leaks == []


def test_a_damaged_file_is_refused(stack: RunningStack, listed: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(listed, damaged)
    dump = damaged / "postgres" / "catalog.dump"
    body = bytearray(dump.read_bytes())
    body[len(body) // 2] ^= 1
    dump.write_bytes(body)
    done = dp(stack, "restore", str(damaged), "--force")
    assert done.returncode == 1
    assert "postgres/catalog.dump" in done.stdout
    assert "nothing was changed" in done.stdout


def test_a_backup_that_did_not_end_is_none(
    stack: RunningStack, listed: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(listed, partial)
    (partial / "manifest.json").unlink()
    done = dp(stack, "restore", str(partial), "--force")
    assert done.returncode == 1
    assert "not a whole backup" in done.stdout
    again = dp(stack, "backup", str(partial))
    assert again.returncode == 1
    assert "not empty" in again.stdout


def test_what_is_in_use_is_not_replaced(stack: RunningStack, listed: Path) -> None:
    done = dp(stack, "restore", str(listed))
    assert done.returncode == 1
    assert "in use" in done.stdout
    assert "--force" in done.stdout


def test_nothing_is_restored_beside_a_writer(stack: RunningStack, listed: Path) -> None:
    servers = find_servers(stack.settings)
    with postgres_lock(servers.lock_dsn(), "lake live", "run 4711", 1):
        done = dp(stack, "restore", str(listed), "--force")
    assert done.returncode == 1
    assert "run 4711" in done.stdout


def test_nothing_is_restored_while_dagsters_daemon_lives(
    stack: RunningStack, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(stack, monkeypatch)
    servers = find_servers(stack.settings)
    with instance_of(stack) as instance, postgres_lock(servers.lock_dsn(), "lake live", "4711", 1):
        for age, options, said in (
            (10, (), "sign of life 1"),
            (10, ("--despite-daemon",), "4711"),
            (1000, (), "4711"),
        ):
            beat = DaemonHeartbeat(time.time() - age, "SENSOR", "one", [])
            instance.add_daemon_heartbeat(beat)
            done = dp(stack, "restore", str(listed), "--force", *options)
            assert done.returncode == 1
            assert said in done.stdout
            assert ("dp ui" in done.stdout) is (said != "4711")
        instance.wipe_daemon_heartbeats()


def test_a_backup_beside_a_writer_is_of_one_moment(
    stack: RunningStack, tmp_path: Path, table: str
) -> None:
    made = catalog_of(stack).create_table("warehouse.busy", ROWS.schema)
    stop, commits = threading.Event(), 0

    def write() -> None:
        nonlocal commits
        while not stop.is_set():
            made.append(ROWS)
            commits += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = dp(stack, "backup", str(tmp_path / "beside"))
    finally:
        stop.set()
        writer.join()
    assert done.returncode == 0, done.stdout
    [state] = [one for one in manifest_of(tmp_path / "beside").tables if one.name == "busy"]
    assert state.metadata_location in dumped_pointers(stack, tmp_path / "beside")
    access = find_servers(stack.settings).access
    then = StaticTable.from_metadata(state.metadata_location, file_io(access))
    whole, rest = divmod(then.scan().to_arrow().num_rows, ROWS.num_rows)
    assert rest == 0
    assert 0 < whole < commits
    catalog_of(stack).drop_table("warehouse.busy")


def dumped_pointers(stack: RunningStack, backup: Path) -> str:
    tool = stack.plan.homes["postgres"] / "bin" / "pg_restore"
    command = [tool, "-f", "-", "--table=iceberg_tables", backup / "postgres" / "catalog.dump"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def destroy(stack: RunningStack, table: str, secret: str) -> None:
    """Empty both databases, delete a table's files, and remove secrets for good."""
    client = s3_client(find_servers(stack.settings).access)
    loaded = catalog_of(stack).load_table(("warehouse", table))
    for file in loaded.inspect.files()["file_path"].to_pylist():
        client.delete_object(Bucket="warehouse", Key=file.removeprefix("s3://warehouse/"))
    with open_servers(stack.home) as servers:
        for database in ("catalog", "dagster"):
            with administered(servers.postgres, database) as cursor:
                cursor.execute("DROP SCHEMA public CASCADE")
                cursor.execute("CREATE SCHEMA public")
        for path in (secret, "minio/trino", "postgres/dagster"):
            servers.vault.call(
                path, lambda client, at=path: client.delete(f"dataplatform/metadata/{at}")
            )


def test_what_was_destroyed_is_back(
    stack: RunningStack,
    listed: Path,
    table: str,
    run_id: str,
    secret: str,
) -> None:
    destroy(stack, table, secret)
    done = dp(stack, "restore", str(listed), "--force")
    assert done.returncode == 0, done.stdout
    # The data files were not copied: the bucket kept their versions.
    assert [row["a"] for row in rows(stack, table)] == [1, 2, 3, 4]
    assert run_id in run_ids(stack)
    with closing(open_vault(stack.plan, "setup")) as vault:
        assert vault.read(secret).values == {"password": OWN_SECRET}
    with VaultResource.from_settings(stack.settings).database_credentials("reader") as login:
        assert login.username
    answer = dp(stack, "query", "select sum(a) as total from warehouse.kept", "--format", "csv")
    assert "10" in answer.stdout.split(), answer.stdout


@pytest.fixture
def fresh(stack: RunningStack) -> Iterator[RunningStack]:
    """Another machine's stack: new and empty, with the seal key that was kept. Trino is shared."""
    home = Path(tempfile.mkdtemp(prefix="dp-fresh-"))
    given = Given.model_construct(trino_url=stack.endpoints["trino_url"])
    running = Stack(home, given)
    write_private(running.layout.seal_key, stack.layout.seal_key.read_bytes())
    try:
        running.up(quiet, free_ports=True)
        yield RunningStack(home, running)
    finally:
        running.down(quiet)
        shutil.rmtree(home, ignore_errors=True)


def test_a_fresh_machine_gets_it_all(
    stack: RunningStack,
    fresh: RunningStack,
    listed: Path,
    copied: Path,
    run_id: str,
    secret: str,
    table: str,
) -> None:
    without_token = dp(fresh, "restore", str(copied))
    assert without_token.returncode == 1
    assert "--vault-token-file" in without_token.stdout
    token = ("--vault-token-file", str(stack.layout.root_token))
    assert refuses_another_seal_key(fresh, listed, *token)
    # Its buckets are empty, and this backup only lists what belongs there.
    without_data = dp(fresh, "restore", str(listed), *token)
    assert without_data.returncode == 1
    assert "neither in the backup nor in the buckets" in without_data.stdout
    done = dp(fresh, "restore", str(copied), "--force", *token)
    assert done.returncode == 0, done.stdout
    assert [row["a"] for row in rows(fresh, table)] == [1, 2, 3, 4]
    assert run_id in run_ids(fresh)
    with closing(open_vault(fresh.plan, "setup")) as vault:
        assert vault.read(secret).values == {"password": OWN_SECRET}
    for server in ("vault", "postgres", "minio", "catalog"):
        fresh.restart(server)
    catalog_of(fresh).load_table(("warehouse", table)).append(ROWS)
    assert len(rows(fresh, table)) == 7


def refuses_another_seal_key(stack: RunningStack, backup: Path, *token: str) -> bool:
    """Whether a backup of a Vault whose key nobody kept is refused by name."""
    other = backup.with_name("other")
    shutil.copytree(backup, other)
    keys = manifest_of(other).vault_keys
    assert keys is not None
    text = (other / "manifest.json").read_text()
    (other / "manifest.json").write_text(text.replace(keys.seal_key, "0" * 16))
    done = dp(stack, "restore", str(other), *token)
    return done.returncode == 1 and "another seal key" in done.stdout


def test_a_bucket_takes_a_backup_too(stack: RunningStack, table: str) -> None:
    with closing(open_vault(stack.plan, "setup")) as vault:
        root = vault.read("minio/root").values
    access = S3Access(
        stack.endpoints["s3_endpoint"], "us-east-1", root["access_key"], root["secret_key"]
    )
    s3_client(access).create_bucket(Bucket="backups")
    target = "s3://backups/daily/one"
    without_key = dp(stack, "backup", target)
    assert without_key.returncode == 1
    assert "AWS_ENDPOINT_URL" in without_key.stdout
    key = {
        "AWS_ENDPOINT_URL": access.endpoint,
        "AWS_ACCESS_KEY_ID": access.access_key,
        "AWS_SECRET_ACCESS_KEY": access.secret_key,
    }
    done = dp(stack, "backup", target, "--with-data", **key)
    assert done.returncode == 0, done.stdout
    checked = dp(stack, "restore", target, "--check", **key)
    assert checked.returncode == 0, checked.stdout
    keys = {one["Key"] for one in s3_client(access).list_objects_v2(Bucket="backups")["Contents"]}
    assert "daily/one/manifest.json" in keys
    s3_client(access).delete_object(Bucket="backups", Key="daily/one/vault.snap")
    damaged = dp(stack, "restore", target, "--check", **key)
    assert damaged.returncode == 1
    assert "vault.snap" in damaged.stdout
    assert "is missing" in damaged.stdout


def test_a_dump_that_breaks_off_changes_nothing(
    stack: RunningStack, listed: Path, run_id: str
) -> None:
    whole = (listed / "postgres" / "dagster.dump").read_bytes()
    with open_servers(stack.home) as servers:
        databases: Databases = servers.databases
        broken = pytest.raises(Exception, match="could not be restored")
        with broken, databases.closed(["dagster"]):
            databases.restore("dagster", [whole[: len(whole) // 2]])
    assert run_id in run_ids(stack)
