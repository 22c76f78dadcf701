"""Trino as a resource of Dagster: whose run asks, what it logs, and what ends with the run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetExecutionContext, DagsterInstance, asset, materialize
from pydantic import ValidationError

from dataplatform.lake.place import NotConfiguredError
from dataplatform.profiles import Settings
from dataplatform.resources.trino import SECRET, TrinoResource
from dataplatform_tests.trino.servers import PASSWORD, USER, Servers, token
from dataplatform_tests.trino.test_trino_client import wait_for

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


class Secrets:
    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.asked: list[str] = []

    def read(self, path: str) -> dict[str, str]:
        self.asked.append(path)
        return self.values


def test_a_secret_is_read_when_the_first_statement_is_sent(servers: Servers) -> None:
    ways = {
        "password": {"username": USER, "password": PASSWORD},
        "jwt": {"token": token(servers, USER)},
    }
    for auth, values in ways.items():
        settings = Settings.model_validate(
            {
                "trino_url": servers.trino_tls_url,
                "trino_user": USER,
                "trino_auth": auth,
                "trino_ca_file": servers.root / "trino/etc/ca.pem",
            }
        )
        secrets = Secrets(values)
        resource = TrinoResource.from_settings(settings)
        client = resource.client("lake", secrets)
        assert secrets.asked == []
        assert client.query("SELECT current_user AS u").rows == [(USER,)]
        assert secrets.asked == [SECRET]
        for value in set(values.values()) - {USER}:
            assert value not in f"{resource!r} {client!r}"


@pytest.mark.parametrize("fields", [{"url": "http://me:s3cret@trino"}, {"auth": "kerberos"}])
def test_what_dagster_would_store_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"put them into Vault|none, password") as refused:
        TrinoResource(**fields)
    assert "s3cret" not in str(refused.value)


def test_without_an_address_it_says_what_to_do() -> None:
    with pytest.raises(NotConfiguredError, match="dp stack up"):
        TrinoResource().query("SELECT 1")


def test_a_run_is_named_to_trino_and_sees_its_progress(
    servers: Servers, capfd: pytest.CaptureFixture[str]
) -> None:
    @asset
    def counted(context: AssetExecutionContext, trino: TrinoResource) -> None:
        assert trino.query("SELECT count(*) FROM tpch.tiny.nation").rows == [(25,)]
        tags = trino.client("lake", Secrets({})).server.client_tags
        assert tags == (f"dagster/run_id:{context.run.run_id}",)

    with DagsterInstance.ephemeral() as instance:
        resource = TrinoResource(url=servers.trino_url, catalog="lake")
        assert materialize([counted], instance=instance, resources={"trino": resource}).success
    assert re.search(r"Trino: \w+ FINISHED: .* 25 rows", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("way", "ended_by"),
    [("plain", signal.SIGINT), ("dagster", signal.SIGINT), ("dagster", signal.SIGTERM)],
)
def test_a_statement_ends_with_what_asked_for_it(
    servers: Servers, tmp_path: Path, way: str, ended_by: signal.Signals
) -> None:
    source = f"{way}-{ended_by.name}-{os.getpid()}"
    command = [sys.executable, "-m", "dataplatform_tests.trino.interrupted", way]
    with (tmp_path / "log").open("wb") as log:
        asking = subprocess.Popen([*command, servers.trino_url, source], stdout=log, stderr=log)
    try:
        wait_for(servers, source, "RUNNING")
        asking.send_signal(ended_by)
        assert asking.wait(60) != 0
    finally:
        asking.kill()
        asking.wait()
    assert wait_for(servers, source, "FAILED") == [("FAILED", "USER_CANCELED")]
