"""The resource against a real server: logins, versions, tokens that end, and each refusal."""

import signal
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from threading import Timer
from typing import Any

import hvac
import pytest
from hvac.exceptions import VaultError as HvacError

from dataplatform.resources.vault import VaultResource
from dataplatform.vault.errors import (
    VaultConflictError,
    VaultError,
    VaultForbiddenError,
    VaultLoginError,
    VaultNotFoundError,
    VaultRefusedError,
    VaultSealedError,
    VaultSettingsError,
    VaultTokenExpiredError,
    VaultUnreachableError,
)
from dataplatform_tests.servers import free_port
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import OpenBao

pytestmark = pytest.mark.stack

POLICY = """
path "dataplatform/data/minio/*" { capabilities = ["create", "read", "update"] }
path "dataplatform/metadata/minio/*" { capabilities = ["create", "read", "update"] }
path "dataplatform/data/coingecko" { capabilities = ["read"] }
"""
KEYS = {"access_key": "platform-a", "secret_key": "keys-in-vault"}
PASSWORD = "pass-of-a-user"
WRONG = "not-the-one"


@pytest.fixture
def root(vault: OpenBao) -> hvac.Client:
    """The administrator of a Vault with one secret and two login methods."""
    client = vault.root()
    client.sys.enable_secrets_engine("kv", "dataplatform", options={"version": "2"})
    client.sys.create_or_update_policy("reader", POLICY)
    client.sys.enable_auth_method("approle")
    client.sys.enable_auth_method("userpass")
    vault.wait_for_kv("minio/platform", KEYS)
    return client


@pytest.fixture
def secret_id(root: hvac.Client) -> str:
    return approle(root)


def approle(root: hvac.Client, **settings: Any) -> str:
    """Make the role `app` and return a secret id of it."""
    root.auth.approle.create_or_update_approle("app", token_policies=["reader"], **settings)
    root.auth.approle.update_role_id("app", "app")
    return root.auth.approle.generate_secret_id("app")["data"]["secret_id"]


def accessor(resource: VaultResource) -> str:
    """Return what names the token in use without being it."""
    found = resource.client.call("token", lambda vault: vault.auth.token.lookup_self())
    return found["data"]["accessor"]


def test_a_token_reads(root: hvac.Client, connect: Connect) -> None:
    token = root.auth.token.create(policies=["reader"])["auth"]["client_token"]
    assert connect(token, auth="token").read("minio/platform") == KEYS


def test_an_approle_reads(secret_id: str, connect: Connect) -> None:
    assert connect(secret_id, role_id="app").read("minio/platform") == KEYS


def test_a_user_reads(root: hvac.Client, connect: Connect) -> None:
    root.auth.userpass.create_or_update_user("ann", PASSWORD, ["reader"])
    resource = connect(PASSWORD, auth="userpass", role_id="ann")
    assert resource.read("minio/platform") == KEYS


def test_the_credential_may_come_from_the_environment(
    secret_id: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_VAULT_CREDENTIAL", secret_id)
    resource = connect("", role_id="app", credential_file=None)
    assert resource.read("minio/platform") == KEYS


@pytest.mark.parametrize("auth", ["approle", "userpass"])
def test_a_wrong_credential_is_a_refused_login(
    root: hvac.Client, secret_id: str, connect: Connect, auth: str
) -> None:
    with pytest.raises(VaultLoginError, match="DATAPLATFORM_VAULT_ROLE_ID") as caught:
        connect(WRONG, auth=auth, role_id="app").read("minio/platform")
    assert WRONG not in everything_said(caught.value)


def test_a_file_that_everybody_reads_is_refused(
    secret_id: str, connect: Connect, tmp_path: Path
) -> None:
    resource = connect(secret_id, role_id="app")
    Path(str(resource.credential_file)).chmod(0o644)
    with pytest.raises(VaultSettingsError, match="chmod 600"):
        resource.read("minio/platform")


def test_each_version_stays_readable(secret_id: str, connect: Connect) -> None:
    resource = connect(secret_id, role_id="app")
    after = {**KEYS, "secret_key": "another"}
    assert resource.write("minio/platform", after, cas=1) == 2
    assert resource.read("minio/platform") == after
    assert resource.read("minio/platform", version=1) == KEYS
    assert resource.secret("minio/platform").version == 2


def test_who_writes_on_what_is_not_the_last_version_is_told(
    secret_id: str, connect: Connect
) -> None:
    resource = connect(secret_id, role_id="app")
    for stale in (0, 2):
        with pytest.raises(VaultConflictError):
            resource.write("minio/platform", KEYS, cas=stale)
    assert resource.secret("minio/platform").version == 1


def test_a_secret_has_the_values_that_its_readers_expect(secret_id: str, connect: Connect) -> None:
    with pytest.raises(VaultRefusedError, match="access_key, secret_key, not token"):
        connect(secret_id, role_id="app").write("minio/platform", {"token": "t"}, cas=1)


def test_a_deleted_version_is_not_found_but_counts(
    root: hvac.Client, secret_id: str, connect: Connect
) -> None:
    resource = connect(secret_id, role_id="app")
    root.secrets.kv.v2.delete_latest_version_of_secret("minio/platform", mount_point="dataplatform")
    with pytest.raises(VaultNotFoundError):
        resource.read("minio/platform")
    assert resource.client.last_version("minio/platform") == 1
    assert resource.client.last_version("minio/nothing") == 0


def test_notes_are_added_to_a_secret(secret_id: str, connect: Connect) -> None:
    resource = connect(secret_id, role_id="app")
    resource.client.annotate("minio/platform", rotated_at="noon")
    resource.client.annotate("minio/platform", owner="ann")
    assert resource.secret("minio/platform").metadata == {"rotated_at": "noon", "owner": "ann"}


def test_absent_and_forbidden_are_told_apart(secret_id: str, connect: Connect) -> None:
    resource = connect(secret_id, role_id="app")
    with pytest.raises(VaultNotFoundError, match="secret minio/nobody"):
        resource.read("minio/nobody")
    with pytest.raises(VaultForbiddenError, match=r"secret postgres/superuser.*docs/vault\.md"):
        resource.read("postgres/superuser")


def test_a_token_is_renewed_before_it_ends(root: hvac.Client, connect: Connect) -> None:
    resource = connect(approle(root, token_ttl="3s", token_max_ttl="60s"), role_id="app")
    first = accessor(resource)
    for _ in range(3):
        time.sleep(2.2)
        assert accessor(resource) == first


def test_a_token_at_its_longest_is_replaced(root: hvac.Client, connect: Connect) -> None:
    resource = connect(approle(root, token_ttl="2s", token_max_ttl="3s"), role_id="app")
    first = accessor(resource)
    for _ in range(4):
        time.sleep(1)
        assert resource.read("minio/platform") == KEYS
    assert accessor(resource) != first


def test_a_revoked_token_is_replaced_in_the_middle(
    root: hvac.Client, secret_id: str, connect: Connect
) -> None:
    resource = connect(secret_id, role_id="app")
    first = accessor(resource)
    root.auth.token.revoke_accessor(first)
    assert resource.write("minio/platform", KEYS, cas=1) == 2
    assert accessor(resource) != first


def test_a_lost_token_that_nothing_replaces_is_expired_until_its_file_changes(
    root: hvac.Client, connect: Connect
) -> None:
    made = [root.auth.token.create(policies=["reader"])["auth"] for _ in range(2)]
    resource = connect(made[0]["client_token"], auth="token")
    resource.read("minio/platform")
    root.auth.token.revoke_accessor(made[0]["accessor"])
    with pytest.raises(VaultTokenExpiredError, match="DATAPLATFORM_VAULT_CREDENTIAL_FILE"):
        resource.read("minio/platform")
    Path(str(resource.credential_file)).write_text(made[1]["client_token"])
    assert resource.read("minio/platform") == KEYS


def test_the_token_ends_with_the_run(root: hvac.Client, secret_id: str, connect: Connect) -> None:
    resource = connect(secret_id, role_id="app")
    used = accessor(resource)
    resource.client.close()
    with pytest.raises(HvacError):
        root.auth.token.lookup_accessor(used)


def test_vault_sealed_in_the_middle_is_named_and_works_again_after(
    vault: OpenBao, root: hvac.Client, secret_id: str, connect: Connect
) -> None:
    resource = connect(secret_id, role_id="app", patience=30.0)
    resource.read("minio/platform")
    root.sys.seal()
    began = time.monotonic()
    with pytest.raises(VaultSealedError, match="unseal it"):
        resource.read("minio/platform")
    # A person has to act: waiting for one inside a request helps nobody.
    assert time.monotonic() - began < 5
    vault.unseal()
    assert resource.read("minio/platform") == KEYS


def test_nobody_there_is_unreachable_after_some_patience(connect: Connect) -> None:
    resource = connect("any", role_id="app", address=f"http://127.0.0.1:{free_port()}", patience=1)
    began = time.monotonic()
    with pytest.raises(VaultUnreachableError, match="DATAPLATFORM_VAULT_ADDR"):
        resource.read("minio/platform")
    assert 0.5 < time.monotonic() - began < 10


@pytest.fixture
def stall(vault: OpenBao) -> Generator[Any]:
    """Return a way to let the server hang for some seconds."""
    timers: list[Timer] = []

    def hang(seconds: float) -> None:
        vault.process.send_signal(signal.SIGSTOP)
        timers.append(Timer(seconds, vault.process.send_signal, (signal.SIGCONT,)))
        timers[-1].start()

    yield hang
    for timer in timers:
        timer.join()


def test_a_read_waits_for_a_server_that_hangs(secret_id: str, connect: Connect, stall: Any) -> None:
    resource = connect(secret_id, role_id="app", timeout=0.5, patience=20.0)
    resource.read("minio/platform")
    stall(2)
    assert resource.read("minio/platform") == KEYS


def test_a_write_whose_answer_is_lost_is_not_repeated(
    secret_id: str, connect: Connect, stall: Any
) -> None:
    resource = connect(secret_id, role_id="app", timeout=0.5, patience=20.0)
    resource.read("minio/platform")
    stall(2)
    # Repeated, it would meet its own first attempt and call it somebody else's.
    with pytest.raises(VaultUnreachableError) as caught:
        resource.write("minio/platform", KEYS, cas=1)
    assert caught.value.perhaps_done
    assert resource.secret("minio/platform").version in (1, 2)


def test_transit_gives_back_what_it_took(root: hvac.Client, admin: VaultResource) -> None:
    root.sys.enable_secrets_engine("transit")
    root.secrets.transit.create_key("dataplatform")
    ciphertext = admin.encrypt(b"\x00plain")
    assert ciphertext.startswith("vault:v1:")
    assert admin.decrypt(ciphertext) == b"\x00plain"
    root.secrets.transit.rotate_key("dataplatform")
    assert admin.decrypt(ciphertext) == b"\x00plain"
    with pytest.raises(VaultRefusedError):
        admin.decrypt("vault:v1:bm90IG9mIHRoaXMga2V5")


def test_nothing_shows_a_secret(
    root: hvac.Client, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    secret_id = approle(root)
    resource = connect(secret_id, role_id="app")
    found = resource.secret("minio/platform")
    session = resource.client.call("token", lambda vault: vault.token)
    said = [repr(resource), repr(vars(resource)), repr(found), str(found), caplog.text]
    said.append(resource.model_dump_json())
    for path in ("minio/nobody", "postgres/superuser"):
        with pytest.raises(VaultError) as caught:
            resource.read(path)
        said.append(everything_said(caught.value))
    with pytest.raises(VaultConflictError) as lost:
        resource.write("minio/platform", KEYS, cas=7)
    said.append(everything_said(lost.value))
    assert "minio/platform" in said[-1]
    for secret in (secret_id, session, KEYS["secret_key"]):
        assert len(secret) > 8
        assert [text for text in said if secret in text] == []


def everything_said(error: BaseException) -> str:
    """Return all that a traceback of the error and of its causes shows."""
    return "".join(traceback.format_exception(error)) + repr(error)
