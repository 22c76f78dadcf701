"""The inbox: files that others drop under `inbox/` in the bucket `datalake`.

A file's identity is its content. Landing one takes these steps, each of which may be the last:

1. claim: `files/inbox/_content/<sha256>.json` says which slot holds this content; the first wins;
2. the bytes, below `files/inbox/dt=<day>/<start of the sha256>/`, then marker and manifest;
3. only then is the dropped object deleted.

So a run that was killed is simply repeated, and the same content dropped again, under whatever
name and on whatever day, finds its slot committed, lands nothing and is removed from the inbox.

A file whose type is unknown or which can't be read lands all the same: its `RawFile` has the format
`unknown` and says the `problem`, for the quarantine table to show.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final, Literal

import orjson
from pydantic import BaseModel

from dataplatform.lake.api.endpoint import Endpoint, Field, money, price
from dataplatform.lake.landing import Landing, commit, visible, write_body
from dataplatform.lake.manifest import Manifest, Origin, RawFile, RawZone, Slot, sha256
from dataplatform.lake.store.object_store import ObjectStore, StoredObject

INBOX: Final = "inbox"
SETTLE: Final = timedelta(seconds=3)
"""How long a dropped file must have been left alone; a copy into a folder grows bit by bit."""
UNFINISHED: Final = (".tmp", ".part")


inbox = Endpoint(
    name="inbox",
    description="Daily prices from files that others drop: CSV, JSON lines or Parquet.",
    path=f"{INBOX}/",
    every="day",
    source="files",
    fields=(
        Field(
            "date",
            required=True,
            pattern=r"\d{2}-\d{2}-\d{4}|\d{4}-\d{2}-\d{2}",
            # The pattern lets 31-02-2026 through; the calendar does not.
            # Nor is a mistyped year a day of this market: its grid would be filled up to it.
            valid=(
                "coalesce(try_cast(`date` AS DATE), make_date(CAST(substr(`date`, 7, 4) AS INT),"
                " CAST(substr(`date`, 4, 2) AS INT), CAST(substr(`date`, 1, 2) AS INT)))"
                " BETWEEN DATE'2009-01-01' AND date_add(CAST(fetched_at AS DATE), 1)"
            ),
        ),
        Field("coingecko_coin_id", required=True, pattern=r"\S+"),
        Field("coin_symbol"),
        Field("coin_name"),
        price("price_usd"),
        price("price_eur"),
        price("price_chf"),
        money("market_cap_usd"),
        money("volume_24h_usd"),
    ),
)

Format = Literal["csv", "jsonl", "parquet", "unknown"]


class UnreadableError(ValueError):
    """A file from which no record can be read; the message says why."""


@dataclass(frozen=True)
class Contents:
    """What a dropped file turned out to be."""

    format: Format
    records: int = 0
    fields: frozenset[str] = frozenset()
    problem: str | None = None


class Claim(BaseModel):
    """Which slot holds a content, and when that content was first dropped."""

    slot: Slot
    received_at: datetime


def waiting(store: ObjectStore, now: datetime, settle: timedelta = SETTLE) -> list[StoredObject]:
    """Return the dropped files that are ready to land, oldest first.

    Left alone are names that end in `.tmp` or `.part` or start with a dot, and files that changed
    within `settle`: their writer is not done. S3 shows an object when it is whole, so its age, by
    the server's clock, does not matter there.
    """
    return sorted(
        stored
        for stored in store.list(INBOX)
        if _is_finished(stored.key)
        and (now - stored.last_modified >= settle or not store.shows_partial_writes)
        # Consoles mark a folder by an empty object `folder/`, which is listed without the slash.
        and (stored.size or store.exists(stored.key))
    )


def land_inbox(
    zone: RawZone,
    origin: Origin = "live",
    now: datetime | None = None,
    settle: timedelta = SETTLE,
) -> list[Landing]:
    """Land every dropped file that is ready; return one landing a file."""
    landings = []
    for stored in waiting(zone.store, now or datetime.now(UTC), settle):
        found = _read(zone.store, stored.key)
        if found is None:
            continue  # It grew while it was read, or is gone: next time.
        seen, body = found
        name = seen.key.removeprefix(f"{INBOX}/")
        landings.append(land_file(zone, name, body, seen.last_modified, origin))
        zone.store.delete_unchanged(seen)
    return landings


def _read(store: ObjectStore, key: str) -> tuple[StoredObject, bytes] | None:
    """Return an object and its bytes; None where it changed meanwhile or is not there."""
    seen = store.head(key)
    try:
        body = store.get(key)
    except FileNotFoundError:
        return None
    return (seen, body) if seen and store.head(key) == seen else None


def land_file(
    zone: RawZone, name: str, body: bytes, received_at: datetime, origin: Origin, tier: str = "file"
) -> Landing:
    """Land one file by its content; one that is there already is returned as it is."""
    claim = _claim(zone.store, body, received_at)
    contents = examine(name, body)
    present = zone.manifest(claim.slot)
    if present is not None and present.files[0].problem and not contents.problem:
        # Refused under its old name, readable under this one: a slot of its own.
        slot = claim.slot.model_copy(update={"name": f"{claim.slot.name}-{contents.format}"})
        claim = claim.model_copy(update={"slot": slot})
        present = zone.manifest(slot)
    if present is not None:
        return Landing(present, fetched=False)
    known = {field.name for field in inbox.fields}
    manifest = Manifest(
        slot=claim.slot,
        origin=origin,
        tier=tier,
        fetched_at=claim.received_at,
        files=(_store(zone, claim, name, body, contents),),
        unknown_fields=tuple(sorted(contents.fields - known)),
    )
    return commit(zone, manifest)


def examine(name: str, body: bytes) -> Contents:
    """Find out what a file is by its name's ending, and whether it can be read as that."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _READERS:
        known = ", ".join(_READERS)
        return Contents("unknown", problem=f"unknown type '{suffix}': known are {known}")
    format_, read = _READERS[suffix]
    try:
        records, fields = read(body)
        _require_columns(fields)
    except UnreadableError as error:
        return Contents("unknown", problem=f"not readable as {format_}: {error}")
    return Contents(format_, records, frozenset(fields))


def _is_finished(key: str) -> bool:
    name = PurePosixPath(key).name
    return not name.startswith(".") and not name.lower().endswith(UNFINISHED)


def _claim(store: ObjectStore, body: bytes, received_at: datetime) -> Claim:
    digest = sha256(body)
    key = f"{inbox.source}/{inbox.name}/_content/{digest}.json"
    day = received_at.astimezone(UTC).date()
    slot = Slot(source=inbox.source, endpoint=inbox.name, day=day, name=digest[:16])
    store.put_if_absent(key, Claim(slot=slot, received_at=received_at).model_dump_json().encode())
    return Claim.model_validate_json(store.get(key))


def _store(zone: RawZone, claim: Claim, name: str, body: bytes, contents: Contents) -> RawFile:
    path = PurePosixPath(re.sub(r"[^A-Za-z0-9._-]", "_", name))
    if contents.format == "parquet":
        # Compressed inside already; engines read it in parts where it lies.
        key, size = f"{claim.slot.folder}/{visible(path.name)}", len(body)
        zone.store.put(key, body)
    else:
        suffix = path.suffix.removeprefix(".") or "bin"
        key, size = write_body(zone.store.put, claim.slot, path.stem, suffix, body)
    return RawFile(
        key=key,
        format=contents.format,
        request=f"{INBOX}/{name}",
        params={"file": name},
        sha256=sha256(body),
        size=size,
        records=contents.records,
        fetched_at=claim.received_at,
        problem=contents.problem,
    )


def _require_columns(fields: Iterable[str]) -> None:
    lowered = [name.lower() for name in fields]
    doubled = sorted({name for name in lowered if lowered.count(name) > 1})
    if doubled or any("`" in name for name in lowered):
        # Spark does not tell such columns apart, and a committed file can't be taken back.
        raise UnreadableError(f"ambiguous column names: {', '.join(doubled) or 'with a backtick'}")
    missing = {field.name for field in inbox.fields if field.required} - set(fields)
    if missing:
        raise UnreadableError(f"without the column {', '.join(sorted(missing))}")


def _read_csv(body: bytes) -> tuple[int, set[str]]:
    try:
        text = body.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = list(rows.fieldnames or ())
        if len(set(names)) < len(names):
            raise UnreadableError("a column name stands twice")
        count = sum(1 for _ in rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(str(error)) from error
    return count, {name for name in rows.fieldnames or () if name}


def _read_jsonl(body: bytes) -> tuple[int, set[str]]:
    """Read what lines can be read: a single bad line is a bad record, not a bad file."""
    lines = [line for line in body.splitlines() if line.strip()]
    records = [record for record in map(_parsed, lines) if isinstance(record, dict)]
    if not records:
        raise UnreadableError("no line is a JSON object")
    return len(lines), {name for record in records for name in record}


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None


def _read_parquet(body: bytes) -> tuple[int, set[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(body))
    except (pa.ArrowException, OSError) as error:
        raise UnreadableError(str(error)) from error
    return table.num_rows, set(table.column_names)


_Reader = Callable[[bytes], tuple[int, set[str]]]
_READERS: Final[Mapping[str, tuple[Format, _Reader]]] = {
    ".csv": ("csv", _read_csv),
    ".jsonl": ("jsonl", _read_jsonl),
    ".ndjson": ("jsonl", _read_jsonl),
    ".parquet": ("parquet", _read_parquet),
}
