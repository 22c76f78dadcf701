"""What an address may say, and what becomes of its options on the way to PostgreSQL's clients."""

import pytest
from psycopg2.extensions import parse_dsn
from pydantic import ValidationError
from sqlalchemy import make_url

from dataplatform.addresses import in_database
from dataplatform.profiles import Settings
from dataplatform.resources.dagster_storage import storage_url
from dataplatform.resources.servers import PlatformServers
from dataplatform.stack.layout import Given
from dataplatform.vault.postgres import PostgresServer

TLS = "postgresql://db.example.org:5433?sslmode=verify-full&sslrootcert=/ca.pem"
KEYS = {"access_key": "a", "secret_key": "b", "username": "dagster-a", "password": "c"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("postgres_url", "postgresql://me:hunter2@db.example.org"),
        ("postgres_url", "postgresql://db.example.org/hunter2"),
        ("postgres_url", "postgresql://db.example.org?password=hunter2"),
        ("postgres_url", "postgresql://db.example.org:hunter2"),
        ("postgres_url", "db.example.org:hunter2"),
        ("vault_addr", "https://me:hunter2@vault.example.org"),
        ("vault_addr", "https://vault.example.org?token=hunter2"),
        ("s3_endpoint", "http://me:hunter2@minio.example.org:9000"),
        ("s3_endpoint", "http://minio.example.org/hunter2"),
        ("trino_url", "https://hunter2@trino.example.org"),
        ("catalog_uri", "https://me:hunter2@catalog.example.org/{origin}"),
        ("catalog_uri", "https://catalog.example.org/hunter2"),
        ("catalog_uri", "https://catalog.example.org/{origin}/{hunter2}"),
    ],
)
@pytest.mark.parametrize("settings", [Settings, Given])
def test_a_refused_address_is_named_and_not_repeated(
    settings: type[Settings | Given], name: str, value: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        settings.model_validate({name: value})
    assert name in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_addresses_as_servers_have_them_are_taken() -> None:
    taken = {
        "postgres_url": TLS,
        "vault_addr": "https://vault.example.org:8200/",
        "s3_endpoint": "http://127.0.0.1:9000",
        "trino_url": "https://trino.example.org",
        "catalog_uri": "https://catalog.example.org/api/{origin}",
    }
    settings = Settings.model_validate(taken)
    assert {name: getattr(settings, name) for name in taken} == taken


def test_a_database_keeps_the_options() -> None:
    assert in_database("postgres://[::1]:5432/?sslmode=require", "catalog") == (
        "postgresql://[::1]:5432/catalog?sslmode=require"
    )


def test_dagsters_database_is_reached_by_tls_where_the_address_says_so() -> None:
    class Secrets:
        def read(self, path: str) -> dict[str, str]:
            return KEYS

    settings = Settings.model_validate(
        {"postgres_url": TLS, "catalog_uri": "http://c/{origin}", "s3_endpoint": "http://m"}
    )
    expected = {"host": "db.example.org", "port": "5433", "dbname": "dagster"}
    tls = {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}
    found = parse_dsn(PlatformServers(settings, Secrets()).lock_dsn())
    assert found.items() >= (expected | tls).items()
    assert found["user"] == "dagster-a"
    url = make_url(storage_url(TLS))
    assert (url.host, url.port, url.database) == ("db.example.org", 5433, "dagster")
    assert url.query == tls | {"plugin": "dataplatform_vault"}


@pytest.mark.parametrize(
    ("address", "query"),
    [
        (TLS, "?sslmode=verify-full&sslrootcert=/ca.pem"),
        ("postgresql://127.0.0.1:5432", "?sslmode=disable"),
        ("postgresql://db.example.org:5432", ""),
    ],
)
def test_vault_leaves_tls_out_on_loopback_only(address: str, query: str) -> None:
    url = PostgresServer(address, dict).for_vault().url
    assert url.partition("/postgres")[2] == query
