"""Everything that lies below a folder, unpacked: for tests of what must not be there."""

import gzip
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dataplatform.lake.place import LocalLake
from dataplatform.resources.lake import LakeResource


def holding(root: Path, text: str) -> list[str]:
    """Return the files below `root` that hold `text`, packed or not."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return [str(path) for path in files if any(text.encode() in part for part in _parts(path))]


def folders(lake: LakeResource) -> LocalLake:
    """Return where an embedded lake lies."""
    assert isinstance(lake.place, LocalLake)
    return lake.place


def _parts(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield gzip.decompress(content) if path.suffix == ".gz" else content
    if content.startswith(b"SQLite format 3\0"):
        yield from _snapshots(path)


def _snapshots(database: Path) -> Iterator[bytes]:
    """Yield the job snapshots, which hold the resources' fields: Dagster keeps them packed."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'snapshots'")
        if tables.fetchone():
            for (body,) in connection.execute("SELECT snapshot_body FROM snapshots"):
                yield zlib.decompress(body)
