"""`dp stack up` and servers of one's own: set up by their administrator, or taken as they are."""

import io
from contextlib import closing
from pathlib import Path

import pytest

from dataplatform.addresses import in_database
from dataplatform.resources.vault import VaultResource
from dataplatform.stack.bootstrap import initialise_vault
from dataplatform.stack.given import set_up_given
from dataplatform.stack.layout import Layout, Plan, StackError, VaultLogin
from dataplatform.vault.bootstrap import bootstrap
from dataplatform.vault.layout import platform_layout
from dataplatform.vault.postgres import PostgresServer
from dataplatform_tests.vault.openbao import OpenBao
from dataplatform_tests.vault.servers import Server, store

pytestmark = pytest.mark.stack


@pytest.fixture
def plan(
    vault: OpenBao, admin: VaultResource, postgres: Server, minio: Server, tmp_path: Path
) -> Plan:
    """A plan in which all that a run needs is the user's; Vault has its layout and no login yet."""
    bootstrap(admin.client, platform_layout())
    token = tmp_path / "token"
    token.write_text(vault.root_token)
    token.chmod(0o600)
    login = VaultLogin(method="token", role=None, credential_file=token)
    given = {"vault": vault.address, "postgres": postgres.address, "minio": minio.address}
    return Plan(given=given, logins={"setup": login}, vault_ca_file=vault.ca_file)


def test_a_postgres_of_the_users_own_gets_databases_logins_and_tables(
    plan: Plan, admin: VaultResource, postgres: Server
) -> None:
    with pytest.raises(StackError, match=r"into Vault at postgres/superuser.* postgres/trino"):
        set_up_given("postgres", plan)
    admin.write("postgres/superuser", postgres.admin, cas=1)
    assert set_up_given("postgres", plan) == "yours, set up"
    login = admin.read("postgres/catalog")
    server = PostgresServer(in_database(postgres.address, "catalog"), dict)
    with closing(server.connect(login["username"], login["password"])) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM iceberg_tables")
        assert cursor.fetchone() == (0,)
    # What works is taken, also when its administrator is known no more.
    admin.write("postgres/superuser", {"username": "gone", "password": "gone"}, cas=2)
    assert set_up_given("postgres", plan) == "yours, taken as it is"


def test_a_minio_of_the_users_own_gets_buckets_and_keys(
    plan: Plan, admin: VaultResource, minio: Server
) -> None:
    with pytest.raises(StackError, match=r"into Vault at minio/root.* minio/catalog"):
        set_up_given("minio", plan)
    admin.write("minio/root", minio.admin, cas=1)
    assert set_up_given("minio", plan) == "yours, set up"
    seen = {bucket.name for bucket in store(minio, admin.read("minio/catalog")).list_buckets()}
    assert seen >= {"warehouse", "warehouse-recorded"}


@pytest.mark.parametrize(
    ("server", "address", "setting"),
    [
        ("minio", "http://127.0.0.1:1", "DATAPLATFORM_S3_ENDPOINT"),
        ("postgres", "postgresql://127.0.0.1:1", "DATAPLATFORM_POSTGRES_URL"),
    ],
)
def test_a_server_that_does_not_answer_is_said_to_be_so(
    plan: Plan, server: str, address: str, setting: str
) -> None:
    away = plan.model_copy(update={"given": {**plan.given, server: address}})
    with pytest.raises(StackError, match=f"{address} did not answer. Remedy: .*{setting}"):
        set_up_given(server, away)


def test_a_refused_administrator_is_said_in_words(plan: Plan, admin: VaultResource) -> None:
    wrong = {"access_key": "gone", "secret_key": "gone-as-well"}
    admin.write("minio/root", wrong, cas=1)
    with pytest.raises(StackError, match="the store does not know this access key") as of_store:
        set_up_given("minio", plan)
    admin.write("postgres/superuser", {"username": "postgres", "password": "gone-as-well"}, cas=1)
    with pytest.raises(
        StackError, match='authentication failed for user "postgres"'
    ) as of_postgres:
        set_up_given("postgres", plan)
    for caught in (of_store, of_postgres):
        assert "gone-as-well" not in str(caught.value)
        assert "Error" not in str(caught.value)


def test_a_store_without_the_catalogs_files_is_warned_of(
    plan: Plan, admin: VaultResource, postgres: Server, minio: Server
) -> None:
    admin.write("postgres/superuser", postgres.admin, cas=1)
    admin.write("minio/root", minio.admin, cas=1)
    set_up_given("postgres", plan)
    assert set_up_given("minio", plan) == "yours, set up"
    location = "s3://warehouse/prices/metadata/1.metadata.json"
    values = "VALUES ('live', 'warehouse', 'prices', %s, NULL, 'TABLE')"
    in_catalog(postgres, "INSERT INTO iceberg_tables " + values, location)
    try:
        said = set_up_given("minio", plan)
        client = store(minio, admin.read("minio/platform"))
        key = location.removeprefix("s3://warehouse/")
        client.put_object("warehouse", key, io.BytesIO(b"{}"), 2)
        assert set_up_given("minio", plan) == "yours, set up"
    finally:
        in_catalog(postgres, "DELETE FROM iceberg_tables")
    assert f"Warning: the catalog has warehouse.prices, whose file {location} is not in" in said


def in_catalog(postgres: Server, statement: str, *values: str) -> None:
    server = PostgresServer(in_database(postgres.address, "catalog"), dict)
    login = postgres.admin
    with (
        closing(server.connect(login["username"], login["password"])) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement, values)


def test_a_vault_whose_root_token_was_lost_is_said_to_be_so(vault: OpenBao, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"root token is not in .*dp stack down --purge"):
        initialise_vault(Layout(tmp_path), vault.address)
