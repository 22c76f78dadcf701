"""The layout on a real Vault: what it makes, that a second time changes nothing, who may read what."""

from collections.abc import Callable, Mapping

import pytest

from dataplatform.lake.secrets import SECRETS
from dataplatform.resources.vault import VaultResource
from dataplatform.stack.bootstrap import APP_ROLES, vault_layout
from dataplatform.vault.bootstrap import bootstrap, issue_secret_id
from dataplatform.vault.errors import (
    VaultConflictError,
    VaultForbiddenError,
    VaultNotFoundError,
    VaultRefusedError,
)
from dataplatform.vault.layout import CONSUMERS, platform_layout
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import OpenBao

pytestmark = pytest.mark.stack

Changes = Callable[[], list[str]]


@pytest.fixture
def changes(admin: VaultResource) -> Changes:
    """Return a way to bring Vault to its layout and hear what was changed."""
    return lambda: [str(change) for change in bootstrap(admin.client, platform_layout())]


@pytest.fixture
def as_consumer(changes: Changes, admin: VaultResource, connect: Connect) -> Connect:
    changes()
    return lambda role: connect(issue_secret_id(admin.client, role), role_id=role)


def test_everything_is_made_once(changes: Changes) -> None:
    first = changes()
    assert {"made sys/mounts/dataplatform", "made sys/policies/acl/rotation"} <= set(first)
    assert {"made minio/root", "made postgres/superuser"} <= set(first)
    assert changes() == []


def test_what_somebody_changed_is_mended_and_only_that_is_named(
    changes: Changes, vault: OpenBao
) -> None:
    changes()
    root = vault.root()
    root.sys.create_or_update_policy("trino", 'path "*" { capabilities = ["read"] }')
    root.auth.approle.delete_role("catalog")
    assert changes() == [
        "changed sys/policies/acl/trino",
        "made auth/approle/role/catalog",
        "changed auth/approle/role/catalog/role-id",
    ]
    assert changes() == []


def test_a_secret_that_is_there_stays(changes: Changes, admin: VaultResource) -> None:
    changes()
    own = {"access_key": "ours", "secret_key": "from-elsewhere"}
    admin.write("minio/root", own, cas=1)
    changes()
    assert admin.read("minio/root") == own


def test_initial_secrets_differ_from_one_vault_to_the_next(
    changes: Changes, admin: VaultResource
) -> None:
    changes()
    made = platform_layout().initial["minio/root"]()
    assert admin.read("minio/root")["access_key"] == made["access_key"]
    assert admin.read("minio/root")["secret_key"] != made["secret_key"]
    assert len(made["secret_key"]) == 40


def test_a_path_taken_by_another_engine_is_left_alone(changes: Changes, vault: OpenBao) -> None:
    vault.root().sys.enable_secrets_engine("kv", "dataplatform", options={"version": "1"})
    with pytest.raises(VaultRefusedError, match="sys/mounts/dataplatform: the path is taken"):
        changes()


def test_secrets_are_written_by_check_and_set_only(
    changes: Changes, admin: VaultResource, vault: OpenBao
) -> None:
    changes()
    with pytest.raises(VaultConflictError):
        admin.write("minio/root", admin.read("minio/root"), cas=0)
    with pytest.raises(Exception, match="check-and-set parameter required"):
        vault.root().secrets.kv.v2.create_or_update_secret(
            "minio/root", {"access_key": "a"}, mount_point="dataplatform"
        )


def test_the_stacks_roles_are_good_on_its_machine_only(
    admin: VaultResource, connect: Connect, vault: OpenBao
) -> None:
    bootstrap(admin.client, vault_layout())
    assert bootstrap(admin.client, vault_layout()) == []
    for role in APP_ROLES:
        found = vault.root().auth.approle.read_role(role)["data"]
        assert found["secret_id_bound_cidrs"] == ["127.0.0.1/32"]
        assert found["token_bound_cidrs"] == ["127.0.0.1"]
    minio = connect(issue_secret_id(admin.client, "minio"), role_id="minio")
    assert minio.read("minio/root") == admin.read("minio/root")


LOGINS = {"trino/platform", "catalog/platform"}
"""To servers of one's own: an operator's to make, and the platform's to read."""
OPERATORS = {"proxmox"}
"""For those who run `dp infra`, by a role of their own."""
READS = {
    "platform": {"minio/platform", "postgres/dagster", "coingecko", *LOGINS},
    "trino": {"minio/trino", "postgres/trino"},
    "catalog": {"minio/catalog", "postgres/catalog"},
    "rotation": set(SECRETS) - LOGINS - OPERATORS,
}


def test_each_consumer_reads_its_own_and_nothing_else(as_consumer: Connect) -> None:
    assert set(READS) == set(CONSUMERS)
    for role, own in READS.items():
        resource = as_consumer(role)
        assert {path for path in SECRETS if may_read(resource, path)} == own, role


def test_only_rotation_writes_and_never_the_administrators_secrets(as_consumer: Connect) -> None:
    keys = {"access_key": "k", "secret_key": "s"}
    for role in ("platform", "trino", "catalog"):
        resource = as_consumer(role)
        for path in ("minio/platform", "minio/trino", "minio/catalog", "rotation/minio/platform"):
            with pytest.raises(VaultForbiddenError):
                resource.write(path, keys, cas=0)
    rotation = as_consumer("rotation")
    assert rotation.write("minio/platform", keys, cas=0) == 1
    with pytest.raises(VaultForbiddenError):
        rotation.write("minio/root", keys, cas=1)


def test_rotation_may_note_and_not_change_what_is_kept(
    as_consumer: Connect, admin: VaultResource
) -> None:
    rotation = as_consumer("rotation")
    rotation.write("minio/platform", {"access_key": "k", "secret_key": "s"}, cas=0)
    rotation.client.annotate("minio/platform", rotated_at="now")
    assert admin.secret("minio/platform").metadata == {"rotated_at": "now"}
    for path, data in (
        ("minio/platform", {"delete_version_after": "1s"}),
        ("minio/platform", {"max_versions": 1}),
        ("minio/root", {"custom_metadata": {"a": "b"}}),
    ):
        with pytest.raises(VaultForbiddenError):
            write(rotation, f"dataplatform/metadata/{path}", data)


def test_the_platform_ends_only_logins_of_the_reader(as_consumer: Connect) -> None:
    for verb in ("renew", "revoke"):
        with pytest.raises(VaultForbiddenError):
            write(
                as_consumer("platform"), f"sys/leases/{verb}", {"lease_id": "auth/approle/login/h"}
            )


def write(resource: VaultResource, path: str, data: Mapping[str, object]) -> None:
    resource.client.call(path, lambda vault: vault.write_data(path, data=dict(data)))


def test_a_token_does_for_a_password_where_trino_takes_one(
    changes: Changes, admin: VaultResource
) -> None:
    changes()
    login = {"username": "dataplatform", "password": "p"}
    assert admin.write("trino/platform", login, cas=0) == 1
    assert admin.write("trino/platform", {"token": "t"}, cas=1) == 2
    with pytest.raises(VaultRefusedError, match="username, password or token"):
        admin.write("trino/platform", {**login, "token": "t"}, cas=2)


def test_the_platform_encrypts_and_nobody_else_decrypts(as_consumer: Connect) -> None:
    ciphertext = as_consumer("platform").encrypt(b"plain")
    assert as_consumer("platform").decrypt(ciphertext) == b"plain"
    for role in ("trino", "catalog", "rotation"):
        with pytest.raises(VaultForbiddenError):
            as_consumer(role).decrypt(ciphertext)


def may_read(resource: VaultResource, path: str) -> bool:
    try:
        resource.read(path)
    except VaultForbiddenError:
        return False
    except VaultNotFoundError:
        return True
    return True
