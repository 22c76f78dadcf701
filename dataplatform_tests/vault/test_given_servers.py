"""`dp stack up` and servers of one's own: set up by their administrator, or taken as they are."""

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


def test_a_vault_whose_root_token_was_lost_is_said_to_be_so(vault: OpenBao, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"root token is not in .*dp stack down --purge"):
        initialise_vault(Layout(tmp_path), vault.address)
