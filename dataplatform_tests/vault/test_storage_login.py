"""Dagster's storage and the sharing of tokens, on a real Vault: one login, and the last value goes on."""

import logging
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from dataplatform.lake.secrets import SecretError
from dataplatform.profiles import Settings
from dataplatform.resources import dagster_storage
from dataplatform.resources import vault as vault_module
from dataplatform.resources.coingecko import CoinGeckoResource
from dataplatform.resources.dagster_storage import RememberedSecret, VaultS3ComputeLogs
from dataplatform.resources.vault import VaultResource, open_secrets
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.layout import platform_layout
from dataplatform_tests.servers import free_port
from dataplatform_tests.vault.openbao import OpenBao
from dataplatform_tests.vault.servers import Server

pytestmark = pytest.mark.stack

LOGIN = {"username": "nobody", "password": "first"}
KEY = {"access_key": "platform-a", "secret_key": "first-key"}


@pytest.fixture
def settings(
    vault: OpenBao, admin: VaultResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[Settings]:
    """A process of the profile stack, whose role is `platform`."""
    bootstrap(admin.client, platform_layout())
    admin.write("postgres/dagster", LOGIN, cas=0)
    admin.write("minio/platform", KEY, cas=0)
    file = tmp_path / "credential-platform"
    file.write_text(issue_secret_id(admin.client, "platform"))
    file.chmod(0o600)
    for name, value in {
        "PROFILE": "stack",
        "HOME": tmp_path,
        "VAULT_ADDR": vault.address,
        "VAULT_ROLE_ID": "platform",
        "VAULT_CREDENTIAL_FILE": file,
        "S3_ENDPOINT": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(f"DATAPLATFORM_{name}", str(value))
    yield Settings()
    vault_module.close_shared()


def test_a_key_in_vault_makes_the_tier_demo_and_is_sent(
    settings: Settings, admin: VaultResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The environment is where the profile local looks.
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "CG-elsewhere")

    def api() -> CoinGeckoResource:
        made = CoinGeckoResource.from_settings(settings)
        return made.model_copy(update={"state_folder": str(tmp_path)})

    assert api().tier_in_force == "keyless"
    admin.write("coingecko", {"api_key": "CG-in-vault"}, cas=0)
    assert api().tier_in_force == "demo"
    assert api().client.secret_headers == {"x-cg-demo-api-key": "CG-in-vault"}


def tokens(vault: OpenBao) -> int:
    listed = vault.root().list("auth/token/accessors")
    assert listed
    return len(listed["data"]["keys"])


def test_many_that_ask_at_once_share_one_token_that_ends_with_the_process(
    settings: Settings, vault: OpenBao
) -> None:
    before = tokens(vault)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: open_secrets(settings).read("minio/platform"), range(24)))
    assert tokens(vault) == before + 1
    vault_module.close_shared()
    assert tokens(vault) == before
    assert open_secrets(settings).read("minio/platform") == KEY


def test_a_fork_has_a_token_of_its_own_and_leaves_its_parents(
    settings: Settings, vault: OpenBao
) -> None:
    assert open_secrets(settings).read("minio/platform") == KEY
    before = tokens(vault)
    child = os.fork()
    if child == 0:
        done = open_secrets(settings).read("minio/platform") == KEY and tokens(vault) == before + 1
        vault_module.close_shared()
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert tokens(vault) == before
    assert open_secrets(settings).read("minio/platform") == KEY
    assert tokens(vault) == before


@pytest.mark.usefixtures("settings")
def test_the_last_value_goes_on_while_vault_is_sealed(
    vault: OpenBao, caplog: pytest.LogCaptureFixture
) -> None:
    login = RememberedSecret("postgres/dagster")
    assert login() == LOGIN
    vault.root().sys.seal()
    for _ in range(3):
        login.forget()
        assert login() == LOGIN
    [said] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "sealed" in said.getMessage()
    assert LOGIN["password"] not in caplog.text
    with pytest.raises(SecretError, match="sealed"):
        RememberedSecret("postgres/dagster")()


@pytest.mark.usefixtures("settings")
def test_the_log_manager_opens_without_vault_and_keeps_its_key(
    vault: OpenBao, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = RememberedSecret("minio/platform")
    monkeypatch.setattr(dagster_storage, "_key", key)
    vault.root().sys.seal()
    opened = VaultS3ComputeLogs(str(tmp_path))
    vault.unseal()
    credentials = opened._s3_session._request_signer._credentials  # noqa: SLF001
    assert credentials.get_frozen_credentials().access_key == KEY["access_key"]
    vault.root().sys.seal()
    key.forget()
    assert dagster_storage.fresh_key()["secret_key"] == KEY["secret_key"]


def attempt(address: str) -> None:
    place = address.removeprefix("postgresql://")
    url = f"postgresql+psycopg2://{place}/postgres?plugin=dataplatform_vault"
    engine = create_engine(url)
    with pytest.raises(Exception, match="Remedy"), engine.connect():
        pass
    engine.dispose()


@pytest.mark.usefixtures("settings")
def test_only_a_refused_login_is_asked_for_anew(
    postgres: Server, admin: VaultResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = RememberedSecret("postgres/dagster")
    monkeypatch.setattr(dagster_storage, "_login", login)
    attempt(f"postgresql://127.0.0.1:{free_port()}")
    mended = {"username": "postgres", "password": "second"}
    admin.write("postgres/dagster", mended, cas=1)
    assert login() == LOGIN
    attempt(postgres.address)
    assert login() == mended
