from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dataplatform.resources.vault import VaultResource
from dataplatform_tests.vault.openbao import OpenBao, running


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Generator[OpenBao]:
    """One Vault for all tests, with the KV mount and each auth method."""
    with running(tmp_path_factory.mktemp("vault")) as server:
        root = server.root()
        root.sys.enable_secrets_engine("kv", "dataplatform", options={"version": "2"})
        for method in ("approle", "userpass"):
            root.sys.enable_auth_method(method)
        server.wait_until_active()
        yield server


@pytest.fixture
def connect(vault: OpenBao, tmp_path: Path) -> Generator[Callable[..., VaultResource]]:
    """Return a resource for a credential, which lies in a file only its owner reads."""
    made: list[VaultResource] = []

    def resource(credential: str, **fields: object) -> VaultResource:
        file = tmp_path / f"credential-{len(made)}"
        file.write_text(credential)
        file.chmod(0o600)
        named = {"address": vault.address, "credential_file": str(file), "patience": 1.0}
        made.append(VaultResource(**{**named, **fields}))
        return made[-1]

    yield resource
    for each in made:
        each.client.close()
