"""What was written below a folder of an object store since a reader's last look.

A list is the only thing that every S3 store offers, and its order is by key; so a look costs one
list, 1,000 objects a request. Where many objects stay, list by a key that grows with time instead,
as the arrivals log does.
"""

import heapq
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from pydantic import BaseModel, ConfigDict

from dataplatform.lake.store.object_store import ObjectStore, StoredObject

OVERLAP: Final = timedelta(hours=1)
"""How much older than what is seen already an object may appear: S3 dates a large one by the start
of its upload, and the servers of a store by their own clocks."""


class ChangeCursor(BaseModel):
    """How far a reader has come.

    Attributes:
        newest: the time of the newest object that was read, by the store's clock.
        seen: what was read and is at most one overlap older: `<time> <etag> <key>`.
    """

    model_config = ConfigDict(frozen=True)

    newest: datetime | None = None
    seen: frozenset[str] = frozenset()

    @property
    def floor(self) -> str:
        """What sorts before all that may still be new."""
        return _stamp(self.newest - OVERLAP) if self.newest else ""


class Changes(NamedTuple):
    """What a look found, oldest first, and the cursor after it is processed."""

    objects: list[StoredObject]
    cursor: ChangeCursor


def changes(store: ObjectStore, prefix: str, cursor: ChangeCursor, limit: int = 1000) -> Changes:
    """Return what was written below `prefix` since `cursor`: each write once, oldest first.

    The clock of the writer plays no part: the store dates its objects. Of several writes to one key
    between two looks, the last is seen.

    Args:
        store: the store.
        prefix: the folder.
        cursor: where the reader stands.
        limit: at most so many; the next look goes on from there.
    """
    floor = cursor.floor
    named = ((_name(one), one) for one in store.list(prefix))
    fresh = (one for name, one in named if name > floor and name not in cursor.seen)
    found = heapq.nsmallest(limit, fresh)
    return Changes(found, _advanced(cursor, found))


def _advanced(cursor: ChangeCursor, found: list[StoredObject]) -> ChangeCursor:
    times = [one.last_modified for one in found] + ([cursor.newest] if cursor.newest else [])
    after = ChangeCursor(newest=max(times, default=None))
    names = cursor.seen | {_name(one) for one in found}
    return after.model_copy(update={"seen": frozenset(n for n in names if n > after.floor)})


def _name(stored: StoredObject) -> str:
    return f"{_stamp(stored.last_modified)} {stored.etag} {stored.key}"


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"
