"""Two writers of one lake: the second waits, and is told for whom."""

from pathlib import Path

import pytest

from dataplatform.lake.writer_lock import LakeBusyError, lake_writer_lock


def test_the_second_writer_is_told_who_holds_the_lake(tmp_path: Path) -> None:
    with lake_writer_lock(tmp_path, "run one"):
        busy = lake_writer_lock(tmp_path, "run two", timeout=0.1)
        with pytest.raises(LakeBusyError, match=r"run one.*Remedy"), busy:
            pass


def test_the_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), lake_writer_lock(tmp_path, "run one"):
        raise ValueError("broken")
    with lake_writer_lock(tmp_path, "run two", timeout=0.1):
        assert "run two" in (tmp_path / "writer.holder").read_text()
