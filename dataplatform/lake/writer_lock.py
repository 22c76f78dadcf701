"""One writer of a lake's tables at a time, whichever process it is in."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class LakeBusyError(RuntimeError):
    """Another process writes this lake's tables."""


@contextmanager
def lake_writer_lock(root: Path, holder: str, timeout: float = 3600.0) -> Generator[None]:
    """Hold the lake's writer lock.

    Args:
        root: the lake's folder.
        holder: who to name to those who wait.
        timeout: seconds to wait for the present holder.

    Raises:
        LakeBusyError: the holder did not finish in time.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = root / "writer.holder"
    lock = FileLock(root / "writer.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        held_by = name.read_text() if name.exists() else "unknown"
        raise LakeBusyError(
            f"the lake at {root} is being written by {held_by}; waited {timeout:.0f} s."
            " Remedy: wait for that run, or end it, and run again."
        ) from None
    try:
        name.write_text(f"{holder} (process {os.getpid()})")
        yield
    finally:
        name.unlink(missing_ok=True)
        lock.release()
