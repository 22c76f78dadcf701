"""The arrivals log: whatever is committed is read once, whenever its marker and manifest appear."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplatform.lake.manifest import (
    ARRIVALS,
    OVERLAP,
    Arrival,
    Cursor,
    Manifest,
    RawZone,
    Slot,
    advance,
    marker_key,
)
from dataplatform.lake.store.object_store import ObjectStore, StoredObject, open_bucket, open_folder
from dataplatform.lake.store.s3 import S3Access
from dataplatform_tests.minio.conftest import new_bucket

T0 = datetime(2026, 11, 20, 23, 50, tzinfo=UTC)


def slot(number: int, endpoint: str = "ohlc") -> Slot:
    day = date(2026, 1, 1) + timedelta(days=number)
    return Slot(source="coingecko", endpoint=endpoint, day=day, name="D")


def manifest(of: Slot) -> Manifest:
    return Manifest(slot=of, origin="live", tier="demo", fetched_at=T0, files=())


def at(minutes: float) -> datetime:
    return T0 + timedelta(minutes=minutes)


def test_a_marker_names_its_slot_and_its_time() -> None:
    arrival = Arrival.parse(marker_key(slot(3), at(1)))
    assert (arrival.slot, arrival.written_at) == (slot(3), at(1))


def test_a_marker_without_a_manifest_is_passed_over_until_it_comes(zone: RawZone) -> None:
    zone.store.put(marker_key(slot(1), at(0)), b"")
    cursor = advance(Cursor(), [], at(5))
    assert zone.arrivals(cursor) == []
    # The writer was only slow: the manifest comes within the overlap.
    zone.store.put_if_absent(slot(1).manifest_key, manifest(slot(1)).model_dump_json().encode())
    assert [a.slot for a in zone.arrivals(cursor)] == [slot(1)]


def test_of_two_commits_of_one_slot_the_first_stands(zone: RawZone) -> None:
    assert zone.commit(manifest(slot(1)), at(0))
    other = manifest(slot(1)).model_copy(update={"tier": "pro"})
    assert not zone.commit(other, at(1))
    standing = zone.manifest(slot(1))
    assert standing is not None
    assert standing.tier == "demo"
    (arrival,) = zone.arrivals(Cursor())
    assert arrival.written_at == at(0)


def test_the_second_marker_of_a_slot_is_no_news_after_the_first_was_read(zone: RawZone) -> None:
    zone.commit(manifest(slot(1)), at(0))
    read = zone.arrivals(Cursor())
    cursor = advance(Cursor(), read, at(0.1))
    assert zone.arrivals(cursor) == []


def test_only_the_endpoints_asked_for(zone: RawZone) -> None:
    zone.commit(manifest(slot(1)), at(0))
    zone.commit(manifest(slot(1, "global")), at(0))
    found = zone.arrivals(Cursor(), {("coingecko", "global")})
    assert [a.slot.endpoint for a in found] == ["global"]


def test_markers_are_read_over_midnight(zone: RawZone) -> None:
    zone.commit(manifest(slot(1)), at(0))
    cursor = advance(Cursor(), zone.arrivals(Cursor()), at(60))
    assert cursor.seen == frozenset()
    zone.commit(manifest(slot(2)), at(20))
    assert [a.slot for a in zone.arrivals(cursor)] == [slot(2)]


@contextmanager
def fresh_zone() -> Generator[RawZone]:
    with TemporaryDirectory() as folder:
        yield RawZone(open_folder(Path(folder)))


WRITES = st.lists(
    st.tuples(
        st.floats(0, 120),  # the marker is written so many minutes after the start,
        st.floats(0, OVERLAP.total_seconds() / 60 - 0.1),  # the manifest so many after it.
        st.booleans(),  # False: the writer was killed in between.
    ),
    max_size=8,
)
READS = st.lists(st.floats(0, 150), max_size=8)


@given(writes=WRITES, reads=READS)
@settings(max_examples=60, deadline=None)
def test_every_commit_is_read_exactly_once(
    writes: list[tuple[float, float, bool]], reads: list[float]
) -> None:
    events: list[tuple[float, str, int]] = []
    for number, (minute, delay, finished) in enumerate(writes):
        events.append((minute, "marker", number))
        if finished:
            events.append((minute + delay, "manifest", number))
    events += [(minute, "read", -1) for minute in [*reads, 200.0]]
    taken: list[Slot] = []
    cursor = Cursor()
    with fresh_zone() as zone:
        for minute, what, number in sorted(events):
            if what == "marker":
                zone.store.put(marker_key(slot(number), at(minute)), b"")
            elif what == "manifest":
                text = manifest(slot(number)).model_dump_json().encode()
                zone.store.put_if_absent(slot(number).manifest_key, text)
            else:
                found = zone.arrivals(cursor)
                taken += [arrival.slot for arrival in found]
                following = advance(cursor, found, at(minute))
                assert following.after >= cursor.after
                cursor = following
    assert sorted(taken, key=str) == sorted(
        (slot(n) for n, (_, _, finished) in enumerate(writes) if finished), key=str
    )
    assert cursor.seen == frozenset()


@pytest.mark.parametrize("minutes", [1, 14])
def test_what_was_read_is_remembered_only_within_the_overlap(zone: RawZone, minutes: int) -> None:
    zone.commit(manifest(slot(1)), at(0))
    read = zone.arrivals(Cursor())
    assert len(advance(Cursor(), read, at(minutes)).seen) == 1
    assert advance(Cursor(), read, at(16)).seen == frozenset()


def test_the_markers_of_a_killed_and_of_a_repeated_write_are_one_arrival(zone: RawZone) -> None:
    zone.store.put(marker_key(slot(1), at(0)), b"")
    zone.commit(manifest(slot(1)), at(30))
    read = zone.arrivals(Cursor())
    assert [a.slot for a in read] == [slot(1)]
    # Neither while both are remembered, nor when the overlap has passed.
    assert zone.arrivals(advance(Cursor(), read, at(31))) == []
    assert zone.arrivals(advance(Cursor(), read, at(120))) == []


def test_a_marker_that_follows_within_the_overlap_is_no_news(zone: RawZone) -> None:
    zone.commit(manifest(slot(1)), at(0))
    cursor = advance(Cursor(), zone.arrivals(Cursor()), at(1))
    zone.store.put(marker_key(slot(1), at(2)), b"")
    assert zone.arrivals(cursor) == []


def test_a_limited_reader_gets_the_oldest_first_and_all_in_the_end(zone: RawZone) -> None:
    for number in range(7):
        zone.commit(manifest(slot(number)), at(5 * number))
    cursor, taken = Cursor(), []
    while found := zone.arrivals(cursor, limit=3):
        assert len(found) <= 3
        taken += [arrival.slot for arrival in found]
        cursor = advance(cursor, found, at(600))
    assert taken == [slot(number) for number in range(7)]


@dataclass(frozen=True)
class Counted(ObjectStore):
    """A store that counts the lists that it is asked for."""

    asked: list[str] = field(default_factory=list)

    def list(self, prefix: str, start_after: str | None = None) -> Iterator[StoredObject]:
        self.asked.append(prefix)
        return super().list(prefix, start_after)

    def folders(self, prefix: str) -> Sequence[str]:
        self.asked.append(prefix)
        return super().folders(prefix)


@pytest.mark.stack
def test_a_look_is_one_list_on_s3_however_old_the_cursor(minio_server: S3Access) -> None:
    store = Counted(open_bucket(minio_server, new_bucket(minio_server)).backend, "")
    zone = RawZone(store)
    for number in range(4):
        zone.commit(manifest(slot(number)), at(24 * 60 * number))
    cursor = advance(Cursor(), zone.arrivals(Cursor(), limit=1), at(60))
    store.asked.clear()
    assert [a.slot for a in zone.arrivals(cursor)] == [slot(number) for number in (1, 2, 3)]
    assert store.asked == [ARRIVALS]
