"""Logins that Vault makes in PostgreSQL: they work, live as long as they are used, and then end."""

import logging
import time
from contextlib import closing

import psycopg2
import pytest

from dataplatform.resources.vault import VaultResource
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.errors import VaultForbiddenError, VaultLeaseExpiredError
from dataplatform.vault.layout import platform_layout
from dataplatform.vault.leases import DatabaseCredentials
from dataplatform.vault.postgres import PostgresServer
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import OpenBao
from dataplatform_tests.vault.servers import Server

pytestmark = pytest.mark.stack


@pytest.fixture
def server(postgres: Server) -> PostgresServer:
    return PostgresServer(postgres.address, lambda: postgres.admin)


@pytest.fixture
def platform(server: PostgresServer, admin: VaultResource, connect: Connect) -> VaultResource:
    """The role `platform` of a Vault that makes logins in a real PostgreSQL."""
    bootstrap(admin.client, platform_layout(database=server.for_vault()))
    return connect(issue_secret_id(admin.client, "platform"), role_id="platform")


def shorten(vault: OpenBao, default: str, longest: str) -> None:
    role = vault.root().read("database/roles/reader")
    assert role
    lives = {"default_ttl": default, "max_ttl": longest}
    vault.root().write_data("database/roles/reader", data={**role["data"], **lives})


def log_in(server: PostgresServer, credentials: DatabaseCredentials) -> str:
    connection = server.connect(credentials.username, credentials.password)
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT pg_has_role(current_user, 'reader', 'member')::text")
        found = cursor.fetchone()
    assert found
    return found[0]


def test_a_login_works_inside_and_is_refused_after(
    platform: VaultResource, server: PostgresServer
) -> None:
    with platform.database_credentials("reader") as credentials:
        assert log_in(server, credentials) == "true"
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        log_in(server, credentials)
    with pytest.raises(VaultLeaseExpiredError, match="ask for new credentials"):
        credentials.lease.renew()


def test_a_session_left_open_ends_with_the_login(
    platform: VaultResource, server: PostgresServer
) -> None:
    with platform.database_credentials("reader") as credentials:
        left = server.connect(credentials.username, credentials.password)
    with closing(left), pytest.raises(psycopg2.OperationalError), left.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_an_error_inside_gives_the_login_back_too(
    platform: VaultResource, server: PostgresServer
) -> None:
    with pytest.raises(ZeroDivisionError), platform.database_credentials("reader") as credentials:
        raise ZeroDivisionError
    with pytest.raises(psycopg2.OperationalError):
        log_in(server, credentials)


def test_a_login_that_is_gone_already_can_be_given_back(
    platform: VaultResource, server: PostgresServer, postgres: Server
) -> None:
    with platform.database_credentials("reader") as credentials:
        connection = server.connect(*postgres.admin.values())
        with closing(connection), connection, connection.cursor() as cursor:
            cursor.execute(f'DROP ROLE "{credentials.username}"')
        credentials.lease.revoke()
    with pytest.raises(VaultLeaseExpiredError):
        credentials.lease.renew()


def test_a_lease_is_renewed_while_it_is_used(
    platform: VaultResource, server: PostgresServer, vault: OpenBao
) -> None:
    shorten(vault, "2s", "60s")
    with platform.database_credentials("reader") as credentials:
        time.sleep(5)
        assert log_in(server, credentials) == "true"


def test_a_lease_at_its_longest_ends_and_says_so(
    platform: VaultResource,
    server: PostgresServer,
    vault: OpenBao,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shorten(vault, "1s", "2s")
    with platform.database_credentials("reader") as credentials:
        time.sleep(5)
        with pytest.raises(psycopg2.OperationalError):
            log_in(server, credentials)
    warnings = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert any("the lease is over or revoked" in text for text in warnings)
    assert credentials.password not in caplog.text


def test_a_vault_that_is_sealed_meanwhile_does_not_fail_who_used_the_login(
    platform: VaultResource,
    server: PostgresServer,
    vault: OpenBao,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with platform.database_credentials("reader") as credentials:
        vault.root().sys.seal()
        assert log_in(server, credentials) == "true"
    assert "Vault is sealed" in caplog.text
    assert "ends by itself" in caplog.text


def test_the_password_shows_nowhere(
    platform: VaultResource, postgres: Server, server: PostgresServer
) -> None:
    with platform.database_credentials("reader") as credentials:
        log_in(server, credentials)
        assert credentials.password not in repr(credentials)
        # The server logs every statement.
        assert credentials.username in postgres.log.read_text()
        assert credentials.password not in postgres.log.read_text()


def test_other_consumers_get_no_login(
    platform: VaultResource, admin: VaultResource, connect: Connect
) -> None:
    trino = connect(issue_secret_id(admin.client, "trino"), role_id="trino")
    with pytest.raises(VaultForbiddenError), trino.database_credentials("reader"):
        pass


def test_a_second_bootstrap_leaves_vaults_own_password(
    platform: VaultResource, server: PostgresServer, admin: VaultResource
) -> None:
    assert bootstrap(admin.client, platform_layout(database=server.for_vault())) == []
    with platform.database_credentials("reader") as credentials:
        assert log_in(server, credentials) == "true"
