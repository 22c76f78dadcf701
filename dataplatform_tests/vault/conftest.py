from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dataplatform.resources.vault import VaultResource
from dataplatform_tests.vault import servers
from dataplatform_tests.vault.openbao import OpenBao, running

Connect = Callable[..., VaultResource]


@pytest.fixture
def vault(tmp_path: Path) -> Generator[OpenBao]:
    """A Vault that holds nothing yet."""
    with running(tmp_path) as server:
        yield server


@pytest.fixture
def connect(vault: OpenBao, tmp_path: Path) -> Generator[Connect]:
    """Return a resource for a credential, which lies in a file that only its owner reads."""
    with ExitStack() as opened:

        def resource(credential: str, **fields: object) -> VaultResource:
            file = tmp_path / f"credential-{len(list(tmp_path.glob('credential-*')))}"
            file.write_text(credential)
            file.chmod(0o600)
            defaults = {
                "address": vault.address,
                "credential_file": str(file),
                "ca_file": str(vault.ca_file) if vault.ca_file else None,
                "patience": 2.0,
            }
            made = VaultResource(**{**defaults, **fields})
            opened.callback(made.teardown_after_execution, None)
            return made

        yield resource


@pytest.fixture
def admin(vault: OpenBao, connect: Connect) -> VaultResource:
    return connect(vault.root_token, auth="token")


@pytest.fixture(scope="package")
def postgres() -> Generator[servers.Server]:
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="package")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Generator[servers.Server]:
    with servers.minio(tmp_path_factory.mktemp("minio")) as server:
        yield server
