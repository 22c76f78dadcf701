"""TLS: a server whose authority is given is trusted, and no other."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplatform.vault.errors import VaultNotFoundError, VaultTlsError
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import OpenBao, running

pytestmark = pytest.mark.stack


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[OpenBao]:
    with running(tmp_path, certificate(tmp_path, "vault")) as server:
        yield server


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that is its own authority."""
    made, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def test_the_given_authority_is_trusted(vault: OpenBao, connect: Connect) -> None:
    with pytest.raises(VaultNotFoundError):
        connect(vault.root_token, auth="token").read("minio/platform")


@pytest.mark.parametrize("given", ["none", "another"])
def test_another_authority_is_not(
    vault: OpenBao, connect: Connect, tmp_path: Path, given: str
) -> None:
    other = str(certificate(tmp_path, "other")[0]) if given == "another" else None
    resource = connect(vault.root_token, auth="token", ca_file=other)
    with pytest.raises(VaultTlsError, match="DATAPLATFORM_VAULT_CA_FILE") as caught:
        resource.read("minio/platform")
    assert "certificate verify failed" in caught.value.cause


def test_a_plain_address_is_named(vault: OpenBao, connect: Connect) -> None:
    plain = vault.address.replace("https", "http")
    with pytest.raises(VaultTlsError, match="https:// in DATAPLATFORM_VAULT_ADDR"):
        connect(vault.root_token, auth="token", address=plain).read("minio/platform")


def test_an_authority_that_is_no_file_is_named(vault: OpenBao, connect: Connect) -> None:
    resource = connect(vault.root_token, auth="token", ca_file="/nowhere/ca.pem")
    with pytest.raises(VaultTlsError, match=r"/nowhere/ca\.pem"):
        resource.read("minio/platform")
