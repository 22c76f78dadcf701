"""Servers that die, fill up, are sealed or get other secrets while a run is under way.

One lake on the servers is disturbed again and again, one embedded lake never; both get the same raw
files. After each fault and one more run all rows are compared: none may be missing, none be there
twice. What a run says in between names cause and remedy, and no secret.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from dataplatform.lake.place import LakePlace, LocalLake
from dataplatform.lake.schema import AUDIT_BRANCH, ensure_table, identifier
from dataplatform.lake.spec import NAMESPACE
from dataplatform.lake.store.minio_admin import MinIOAdmin
from dataplatform.lake.store.s3 import S3Access
from dataplatform.profiles import lake_place
from dataplatform.resources.rotation import RotationResource
from dataplatform.resources.vault import VaultResource
from dataplatform.stack.bootstrap import MINIO_USERS, POSTGRES_LOGINS
from dataplatform.stack.launch import open_vault
from dataplatform.tables import all_specs
from dataplatform.vault.postgres import PostgresServer
from dataplatform.vault.rotation import Rotation
from dataplatform.views import all_views
from dataplatform_tests.dagster_home import DagsterHome
from dataplatform_tests.stack.fixtures import RunningStack
from dataplatform_tests.stack.proxy import Moment, Proxy, Strike
from dataplatform_tests.stack.test_runner import PUBLIC, SECRETS, until
from dataplatform_tests.stack.worker import Outcome, Worker, worker

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(600)]

TABLES = ("market_snapshots", "price_points")
"""They are built side by side: one fails, and the other is on its way."""
VIEW = "latest_prices"
ASSETS = tuple(f"{NAMESPACE}/{table}" for table in TABLES)
DATA_FILE = r"PUT /warehouse/warehouse/market_snapshots/\S+\.parquet"
_COMMIT = "POST /live/v1/namespaces/warehouse/tables/market_snapshots HTTP.*"
COMMITS = {
    "Spark": _COMMIT + 'add-snapshot.*"ref-name":"audit"',
    "pyiceberg": _COMMIT + '"ref-name":"main"',
}
"""The commit of the rows to the audit branch, and the one that publishes them."""
COINS = 300


@dataclass
class Tally:
    """What all faults together did."""

    faults: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0


@dataclass
class Lineage:
    """The lake that is disturbed, and the one that is not.

    Attributes:
        stack: the servers.
        worker: runs the assets; what it sends goes through the proxies.
        s3: stands before MinIO.
        catalog: stands before the REST catalog.
        trino: stands before Trino.
        env: the environment of a process that works on the lake, past the proxies.
        undisturbed: the embedded lake.
        tally: what was counted so far.
    """

    stack: RunningStack
    worker: Worker
    s3: Proxy
    catalog: Proxy
    trino: Proxy
    env: dict[str, str]
    undisturbed: LocalLake
    tally: Tally = field(default_factory=Tally)
    wave: int = -1

    @property
    def disturbed(self) -> LakePlace:
        """The lake on the servers, opened anew: their secrets may be others now."""
        return lake_place(self.stack.settings, "live")

    def land(self) -> None:
        """Give both lakes the next raw files, and build the undisturbed one."""
        self.wave += 1
        self.worker.land(self.undisturbed.home, self.wave, COINS)
        ours, theirs = self.undisturbed.store, self.disturbed.store
        keys = {one.key for one in ours.list("")} - {one.key for one in theirs.list("")}
        for key in sorted(keys, key=lambda key: key.endswith("manifest.json")):
            theirs.put(key, ours.get(key))
        self.worker.build_undisturbed(self.undisturbed.home, TABLES)

    def run(self) -> Outcome:
        """Run the tables."""
        return self.worker.run(*ASSETS)

    def wait_for(self, server: str) -> None:
        """Wait until a server that was killed answers again."""
        assert until(lambda: self.stack.status(server).state == "running", 120)

    def mended(self, fault: str) -> None:
        """Run once more without a fault, and compare all rows."""
        again = self.run()
        assert again.success, again.errors
        self.compare(fault)

    def compare(self, fault: str) -> None:
        """Count what is missing and what is there twice; then all rows must be the same."""
        lake = self.disturbed
        for table in TABLES:
            assert AUDIT_BRANCH not in lake.open_catalog().load_table(identifier(table)).refs()
            ours, theirs = rows_of(self.undisturbed, table), rows_of(lake, table)
            assert ours.num_rows, "equal because empty proves nothing"
            expected, found = keys_of(ours, table), keys_of(theirs, table)
            self.tally.lost += (expected - found).total()
            self.tally.doubled += (found - expected).total()
            assert ours.to_pylist() == theirs.to_pylist(), f"{fault}: {table}"
        self.tally.faults.append(fault)


def rows_of(lake: LakePlace, table: str) -> pa.Table:
    loaded = lake.open_catalog().load_table(identifier(table)).scan().to_arrow()
    return loaded.sort_by([(key, "ascending") for key in all_specs()[table].keys])


def keys_of(rows: pa.Table, table: str) -> Counter[tuple[object, ...]]:
    keys = rows.select(all_specs()[table].keys).to_pydict()
    return Counter(zip(*keys.values(), strict=True))


@pytest.fixture(scope="module")
def lineage(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lineage]:
    """Empty the live lake, start a worker behind proxies, and build the first rows in both lakes."""
    folder = tmp_path_factory.mktemp("faults")
    empty(lake_place(stack.settings, "live"))
    addresses = stack.endpoints
    with ExitStack() as running:
        s3 = running.enter_context(Proxy(addresses["s3_endpoint"]).running())
        catalog = running.enter_context(Proxy(addresses["catalog_uri"]).running())
        trino = running.enter_context(Proxy(addresses["trino_url"]).running())
        home = {"DATAPLATFORM_ORIGIN": "live", "DAGSTER_HOME": str(stack.dagster_home)}
        env = stack.env | home
        proxied = {
            "DATAPLATFORM_S3_ENDPOINT": s3.address,
            "DATAPLATFORM_CATALOG_URI": f"{catalog.address}/{{origin}}",
            "DATAPLATFORM_TRINO_URL": trino.address,
        }
        runs = running.enter_context(worker(env | proxied, folder))
        lineage = Lineage(stack, runs, s3, catalog, trino, env, LocalLake(folder, "live"))
        lineage.land()
        assert lineage.run().success
        lineage.compare("none")
        lineage.tally.faults.clear()
        yield lineage
    empty(lake_place(stack.settings, "live"))


def empty(lake: LakePlace) -> None:
    """Remove all views, tables and raw files: a view that is there would not be deployed anew."""
    engine, catalog = lake.engine(), lake.open_catalog()
    for view in engine.deployed():
        engine.drop(view)
    for table in catalog.list_tables(NAMESPACE):
        catalog.drop_table(table)
    for stored in lake.store.list(""):
        lake.store.delete(stored.key)


@pytest.fixture(autouse=True)
def landed(lineage: Lineage) -> None:
    """Give each fault something to build."""
    lineage.land()


def killing(stack: RunningStack, server: str) -> Callable[[], None]:
    """Return what kills a server now, found beforehand: asking for its pid takes a while."""
    pid = stack.status(server).pid
    assert pid is not None
    return lambda: os.kill(pid, signal.SIGKILL)


def assert_struck(strike: Strike) -> None:
    assert strike.struck.is_set(), "the moment of the fault never came"
    assert strike.error is None, strike.error


def assert_clear(outcome: Outcome, stack: RunningStack) -> None:
    """Each failed attempt names a remedy, and nothing that was said a secret."""
    for error in outcome.errors:
        assert "Remedy: " in error, error
    values = secrets_of(stack)
    assert values
    assert not [value for value in values if value in outcome.said + "".join(outcome.errors)]


def secrets_of(stack: RunningStack) -> set[str]:
    with closing(open_vault(stack.plan, "setup")) as vault:
        return {
            value
            for path in SECRETS
            for name, value in vault.read(path).values.items()
            if name not in PUBLIC
        }


@contextmanager
def overwritten(stack: RunningStack, path: str, **wrong: str) -> Generator[None]:
    """Have Vault hold something else at `path` for the length of a `with`."""
    with closing(open_vault(stack.plan, "setup")) as vault:
        right = vault.read(path)
        vault.write(path, {**right.values, **wrong}, cas=right.version)
        try:
            yield
        finally:
            vault.write(path, right.values, cas=right.version + 1)


def test_minio_killed_during_a_write(lineage: Lineage) -> None:
    strike = lineage.s3.strike(DATA_FILE, killing(lineage.stack, "minio"))
    first = lineage.run()
    assert_struck(strike)
    # It may be back before the writer gives up; then the run succeeds.
    assert first.success or first.errors
    assert_clear(first, lineage.stack)
    lineage.mended("MinIO killed during a write")


def test_trino_killed_during_a_view_deployment(lineage: Lineage) -> None:
    assert lineage.run().success
    strike = lineage.trino.strike(
        "CREATE OR REPLACE VIEW", killing(lineage.stack, "trino"), "answered"
    )
    first = lineage.worker.run(f"analytics/{VIEW}")
    assert_struck(strike)
    assert_clear(first, lineage.stack)
    lineage.wait_for("trino")
    again = lineage.worker.run(f"analytics/{VIEW}")
    assert again.success, again.errors
    lineage.compare("Trino killed during a view deployment")
    assert answers(lineage.undisturbed) == answers(lineage.disturbed)


def answers(lake: LakePlace) -> list[tuple[object, ...]]:
    engine = lake.engine()
    if isinstance(lake, LocalLake):
        for spec in all_specs().values():
            ensure_table(lake.open_catalog(), spec)
        engine.deploy(all_views()[VIEW])
    return sorted(engine.query(f"SELECT coin_id FROM analytics.{VIEW}").rows)  # noqa: S608


def test_postgres_restarted_in_the_middle(lineage: Lineage) -> None:
    strike = lineage.s3.strike(DATA_FILE, lambda: lineage.stack.restart("postgres"))
    first = lineage.run()
    assert_struck(strike)
    assert_clear(first, lineage.stack)
    lineage.mended("PostgreSQL restarted in the middle")


def test_vault_sealed_in_the_middle_and_before(lineage: Lineage, tmp_path: Path) -> None:
    stack = lineage.stack
    values = secrets_of(stack)
    strike = lineage.s3.strike(DATA_FILE, lambda: seal(stack))
    first = lineage.run()
    assert_struck(strike)
    assert first.success, first.errors
    lineage.worker.land(lineage.undisturbed.home, lineage.wave, COINS)
    before = lineage.run()
    home = DagsterHome(tmp_path, stack.env, stack.dagster_home)
    anew = home.materialize(ASSETS[0])
    stack.restart("vault")
    assert not before.success
    assert anew.returncode != 0
    for said in (*before.errors, anew.stdout):
        assert "Vault is sealed. Remedy: " in said
        assert not [value for value in values if value in said]
    lineage.mended("Vault sealed in the middle")
    lineage.tally.faults.append("Vault sealed before")


def seal(stack: RunningStack) -> None:
    token = {"X-Vault-Token": stack.layout.root_token.read_text()}
    httpx.put(f"{stack.endpoints['vault_addr']}/v1/sys/seal", headers=token).raise_for_status()


def test_a_token_revoked_under_a_run(lineage: Lineage) -> None:
    # The key of the store is read before this request, and the login of the lock after it.
    strike = lineage.catalog.strike("GET /live/v1/config", lambda: revoke(lineage.stack))
    first = lineage.run()
    assert_struck(strike)
    assert first.success, first.errors
    lineage.mended("a token revoked under a run")


def revoke(stack: RunningStack) -> None:
    """Revoke every token that the platform got by a login."""
    with closing(open_vault(stack.plan, "setup")) as vault:
        accessors = vault.call("accessors", lambda v: v.list("auth/token/accessors"))
        revoked = 0
        for accessor in accessors["data"]["keys"]:
            found = vault.call("accessor", lambda v, a=accessor: v.auth.token.lookup_accessor(a))[
                "data"
            ]
            if "platform" in found["policies"]:
                vault.call("accessor", lambda v, a=accessor: v.auth.token.revoke_accessor(a))
                revoked += 1
    assert revoked


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        (
            "minio/platform",
            {"secret_key": "a-key-that-nobody-issued"},
            "the secret of the access key is wrong",
        ),
        (
            "postgres/dagster",
            {"password": "a-password-that-nobody-set"},
            "password authentication failed",
        ),
    ],
)
def test_a_wrong_secret(lineage: Lineage, path: str, wrong: dict[str, str], said: str) -> None:
    with overwritten(lineage.stack, path, **wrong):
        first = lineage.run()
        assert not first.success
        assert said in first.errors[-1]
        assert_clear(first, lineage.stack)
    lineage.mended(f"a wrong secret {path}")


def test_a_full_store(lineage: Lineage) -> None:
    admin = administrator(lineage.stack)
    strike = lineage.s3.strike(DATA_FILE, lambda: admin.set_quota("warehouse", 1))
    try:
        first = lineage.run()
    finally:
        admin.set_quota("warehouse", 0)
    assert_struck(strike)
    assert not first.success
    assert "its disk or the bucket's quota is full" in first.errors[0]
    assert_clear(first, lineage.stack)
    lineage.mended("a full store")


def administrator(stack: RunningStack) -> MinIOAdmin:
    with closing(open_vault(stack.plan, "setup")) as vault:
        root = vault.read("minio/root").values
    address = stack.endpoints["s3_endpoint"]
    return MinIOAdmin(S3Access(address, "us-east-1", root["access_key"], root["secret_key"]))


@pytest.fixture(scope="module")
def other(lineage: Lineage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A second process, which no proxy stands before."""
    with worker(lineage.env, tmp_path_factory.mktemp("other")) as second:
        # Nothing is left to build: its JVM is started.
        second.build_undisturbed(lineage.undisturbed.home, TABLES)
        yield second


def test_two_writers_at_once(lineage: Lineage, other: Worker) -> None:
    pair = [one.begin(*ASSETS) for one in (lineage.worker, other)]
    done = [future.result(timeout=300) for future in pair]
    assert all(one.success for one in done), [one.errors for one in done]
    published = [table for one in done for table in one.changed]
    assert sorted(published) == sorted(TABLES)
    lineage.mended("two writers at once")


def test_a_writer_that_lost_its_lock(lineage: Lineage, other: Worker) -> None:
    between: list[Outcome] = []

    def overtake() -> None:
        end_locks(lineage.stack)
        between.append(other.run(*ASSETS))

    # Not at the store: its client gives up after half a minute, and sends the file again.
    strike = lineage.catalog.strike(COMMITS["Spark"], overtake)
    first = lineage.run()
    assert_struck(strike)
    assert between[0].success, between[0].errors
    assert first.errors
    assert_clear(first, lineage.stack)
    lineage.mended("a writer that lost its lock")


def end_locks(stack: RunningStack) -> None:
    """End the connections that hold the writers' locks."""
    with closing(open_vault(stack.plan, "setup")) as vault:
        login = vault.read("postgres/superuser").values
    server = PostgresServer(stack.endpoints["postgres_url"], lambda: login)
    with closing(server.connect(login["username"], login["password"])) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            )
            assert cursor.rowcount == 1


@pytest.mark.parametrize("writer", ["Spark", "pyiceberg"])
@pytest.mark.parametrize("moment", ["before", "answered"])
def test_the_catalog_killed_during_a_commit(lineage: Lineage, writer: str, moment: Moment) -> None:
    strike = lineage.catalog.strike(COMMITS[writer], killing(lineage.stack, "catalog"), moment)
    first = lineage.run()
    assert_struck(strike)
    assert first.errors
    assert_clear(first, lineage.stack)
    lineage.mended(f"the catalog killed, commit by {writer}, {moment}")


def test_all_secrets_rotated_during_a_run(lineage: Lineage) -> None:
    outcomes: list[str] = []
    strike = lineage.s3.strike(DATA_FILE, lambda: outcomes.extend(rotate_all(lineage.stack)))
    first = lineage.run()
    assert_struck(strike)
    assert outcomes.count("rotated") == len(MINIO_USERS) + len(POSTGRES_LOGINS)
    assert first.success, first.errors
    assert_clear(first, lineage.stack)
    lineage.mended("all secrets rotated during a run")


def rotate_all(stack: RunningStack) -> list[str]:
    settings = stack.settings
    vault = VaultResource.for_rotation(settings)
    rotation = RotationResource(
        s3_endpoint=settings.s3_endpoint, postgres_url=settings.postgres_url
    )
    mechanism = Rotation(vault.client, timedelta(0))
    consumers = rotation.consumers(vault).values()
    return [mechanism.rotate(consumer).outcome for consumer in consumers]


def test_over_all_faults_no_row_is_lost_or_doubled(
    lineage: Lineage, record_testsuite_property: Callable[[str, object], None]
) -> None:
    tally = lineage.tally
    record_testsuite_property("faults", len(tally.faults))
    assert (tally.lost, tally.doubled) == (0, 0), tally.faults
