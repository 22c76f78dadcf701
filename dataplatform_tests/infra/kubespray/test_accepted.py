"""The inventories are those that Kubespray's own role accepted, where the role itself is not at hand.

After a change: run `test_role.py` with Kubespray at hand; when it passes, write the digests anew by
`python -m dataplatform_tests.infra.kubespray.accepted`.
"""

import json

import pytest

from dataplatform_tests.infra.kubespray.accepted import RECORD, digests
from infra.kubespray import pins
from infra.spec.model import profiles


@pytest.mark.parametrize("profile", profiles())
def test_the_inventory_of_each_profile_is_what_the_role_accepted(profile: str) -> None:
    record = json.loads(RECORD.read_text())
    assert record["commit"] == pins.COMMIT
    assert record["accepted"][profile] == digests()[profile], __doc__
