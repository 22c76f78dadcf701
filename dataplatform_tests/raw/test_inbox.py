import gzip
import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataplatform.lake.landing import Landing
from dataplatform.lake.manifest import Cursor, RawZone
from dataplatform.raw.inbox import examine, land_inbox, waiting

CSV = b"date,coingecko_coin_id,coin_symbol,coin_name,price_usd\n01-01-2025,bitcoin,btc,Bitcoin,93507.8\n"
JSONL = b'{"date":"2025-01-01","coingecko_coin_id":"bitcoin","price_usd":93507.8}\n'
LATER = timedelta(hours=1)


def parquet() -> bytes:
    target = io.BytesIO()
    table = pa.table({"date": ["2025-01-01"], "coingecko_coin_id": ["bitcoin"], "price_usd": [1.0]})
    pq.write_table(table, target)
    return target.getvalue()


def land(zone: RawZone) -> list[Landing]:
    return land_inbox(zone, now=datetime.now(UTC) + LATER)


def dropped(zone: RawZone) -> list[str]:
    return sorted(stored.key for stored in zone.store.list("inbox"))


@pytest.mark.parametrize(
    ("name", "body", "format_"),
    [
        ("a.csv", CSV, "csv"),
        ("a b ü.CSV", CSV, "csv"),
        ("sub/folder/a.csv", CSV, "csv"),
        ("a.csv", b"\xef\xbb\xbf" + CSV, "csv"),
        ("a.jsonl", JSONL, "jsonl"),
        ("a.ndjson", JSONL, "jsonl"),
        ("a.parquet", parquet(), "parquet"),
    ],
)
def test_a_file_lands_as_it_is_and_leaves_the_inbox(
    zone: RawZone, name: str, body: bytes, format_: str
) -> None:
    zone.store.put(f"inbox/{name}", body)
    (landing,) = land(zone)
    (file,) = landing.manifest.files
    stored = zone.store.get(file.key)
    assert (gzip.decompress(stored) if file.key.endswith(".gz") else stored) == body
    assert (file.format, file.records, file.problem) == (format_, 1, None)
    assert file.params == {"file": name}
    assert dropped(zone) == []
    assert [a.slot for a in zone.arrivals(Cursor())] == [landing.manifest.slot]


def test_dropped_and_landed_keys_never_collide(zone: RawZone) -> None:
    zone.store.put("inbox/inbox/dt=2025-01-01/D/manifest.json", b"{}")
    (landing,) = land(zone)
    assert landing.manifest.slot.folder.startswith("files/inbox/")
    assert dropped(zone) == []


def test_the_same_content_again_lands_nothing_and_is_removed(zone: RawZone) -> None:
    zone.store.put("inbox/a.csv", CSV)
    (first,) = land(zone)
    zone.store.put("inbox/other name.csv", CSV)
    (again,) = land(zone)
    assert (first.fetched, again.fetched) == (True, False)
    assert again.manifest == first.manifest
    assert dropped(zone) == []
    assert len(zone.arrivals(Cursor())) == 1


def test_the_same_name_with_new_content_lands(zone: RawZone) -> None:
    zone.store.put("inbox/a.csv", CSV)
    land(zone)
    zone.store.put("inbox/a.csv", CSV.replace(b"93507.8", b"93507.9"))
    (landing,) = land(zone)
    assert landing.fetched
    assert len(zone.arrivals(Cursor())) == 2


@pytest.mark.parametrize("name", ["a.csv.tmp", "a.csv.part", ".a.csv.swp", "sub/.hidden"])
def test_half_written_files_are_left_alone(zone: RawZone, name: str) -> None:
    zone.store.put(f"inbox/{name}", CSV)
    assert land(zone) == []
    assert dropped(zone) == [f"inbox/{name}"]


def test_a_file_that_just_changed_is_left_alone(folder_zone: RawZone) -> None:
    folder_zone.store.put("inbox/a.csv", CSV)
    now = datetime.now(UTC)
    assert waiting(folder_zone.store, now) == []
    assert len(waiting(folder_zone.store, now + timedelta(seconds=4))) == 1


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        ("a.xlsx", b"PK", "unknown type '.xlsx'"),
        ("a", b"?", "unknown type ''"),
        ("a.csv", b"", "without the column"),
        ("a.csv", b"day,coin\n1,2\n", "without the column coingecko_coin_id, date"),
        ("a.csv", b"date,coingecko_coin_id\n\xff\xfe,1\n", "utf-8"),
        ("a.jsonl", b"not json\n", "no line is a JSON object"),
        ("a.jsonl", b'{"day":1}\n', "without the column"),
        ("a.parquet", b"PAR1 broken", "not readable as parquet"),
        ("a.parquet", parquet()[:-9], "not readable as parquet"),
    ],
)
def test_what_cannot_be_read_lands_with_the_reason(
    zone: RawZone, name: str, body: bytes, problem: str
) -> None:
    zone.store.put(f"inbox/{name}", body)
    (landing,) = land(zone)
    (file,) = landing.manifest.files
    assert (file.format, file.records) == ("unknown", 0)
    assert problem in (file.problem or "")
    assert gzip.decompress(zone.store.get(file.key)) == body
    assert dropped(zone) == []


def test_one_bad_line_is_a_bad_record_not_a_bad_file() -> None:
    contents = examine("a.jsonl", JSONL + b"oops\n")
    assert (contents.format, contents.records) == ("jsonl", 2)


def test_extra_columns_are_named(zone: RawZone) -> None:
    zone.store.put("inbox/a.csv", CSV.replace(b"price_usd", b"price_usd,mood"))
    (landing,) = land(zone)
    assert landing.manifest.unknown_fields == ("mood",)


class Killed(BaseException):
    """What a SIGKILL is to the code: nothing after it runs."""


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_at_any_write_and_repeated_it_lands_once(
    zone: RawZone, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    zone.store.put("inbox/a.csv", CSV)
    writes = 0

    def dies(method: str) -> None:
        original = getattr(type(zone.store), method)

        def wrapped(self: object, *args: object) -> object:
            nonlocal writes
            writes += 1
            if writes == step:
                raise Killed
            return original(self, *args)

        monkeypatch.setattr(type(zone.store), method, wrapped)

    for method in ("put", "put_if_absent", "delete"):
        dies(method)
    with pytest.raises(Killed):
        land(zone)
    monkeypatch.undo()
    land(zone)
    assert dropped(zone) == []
    assert len(zone.arrivals(Cursor())) == 1


def test_a_file_that_grows_while_it_is_read_waits(
    zone: RawZone, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone.store.put("inbox/a.csv", CSV[:30])
    original = type(zone.store).get

    def get(self: object, key: str) -> bytes:
        body = original(zone.store, key)
        if key.startswith("inbox/"):
            zone.store.put(key, CSV)
        return body

    monkeypatch.setattr(type(zone.store), "get", get)
    assert land(zone) == []
    monkeypatch.undo()
    (landing,) = land(zone)
    assert landing.manifest.files[0].records == 1


@pytest.mark.parametrize(
    "header",
    [b"date,coingecko_coin_id,price_usd,price_usd", b"date,Date,coingecko_coin_id,price_usd"],
)
def test_columns_that_spark_does_not_tell_apart_are_refused(header: bytes) -> None:
    found = examine("a.csv", header + b"\n01-01-2025,bitcoin,1,2\n")
    assert found.format == "unknown"
    assert found.problem is not None
    assert "column" in found.problem


def test_a_refused_file_dropped_again_under_a_readable_name_lands(zone: RawZone) -> None:
    zone.store.put("inbox/prices.txt", CSV)
    (refused,) = land(zone)
    assert refused.manifest.files[0].problem
    zone.store.put("inbox/prices.csv", CSV)
    (landed,) = land(zone)
    assert (landed.fetched, landed.manifest.files[0].format) == (True, "csv")
    zone.store.put("inbox/again.csv", CSV)
    assert [landing.fetched for landing in land(zone)] == [False]
    assert dropped(zone) == []
