from pathlib import Path

import pytest

from dataplatform_tests.views.small_lake import SmallLake, make_lake


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    # A blank and an umlaut in the path: URIs and SQL literals must survive both.
    return make_lake(tmp_path / "märkt data")
