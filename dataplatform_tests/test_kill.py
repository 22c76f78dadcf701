"""Killed at every stage and run again, the lineage ends with the very same tables.

One lake is killed again and again and goes on each time from what the last run left; at the end it
is finished and compared, row by row and file by file, with one that nobody disturbed.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataplatform.lake.inspect import live_rows
from dataplatform.lake.manifest import ARRIVALS
from dataplatform.lake.schema import AUDIT_BRANCH, identifier
from dataplatform.resources.lake import LakeResource
from dataplatform_tests.kill_driver import TABLES, VIEWS
from dataplatform_tests.stored import folders

FIRST_WAVE = (
    "put:before:1",  # nothing written
    "put:after:1",  # a body, no marker
    "commit:before:1",
    "put_if_absent:before:1",  # a marker, no manifest
    "put_if_absent:after:1",  # the first slot committed
    "write_body:after:2",  # the first of two coins
    "commit:after:1",
    "ensure_table:before:1",
    "ensure_table:after:1",  # an empty table
    "change:after:1",
    "branch:after:1",  # a branch of a table without a snapshot
    "write:during:1",  # while Spark writes
    "write:after:1",
    "audit:after:1",
    "publish:after:1",
    "branch:before:1",
    "write:after:2",  # two tables written side by side
    "publish:after:2",  # what a table reads is published, the table itself is not
    "publish:before:1",
    "deploy:before:1",
    "deploy:after:1",
)
SECOND_WAVE = (
    "put_if_absent:before:2",
    "branch:after:1",  # a branch of a published snapshot
    "publish:before:1",
    "merge:before:1",
    "merge:after:1",  # merged, and what was read not yet recorded
    "write:after:1",
    "audit:after:1",
    "publish:after:1",
)
THIRD_WAVE = (
    "record:before:1",  # nothing changed: only what was read is to be noted
    "record:after:1",
)
WAVES = (FIRST_WAVE, SECOND_WAVE, THIRD_WAVE)


def run(home: Path, wave: int, point: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataplatform_tests.kill_driver", str(home), str(wave)]
    home.mkdir(exist_ok=True)
    (home / "dagster").mkdir(exist_ok=True)
    return subprocess.run(
        [*command, *([point] if point else [])],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )


def finish(home: Path, wave: int) -> None:
    done = run(home, wave)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(lake: LakeResource, name: str) -> list[str]:
    table = lake.catalog().load_table(identifier(name))
    assert AUDIT_BRANCH not in table.refs(), f"{name} keeps the branch of a killed run"
    found = sorted(map(repr, table.scan().to_arrow().to_pylist()))
    head = table.current_snapshot()
    assert (live_rows(head) if head else 0) == len(found)
    return found


def raw(lake: LakeResource) -> dict[str, Any]:
    """Every stored object but the markers: a killed run may leave a marker, and no orphan."""
    folder = folders(lake).datalake
    files = (p for p in folder.rglob("*") if p.is_file())
    stored = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
    return {key: body for key, body in stored.items() if not key.startswith(ARRIVALS)}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_killed_again_and_again_the_tables_are_the_same(tmp_path: Path) -> None:
    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    reached = []
    for wave, points in enumerate(WAVES):
        for point in points:
            done = run(disturbed, wave, point)
            assert done.returncode in {0, -signal.SIGKILL}, f"{point}: {done.stderr[-4000:]}"
            # Tables are built side by side: another may have been published before the kill.
            reached += [point] if done.returncode else []
        finish(disturbed, wave)
        finish(undisturbed, wave)
    assert len(reached) >= sum(map(len, WAVES)) - 2, reached

    one, other = (LakeResource(home=str(h), origin="live") for h in (disturbed, undisturbed))
    for name in TABLES:
        assert rows(one, name) == rows(other, name), name
        assert rows(one, name), "equal because empty proves nothing"
    assert raw(one) == raw(other)
    for view in VIEWS:
        assert (folders(one).views / f"{view}.sql").read_bytes() == (
            folders(other).views / f"{view}.sql"
        ).read_bytes()
