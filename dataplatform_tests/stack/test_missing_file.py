"""A file that a table points to and the store does not have is named, whoever misses it."""

from collections.abc import Iterator

import pyarrow as pa
import pytest

from dataplatform.lake.dialect import FileMissingError
from dataplatform.lake.place import LakePlace
from dataplatform.lake.store.object_store import open_bucket
from dataplatform.profiles import lake_place
from dataplatform.resources.servers import find_servers
from dataplatform_tests.stack.fixtures import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
ROWS = pa.table({"a": [1]})


@pytest.fixture
def lake(stack: RunningStack) -> Iterator[LakePlace]:
    """The recorded lake, with a table of one row."""
    place = lake_place(stack.settings, "recorded")
    place.open_catalog().create_table("warehouse.lost", ROWS.schema).append(ROWS)
    yield place
    place.open_catalog().drop_table("warehouse.lost")


@pytest.mark.parametrize("kind", ["metadata", "data"])
def test_a_missing_file_is_named(stack: RunningStack, lake: LakePlace, kind: str) -> None:
    table = lake.open_catalog().load_table("warehouse.lost")
    [data] = table.inspect.files()["file_path"].to_pylist()
    file = table.metadata_location if kind == "metadata" else data
    bucket, _, key = file.removeprefix("s3://").partition("/")
    store = open_bucket(find_servers(stack.settings).access, bucket)
    content = store.get(key)
    store.delete(key)
    try:
        asked = [lambda: lake.engine().query("SELECT * FROM warehouse.lost")]
        if kind == "metadata":
            asked.append(lambda: lake.engine().load("lost"))
        for ask in asked:
            with pytest.raises(FileMissingError, match=f"points to {file}, which is not in"):
                ask()
    finally:
        store.put(key, content)
