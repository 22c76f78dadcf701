"""Rotation on real servers: the old secret goes on, a killed rotation is finished, two are one."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import psycopg2
import pytest
from dagster import DagsterInstance
from minio.error import S3Error
from psycopg2.extensions import connection as Connection

from dataplatform.assets.rotation import build_rotation_job, build_rotation_schedule
from dataplatform.lake.store.s3 import S3Access
from dataplatform.resources.rotation import RotationResource
from dataplatform.resources.vault import VaultResource
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.consumers import CoinGeckoKey, MinioUser, PostgresLogin
from dataplatform.vault.layout import platform_layout
from dataplatform.vault.postgres import PostgresServer
from dataplatform.vault.rotation import Rotatable, Rotated, Rotation, RotationError
from dataplatform_tests.coingecko_server import CoinGeckoServer
from dataplatform_tests.minio.servers import versitygw
from dataplatform_tests.servers import free_port
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import OpenBao
from dataplatform_tests.vault.servers import Server, store

pytestmark = pytest.mark.stack

AT_ONCE = timedelta(0)
WEEK = timedelta(days=7)
GOOD_KEY = "CG-the-key-that-works"
BAD_KEY = "CG-a-key-mistyped"
HEADER = "x-cg-demo-api-key"


@pytest.fixture
def vault_resource(admin: VaultResource, connect: Connect) -> VaultResource:
    """The role `rotation`, with its own policy and no more."""
    bootstrap(admin.client, platform_layout())
    return connect(issue_secret_id(admin.client, "rotation"), role_id="rotation")


@pytest.fixture
def keys(minio: Server) -> MinioUser:
    return MinioUser("platform", minio.address, lambda: minio.admin)


@pytest.fixture
def login(postgres: Server) -> PostgresLogin:
    return PostgresLogin("dagster", PostgresServer(postgres.address, lambda: postgres.admin))


def rotate(resource: VaultResource, consumer: Rotatable, min_age: timedelta = AT_ONCE) -> Rotated:
    return Rotation(resource.client, min_age).rotate(consumer)


def session(login: PostgresLogin, secret: Mapping[str, str]) -> Connection:
    return login.server.connect(secret["username"], secret["password"])


def one(connection: Connection, statement: str) -> object:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
    assert row
    return row[0]


def test_minios_keys_change_and_the_old_ones_go_on(
    vault_resource: VaultResource, keys: MinioUser, minio: Server
) -> None:
    used: list[Mapping[str, str]] = []
    for version, user in enumerate(["platform-a", "platform-b", "platform-a"], start=1):
        done = rotate(vault_resource, keys)
        assert (done.outcome, done.version) == ("rotated", version)
        used.append(vault_resource.read("minio/platform"))
        assert used[-1]["access_key"] == user
        # A run that began before goes on writing with what it read then.
        for secret in used[-2:]:
            assert store(minio, secret).bucket_exists(bucket_name="datalake")
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        next(iter(store(minio, used[0]).list_objects(bucket_name="datalake")))


def test_new_keys_may_what_the_policy_says(
    vault_resource: VaultResource, keys: MinioUser, minio: Server
) -> None:
    rotate(vault_resource, keys)
    platform = store(minio, vault_resource.read("minio/platform"))
    with pytest.raises(S3Error, match="AccessDenied"):
        platform.make_bucket(bucket_name="elsewhere")


def test_postgres_logins_change_and_sessions_go_on(
    vault_resource: VaultResource, login: PostgresLogin
) -> None:
    rotate(vault_resource, login)
    first = vault_resource.read("postgres/dagster")
    with closing(session(login, first)) as running:
        rotate(vault_resource, login)
        second = vault_resource.read("postgres/dagster")
        assert {first["username"], second["username"]} == {"dagster-a", "dagster-b"}
        assert one(running, "SELECT 1") == 1
        for secret in (first, second):
            with closing(session(login, secret)) as again:
                # Both act as the group, which owns what either makes.
                assert one(again, "SELECT current_user::text") == "dagster"
        rotate(vault_resource, login)
        assert one(running, "SELECT 1") == 1
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        session(login, first)
    with closing(session(login, second)) as still:
        assert one(still, "SELECT 1") == 1


def test_what_one_slot_makes_the_other_changes(
    vault_resource: VaultResource, login: PostgresLogin, postgres: Server
) -> None:
    rotate(vault_resource, login)
    with closing(login.server.connect(*postgres.admin.values())) as superuser:
        one(superuser, "GRANT ALL ON SCHEMA public TO dagster; SELECT 1")
    with closing(session(login, vault_resource.read("postgres/dagster"))) as first:
        one(first, "DROP TABLE IF EXISTS runs; CREATE TABLE runs (id int); SELECT 1")
    rotate(vault_resource, login)
    with closing(session(login, vault_resource.read("postgres/dagster"))) as second:
        assert one(second, "ALTER TABLE runs ADD COLUMN tag text; SELECT 1") == 1


def test_a_secret_too_young_is_left(vault_resource: VaultResource, login: PostgresLogin) -> None:
    first = rotate(vault_resource, login, WEEK)
    again = rotate(vault_resource, login, WEEK)
    assert (first.outcome, again.outcome) == ("rotated", "young")
    assert again.version == first.version == 1
    assert again.rotated_at == first.rotated_at


def test_when_it_was_rotated_stands_beside_the_secret(
    vault_resource: VaultResource, login: PostgresLogin
) -> None:
    for _ in range(2):
        done = rotate(vault_resource, login)
        found = vault_resource.secret("postgres/dagster")
        assert done.rotated_at == found.created_at
        assert found.metadata["rotated_at"] == found.created_at.isoformat()


class Killed(BaseException):
    """The process ends here."""


class KilledAt:
    """A consumer whose rotation is killed at one step."""

    def __init__(self, consumer: Rotatable, step: str) -> None:
        self._consumer = consumer
        self._step = step
        self.path = consumer.path

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str] | None:
        return self._consumer.propose(current)

    def install(self, secret: Mapping[str, str]) -> None:
        if self._step == "before install":
            raise Killed
        self._consumer.install(secret)
        if self._step == "after install":
            raise Killed

    def verify(self, secret: Mapping[str, str]) -> None:
        self._consumer.verify(secret)
        if self._step == "after verify":
            raise Killed


@pytest.mark.parametrize("step", ["before install", "after install", "after verify"])
def test_a_killed_rotation_is_finished_by_the_next(
    vault_resource: VaultResource, login: PostgresLogin, step: str
) -> None:
    rotate(vault_resource, login)
    before = vault_resource.read("postgres/dagster")
    with pytest.raises(Killed):
        rotate(vault_resource, KilledAt(login, step))
    assert vault_resource.read("postgres/dagster") == before
    session(login, before).close()
    staged = vault_resource.secret("rotation/postgres/dagster")
    # Although the current one is young: what was begun is ended.
    assert rotate(vault_resource, login, WEEK).outcome == "rotated"
    after = vault_resource.secret("postgres/dagster")
    assert (after.version, after.values) == (2, staged.values)
    for secret in (before, after.values):
        session(login, secret).close()
    assert rotate(vault_resource, login, WEEK).outcome == "young"


class Together:
    """A consumer whose rotations meet after each has installed its secret."""

    def __init__(self, consumer: Rotatable) -> None:
        self._consumer = consumer
        self._meet = Barrier(2)
        self.path = consumer.path

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str] | None:
        return self._consumer.propose(current)

    def verify(self, secret: Mapping[str, str]) -> None:
        self._consumer.verify(secret)

    def install(self, secret: Mapping[str, str]) -> None:
        self._consumer.install(secret)
        self._meet.wait(60)


def test_two_rotations_at_once_write_one_version_that_works(
    vault_resource: VaultResource, login: PostgresLogin
) -> None:
    rotate(vault_resource, login)
    before = vault_resource.read("postgres/dagster")
    together = Together(login)
    # `WEEK` would keep both from starting: the first secret is a moment old.
    with pytest.raises(Killed):
        rotate(vault_resource, KilledAt(login, "before install"))
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(rotate, vault_resource, together, WEEK) for _ in range(2)]
        done = [each.result(60) for each in running]
    assert sorted(each.outcome for each in done) == ["rotated", "young"]
    assert [each.version for each in done] == [2, 2]
    for secret in (before, vault_resource.read("postgres/dagster")):
        session(login, secret).close()


def test_two_first_rotations_at_once_stage_one_secret(
    vault_resource: VaultResource, login: PostgresLogin
) -> None:
    together = Together(login)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(rotate, vault_resource, together, WEEK) for _ in range(2)]
        done = [each.result(60) for each in running]
    assert [each.version for each in done] == [1, 1]
    assert vault_resource.client.last_version("rotation/postgres/dagster") == 1
    session(login, vault_resource.read("postgres/dagster")).close()


class Overtaken:
    """A consumer for which another rotation begins and ends at one step of this one."""

    def __init__(self, consumer: Rotatable, step: str, other: Callable[[], object]) -> None:
        self._consumer = consumer
        self._overtake = {step: other}
        self.path = consumer.path

    def propose(self, current: Mapping[str, str]) -> Mapping[str, str] | None:
        self._overtake.pop("propose", int)()
        return self._consumer.propose(current)

    def install(self, secret: Mapping[str, str]) -> None:
        self._overtake.pop("install", int)()
        self._consumer.install(secret)

    def verify(self, secret: Mapping[str, str]) -> None:
        self._overtake.pop("verify", int)()
        self._consumer.verify(secret)


@pytest.mark.parametrize("step", ["propose", "install", "verify"])
def test_a_rotation_that_is_overtaken_leaves_what_the_other_made(
    vault_resource: VaultResource, login: PostgresLogin, step: str
) -> None:
    made: list[Mapping[str, str]] = []

    def other() -> None:
        assert rotate(vault_resource, login, WEEK).outcome == "rotated"
        made.append(vault_resource.read("postgres/dagster"))

    done = rotate(vault_resource, Overtaken(login, step, other), WEEK)
    assert (done.outcome, done.version) == ("young", 1)
    assert [vault_resource.read("postgres/dagster")] == made
    session(login, made[0]).close()


def test_a_server_that_is_not_there_leaves_the_current_secret(
    vault_resource: VaultResource, keys: MinioUser, minio: Server
) -> None:
    rotate(vault_resource, keys)
    gone = MinioUser("platform", f"http://127.0.0.1:{free_port()}", lambda: minio.admin)
    with pytest.raises(RotationError, match=r"did not take the new keys.*Remedy: check minio/root"):
        rotate(vault_resource, gone)
    assert vault_resource.secret("minio/platform").version == 1


@pytest.fixture(scope="package")
def versitygw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Access]:
    with versitygw(tmp_path_factory.mktemp("versitygw") / "data") as access:
        yield access


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"access_key": "nobody"}, "refuses the signature"),
        ({"secret_key": "mistyped"}, "refuses the signature"),
        (
            {"region": "elsewhere"},
            "AuthorizationHeaderMalformed|CredentialScope|InvalidRegion|refuses",
        ),
    ],
)
def test_only_keys_that_a_store_takes_are_good(
    versitygw_server: S3Access, change: dict[str, str], code: str
) -> None:
    whole = replace(versitygw_server, **change)
    user = MinioUser("platform", whole.endpoint, dict, whole.region)
    secret = {"access_key": whole.access_key, "secret_key": whole.secret_key}
    with pytest.raises(RotationError, match=code):
        user.verify(secret)
    good = versitygw_server
    user = MinioUser("platform", good.endpoint, dict, good.region)
    user.verify({"access_key": good.access_key, "secret_key": good.secret_key})


def test_keys_to_another_store_are_left_and_the_job_says_so(
    resources: dict[str, object], versitygw_server: S3Access, admin: VaultResource
) -> None:
    rotation = RotationResource(s3_endpoint=versitygw_server.endpoint)
    with DagsterInstance.ephemeral() as instance:
        assert run_job({**resources, "rotation": rotation}, instance)
        said = "\n".join(str(each) for each in instance.all_logs(instance.get_runs()[0].run_id))
    for path in ("minio/platform", "minio/trino", "minio/catalog", "minio/inbox"):
        assert f"{path}: left, as {versitygw_server.endpoint} is no MinIO" in said
        assert admin.client.last_version(path) == 0
    assert "another store" in said


def test_a_wrong_administrator_is_named(vault_resource: VaultResource, postgres: Server) -> None:
    wrong = {**postgres.admin, "password": "mistyped"}
    login = PostgresLogin("dagster", PostgresServer(postgres.address, lambda: wrong))
    with pytest.raises(RotationError, match="check postgres/superuser in Vault") as caught:
        rotate(vault_resource, login)
    assert wrong["password"] not in str(caught.value)


def stage(admin: VaultResource, key: str) -> None:
    last = admin.client.last_version("rotation/coingecko")
    admin.write("rotation/coingecko", {"api_key": key}, cas=last)


def test_a_coingecko_key_waits_for_a_person_and_is_tried_first(
    vault_resource: VaultResource, admin: VaultResource
) -> None:
    with CoinGeckoServer(key=GOOD_KEY) as api:
        consumer = CoinGeckoKey(api.url, HEADER)
        assert rotate(vault_resource, consumer) == Rotated("coingecko", "waiting", 0, None)
        stage(admin, BAD_KEY)
        with pytest.raises(RotationError, match="HTTP 401, code 10002") as caught:
            rotate(vault_resource, consumer)
        assert BAD_KEY not in str(caught.value)
        assert admin.client.last_version("coingecko") == 0
        stage(admin, GOOD_KEY)
        assert rotate(vault_resource, consumer).outcome == "rotated"
        assert admin.read("coingecko") == {"api_key": GOOD_KEY}
        assert rotate(vault_resource, consumer).outcome == "waiting"


@pytest.mark.parametrize("key", ["", "zwei\nZeilen", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_unsent(key: str) -> None:
    with CoinGeckoServer(key=GOOD_KEY) as api:
        with pytest.raises(RotationError, match="no header can carry it"):
            CoinGeckoKey(api.url, HEADER).verify({"api_key": key})
        assert api.paths() == []


@pytest.fixture
def resources(
    vault_resource: VaultResource, admin: VaultResource, minio: Server, postgres: Server
) -> dict[str, object]:
    """What the job needs; the administrators' secrets are those of the running servers."""
    for path, server in {"minio/root": minio, "postgres/superuser": postgres}.items():
        admin.write(path, server.admin, cas=1)
    rotation = RotationResource(
        s3_endpoint=minio.address,
        postgres_url=postgres.address,
        minio_users=["platform"],
        postgres_logins=["dagster", "trino"],
    )
    return {"rotation": rotation, "rotation_vault": vault_resource}


def run_job(resources: dict[str, object], instance: DagsterInstance, **config: object) -> bool:
    ops = {"ops": {"rotate_secrets": {"config": config}}}
    return (
        build_rotation_job()
        .execute_in_process(
            run_config=ops,
            resources=resources,
            instance=instance,
            raise_on_error=False,
        )
        .success
    )


def test_the_job_rotates_all_and_leaves_no_secret_in_dagster(
    resources: dict[str, object], admin: VaultResource, tmp_path: Path, vault: OpenBao
) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert run_job(resources, instance)
        assert run_job(resources, instance)
        assert run_job(resources, instance, min_age_days=0)
        events = [event for run in instance.get_runs() for event in instance.all_logs(run.run_id)]
    said = "\n".join(map(str, events))
    paths = ["minio/platform", "postgres/dagster", "postgres/trino"]
    for path in paths:
        assert admin.secret(path).version == 2
        assert f"{path}: rotated, version 2" in said
        assert f"{path}: young, version 1; less than 7 days old (min_age_days)" in said
    assert "coingecko: waiting, none is current; no new one is staged at rotation/coingecko" in said
    stored = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if is_dagsters(file))
    assert b"minio/platform" in stored
    for path in [*paths, "minio/root", "postgres/superuser"]:
        for secret in admin.read(path).values():
            if len(secret) > 20:
                assert secret.encode() not in stored
    assert vault.root_token.encode() not in stored


def is_dagsters(file: Path) -> bool:
    """Whether the file is not the test's own: a credential, or Vault's configuration."""
    return file.is_file() and not file.name.startswith(("credential-", "openbao."))


def test_one_that_fails_does_not_keep_the_others_and_fails_the_run(
    resources: dict[str, object], admin: VaultResource, postgres: Server
) -> None:
    elsewhere = RotationResource(
        s3_endpoint=f"http://127.0.0.1:{free_port()}",
        postgres_url=postgres.address,
        minio_users=["platform"],
        postgres_logins=["dagster"],
    )
    broken = {**resources, "rotation": elsewhere}
    with DagsterInstance.ephemeral() as instance:
        assert not run_job(broken, instance)
        said = "\n".join(str(each) for each in instance.all_logs(instance.get_runs()[0].run_id))
    assert "rotation of minio/platform: MinIO" in said
    assert admin.secret("postgres/dagster").version == 1
    assert admin.client.last_version("minio/platform") == 0
    with DagsterInstance.ephemeral() as instance:
        assert run_job(resources, instance)
    assert admin.secret("minio/platform").version == 1
    assert admin.secret("postgres/dagster").version == 1


def test_an_unknown_secret_is_refused_before_anything_is_rotated(
    resources: dict[str, object], admin: VaultResource
) -> None:
    with DagsterInstance.ephemeral() as instance:
        assert not run_job(resources, instance, secrets=["minio/platform", "minio/nobody"])
    assert admin.client.last_version("minio/platform") == 0


def test_the_schedule_is_monthly_and_stopped() -> None:
    schedule = build_rotation_schedule(build_rotation_job())
    assert schedule.default_status.value == "STOPPED"
    assert schedule.cron_schedule == "20 4 1 * *"


def test_no_server_logs_a_new_secret(
    vault_resource: VaultResource,
    keys: MinioUser,
    login: PostgresLogin,
    minio: Server,
    postgres: Server,
) -> None:
    rotate(vault_resource, keys)
    rotate(vault_resource, login)
    # It logs every statement: the role's name is there.
    assert "dagster-a" in postgres.log.read_text()
    assert vault_resource.read("postgres/dagster")["password"] not in postgres.log.read_text()
    assert vault_resource.read("minio/platform")["secret_key"] not in minio.log.read_text()
