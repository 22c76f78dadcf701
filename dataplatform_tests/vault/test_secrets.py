"""Secrets by path: from the environment on `local`, from Vault elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplatform.lake.secrets import EnvironmentSecrets, MountedSecrets, SecretNotFoundError
from dataplatform.profiles import Settings
from dataplatform.resources.vault import VaultResource, open_secrets
from dataplatform.vault.errors import VaultSettingsError


def test_the_environment_answers_by_path() -> None:
    variables = {
        "DATAPLATFORM_MINIO_ROOT_ACCESS_KEY": "root",
        "DATAPLATFORM_MINIO_ROOT_SECRET_KEY": " s3cret\n",
    }
    found = EnvironmentSecrets(variables).read("minio/root")
    assert found == {"access_key": "root", "secret_key": "s3cret"}


def test_a_missing_variable_is_named_and_no_value_is() -> None:
    store = EnvironmentSecrets({"DATAPLATFORM_MINIO_ROOT_ACCESS_KEY": "r00t"})
    with pytest.raises(SecretNotFoundError, match="DATAPLATFORM_MINIO_ROOT_SECRET_KEY") as caught:
        store.read("minio/root")
    assert "r00t" not in str(caught.value)


def test_trinos_secret_is_a_login_or_a_token() -> None:
    token = {"DATAPLATFORM_TRINO_PLATFORM_TOKEN": "jwt"}
    assert EnvironmentSecrets(token).read("trino/platform") == {"token": "jwt"}
    with pytest.raises(SecretNotFoundError, match=r"set .*_USERNAME or .*_TOKEN"):
        EnvironmentSecrets({}).read("trino/platform")


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(SecretNotFoundError, match="ask for one of minio/root"):
        EnvironmentSecrets({}).read("minio/nobody")


def test_the_local_profile_reads_the_environment_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("DATAPLATFORM_COINGECKO_API_KEY=from-file\n")
    monkeypatch.delenv("DATAPLATFORM_COINGECKO_API_KEY", raising=False)
    store = open_secrets(Settings(profile="local"))
    assert store.read("coingecko") == {"api_key": "from-file"}
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "from-environment")
    assert open_secrets(Settings(profile="local")).read("coingecko")["api_key"] == (
        "from-environment"
    )


def test_the_other_profiles_ask_vault_and_only_when_asked(tmp_path: Path) -> None:
    settings = Settings(
        profile="stack",
        vault_addr="http://127.0.0.1:1",
        vault_role_id="platform",
        vault_credential_file=tmp_path / "nothing-there",
    )
    store = open_secrets(settings)
    assert isinstance(store, VaultResource)
    assert (store.address, store.auth, store.role_id) == (
        "http://127.0.0.1:1",
        "approle",
        "platform",
    )
    with pytest.raises(VaultSettingsError, match=r"nothing-there.*can't be read"):
        store.read("coingecko")


def test_rotation_logs_in_as_itself(tmp_path: Path) -> None:
    settings = Settings(
        vault_addr="http://127.0.0.1:1",
        vault_role_id="platform",
        vault_credential_file=tmp_path / "platform",
        vault_rotation_credential_file=tmp_path / "rotation",
    )
    resource = VaultResource.for_rotation(settings)
    assert (resource.role_id, resource.credential_file) == ("rotation", str(tmp_path / "rotation"))


def test_without_an_address_the_setting_is_named() -> None:
    with pytest.raises(VaultSettingsError, match="DATAPLATFORM_VAULT_ADDR"):
        VaultResource().read("coingecko")


def test_describing_vault_and_the_rotation_loads_no_client() -> None:
    script = (
        "import sys; import dataplatform.assets.rotation, dataplatform.resources.vault;"
        " sys.exit(', '.join({'hvac', 'minio', 'psycopg2', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    # dagster itself loads requests.
    assert set(done.stderr.strip().split(", ")) <= {"requests", ""}, done.stderr


@pytest.mark.parametrize(
    ("profile", "there"),
    [
        ("local", set()),
        ("stack", {"vault", "minio", "trino"}),
        ("cluster", {"vault", "minio", "trino"}),
    ],
)
def test_users_assets_may_ask_for_the_servers_where_there_are_any(
    profile: str, there: set[str], tmp_path: Path
) -> None:
    script = (
        "from dataplatform.definitions import defs;"
        "print(*sorted({'vault', 'minio', 'trino'} & set(defs.resources)));"
        "import sys; print(*sorted({'hvac', 'boto3', 'trino', 'pyspark', 'kubernetes'} & set(sys.modules)))"
    )
    own = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
    # Their addresses are not set: the servers are not up.
    env = own | {"DATAPLATFORM_PROFILE": profile, "DATAPLATFORM_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, env=env
    )
    resources, heavy = done.stdout.splitlines()
    assert set(resources.split()) == there
    assert heavy == ""


def test_mounted_files_answer_wherever_the_setting_names_them(tmp_path: Path) -> None:
    mount(tmp_path, "minio/platform", access_key="platform", secret_key="s3cret\n")
    store = open_secrets(Settings(profile="cluster", secrets_dir=tmp_path))
    assert store.read("minio/platform") == {"access_key": "platform", "secret_key": "s3cret"}
    mount(tmp_path, "minio/platform", secret_key="rotated")
    assert store.read("minio/platform")["secret_key"] == "rotated"


def test_a_missing_or_empty_file_is_named_and_no_value_is(tmp_path: Path) -> None:
    mount(tmp_path, "minio/platform", access_key="pl4tform", secret_key="\n")
    missing = tmp_path / "minio" / "platform" / "secret_key"
    with pytest.raises(SecretNotFoundError, match=rf"no file {missing}.*Remedy: mount") as caught:
        MountedSecrets(tmp_path).read("minio/platform")
    assert "pl4tform" not in str(caught.value)
    with pytest.raises(SecretNotFoundError, match="ask for one of minio/root"):
        MountedSecrets(tmp_path).read("../etc")


def test_a_mounted_catalog_login_has_either_form(tmp_path: Path) -> None:
    mount(tmp_path, "catalog/platform", token="jwt")
    assert MountedSecrets(tmp_path).read("catalog/platform") == {"token": "jwt"}
    with pytest.raises(SecretNotFoundError, match=r"username or .*/token"):
        MountedSecrets(tmp_path).read("trino/platform")


def mount(folder: Path, path: str, **values: str) -> None:
    """Lay files as the kubelet mounts a Secret."""
    (folder / path).mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / path / name).write_text(value)
