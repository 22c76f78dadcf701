"""Records what Kubespray's own role accepts: `python -m dataplatform_tests.infra.kubespray.accepted`."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from infra.kubespray import pins
from infra.kubespray.inventory import inventory_files
from infra.spec.model import load_spec, profiles

RECORD = Path(__file__).with_name("data") / "accepted.json"


def digests() -> dict[str, str]:
    """Return the digest of each profile's inventory."""
    files = {profile: inventory_files(load_spec(profile=profile)) for profile in profiles()}
    return {
        profile: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        for profile, content in files.items()
    }


def record() -> int:
    """Run the role on every profile; write the digests where it accepts all of them."""
    tests = str(Path(__file__).with_name("test_role.py"))
    code = pytest.main(["-m", "ansible", "-k", "accepts", "-p", "no:cacheprovider", tests])
    from dataplatform_tests.infra.kubespray.test_role import HAS_RELEASE

    if code or not HAS_RELEASE:
        return 1
    content = {"release": pins.RELEASE, "commit": pins.COMMIT, "accepted": digests()}
    RECORD.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(record())
