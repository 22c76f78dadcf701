"""A folder, MinIO and versitygw keep the same promises."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from dataplatform.lake.store.changes import ChangeCursor, changes
from dataplatform.lake.store.object_store import PART_SIZE, ObjectStore

ODD = ["a b", "a+b", "100%", "%20", "ü", "#x", "a?b", "a&b=c", "日本", "a~b", "[x]", "a'b", "😀"]


def keys(store: ObjectStore, prefix: str, start_after: str | None = None) -> list[str]:
    return [stored.key for stored in store.list(prefix, start_after)]


def test_what_is_put_is_got_listed_and_deleted(store: ObjectStore) -> None:
    store.put("a/b", b"one")
    store.put("a/b", b"three")
    assert store.get("a/b") == b"three"
    (listed,) = store.list("a")
    seen = store.head("a/b")
    assert seen is not None
    assert (listed.key, listed.size, listed.etag) == (seen.key, seen.size, seen.etag)
    assert listed.etag
    assert '"' not in listed.etag
    assert abs(datetime.now(UTC) - listed.last_modified) < timedelta(minutes=1)
    store.delete("a/b")
    store.delete("a/b")
    assert keys(store, "a") == []


def test_a_missing_object_is_told_apart(store: ObjectStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("a")
    with pytest.raises(FileNotFoundError):
        list(store.stream("a"))
    assert store.head("a") is None
    assert not store.exists("a")
    assert keys(store, "a") == []
    assert store.folders("a") == []


@pytest.mark.parametrize("name", ODD)
def test_any_character_may_stand_in_a_key(store: ObjectStore, name: str) -> None:
    key = f"inbox/{name}/{name}.csv"
    assert store.put_if_absent(key, b"x")
    assert not store.put_if_absent(key, b"y")
    assert keys(store, "inbox") == [key]
    assert store.folders("inbox") == [f"inbox/{name}"]
    assert store.get(key) == b"x"
    store.delete(key)
    assert not store.exists(key)


def test_lists_are_sorted_and_start_after_a_key(store: ObjectStore) -> None:
    names = ["a-b", "a.b", "a/b", "a0", "B", "z", "é", "日"]
    for name in reversed(names):
        store.put(f"q/{name}", b"")
    store.put("qq/other", b"")
    ordered = sorted(f"q/{name}" for name in names)
    assert keys(store, "q") == ordered
    for position, key in enumerate(ordered):
        assert keys(store, "q", key) == ordered[position + 1 :]
    # A key that does not exist, as the cursor of the arrivals log has them.
    assert keys(store, "q", "q/a/") == [key for key in ordered if key > "q/a/"]
    assert keys(store, "q", "q/~") == ["q/é", "q/日"]


def test_a_list_goes_on_over_pages(store: ObjectStore) -> None:
    wanted = [f"p/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), wanted))
    assert keys(store, "p") == wanted
    assert keys(store, "p", wanted[20]) == wanted[21:]


def test_folders_are_sorted_and_only_the_next_level(store: ObjectStore) -> None:
    for key in ("f/b/c/x", "f/b/y", "f/a/x", "f/z", "other/x"):
        store.put(key, b"")
    assert store.folders("f") == ["f/a", "f/b"]


def test_of_twenty_writers_at_once_one_wins(store: ObjectStore) -> None:
    bodies = [f"writer {number}".encode() * 1000 for number in range(20)]
    for key in ("k/1", "k/2", "k/3"):
        with ThreadPoolExecutor(20) as pool:
            won = list(pool.map(partial(store.put_if_absent, key), bodies))
        assert won.count(True) == 1
        assert store.get(key) == bodies[won.index(True)]


def test_an_object_is_removed_only_as_it_was_seen(store: ObjectStore) -> None:
    store.put("a", b"old")
    seen = store.head("a")
    assert seen is not None
    store.put("a", b"newer")
    assert not store.delete_unchanged(seen)
    assert store.get("a") == b"newer"
    now = store.head("a")
    assert now is not None
    assert store.delete_unchanged(now)
    assert not store.exists("a")


def test_a_large_body_is_written_and_read_in_parts(store: ObjectStore) -> None:
    chunks = [os.urandom(1 << 20) for _ in range(20)]
    store.upload("large", iter(chunks))
    read = list(store.stream("large"))
    assert len(read) > 1
    assert max(map(len, read)) < 2 * PART_SIZE
    assert b"".join(read) == b"".join(chunks)


def test_an_upload_whose_source_breaks_leaves_nothing(store: ObjectStore) -> None:
    def source() -> Iterator[bytes]:
        for _ in range(20):
            yield os.urandom(1 << 20)
        raise EOFError("the source broke")

    with pytest.raises(EOFError):
        store.upload("large", source())
    assert keys(store, "") == []


def test_each_write_is_a_change_once_oldest_first(store: ObjectStore) -> None:
    for name in ("b", "a", "c"):
        store.put(f"in/{name}", name.encode())
    first = changes(store, "in", ChangeCursor(), limit=2)
    rest = changes(store, "in", first.cursor, limit=2)
    found = [*first.objects, *rest.objects]
    assert sorted(one.key for one in found) == ["in/a", "in/b", "in/c"]
    assert found == sorted(found)
    assert changes(store, "in", rest.cursor).objects == []
    store.put("in/a", b"replaced")
    again = changes(store, "in", rest.cursor)
    assert [one.key for one in again.objects] == ["in/a"]
    # After a while nothing is remembered but the time.
    cursor = ChangeCursor.model_validate_json(again.cursor.model_dump_json())
    assert changes(store, "in", cursor).objects == []
