"""Two servers of one Vault: who stands by answers for the other, and says so when it is gone."""

from pathlib import Path

import pytest

from dataplatform.vault.errors import VaultStandbyError
from dataplatform_tests.vault.conftest import Connect
from dataplatform_tests.vault.openbao import started

pytestmark = pytest.mark.stack

KEYS = {"access_key": "platform-a", "secret_key": "keys-in-vault"}


def raft(folder: Path, leader: str | None = None) -> str:
    """Return the storage of one member, which joins the leader's cluster."""
    (folder / "data").mkdir(parents=True)
    join = f'retry_join {{ leader_api_addr = "{leader}" }}' if leader else ""
    return f'storage "raft" {{\npath = "{folder / "data"}"\nnode_id = "{folder.name}"\n{join}\n}}'


def test_a_server_that_stands_by_answers_until_the_active_one_is_gone(
    tmp_path: Path, connect: Connect
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with started(one, raft(one)) as first:
        first.initialise()
        first.mount_kv()
        first.wait_for_kv("minio/platform", KEYS)
        with started(two, raft(two, first.address)) as second:
            second.root_token, second.unseal_key = first.root_token, first.unseal_key
            second.unseal()
            resource = connect(
                first.root_token, auth="token", address=second.address, patience=30.0
            )
            assert resource.read("minio/platform") == KEYS
            first.process.kill()
            first.process.wait()
            # Nobody is left to be elected with. OpenBao answers reads nevertheless.
            with pytest.raises(VaultStandbyError, match="wait for the election"):
                resource.client.annotate("minio/platform", owner="ann")
