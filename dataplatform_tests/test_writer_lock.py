"""Two writers of one lake: the second waits, and is told for whom."""

from pathlib import Path

import pytest

from dataplatform.lake.writer_lock import LakeBusyError, file_lock

WAIT = 10.0


def test_the_second_writer_is_told_who_holds_the_lake(tmp_path: Path) -> None:
    with file_lock(tmp_path, "run one", WAIT):
        busy = file_lock(tmp_path, "run two", timeout=0.1)
        with pytest.raises(LakeBusyError, match=r"run one.*Remedy"), busy:
            pass


def test_the_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), file_lock(tmp_path, "run one", WAIT):
        raise ValueError("broken")
    with file_lock(tmp_path, "run two", timeout=0.1):
        assert "run two" in (tmp_path / "writer.holder").read_text()
