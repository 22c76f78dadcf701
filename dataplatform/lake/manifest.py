"""Raw files and the manifests that make them exist.

Layout below the bucket `datalake`:

    <source>/<endpoint>/dt=<day>/<slot>/<name>      the bodies, exactly as received
    <source>/<endpoint>/dt=<day>/<slot>/manifest.json
    _arrivals/dt=<day>/<time>~<source>~<endpoint>~<dt>~<slot>

A *slot* is one planned fetch of an endpoint: an hour of `coins_markets`, a day of `ohlc`, a
partition of `market_chart`. Its folder is known before the fetch, so a re-run finds what it has.

The order of writing is: bodies, arrival marker, manifest. Only what a manifest names exists. The
marker is a write-ahead log entry: it may name a manifest that never came (the writer was killed),
and a reader then passes it over; no manifest is ever without one, so nothing committed is missed.
Markers sort by the time of their writing, so finding what is new costs what is new.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from dataplatform.lake.store.object_store import ObjectStore

Origin = Literal["live", "recorded"]
_KEPT_HEADERS: Final = (
    "age",
    "cache-control",
    "cf-cache-status",
    "content-type",
    "date",
    "etag",
    "expires",
    "per-page",
    "total",
)
ARRIVALS: Final = "_arrivals"
OVERLAP: Final = timedelta(minutes=15)
"""How long after its marker a manifest may still appear: a put takes seconds, its timeout is 60."""


_RECENT: Final = timedelta(days=7)


class Slot(BaseModel):
    """One planned fetch of one endpoint; its folder is the identity of what it lands."""

    model_config = ConfigDict(frozen=True)

    source: str
    endpoint: str
    day: date
    name: str

    @property
    def folder(self) -> str:
        """The key prefix of this slot's files, without a trailing slash."""
        return f"{self.source}/{self.endpoint}/dt={self.day.isoformat()}/{self.name}"

    @property
    def manifest_key(self) -> str:
        """The key whose existence commits this slot."""
        return f"{self.folder}/manifest.json"


class RawFile(BaseModel):
    """One body as received.

    `params` are the request's path and query parameters without secrets; `headers` the response
    headers worth keeping; `sha256` is over the body before compression; `size` and `records` count
    stored bytes and top-level records. `problem` says why no record of the file can be read: its
    format is then `unknown`, and the whole file is for the quarantine.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    format: Literal["json", "csv", "jsonl", "parquet", "unknown"] = "json"
    request: str
    params: dict[str, str] = {}
    status: int = 200
    headers: dict[str, str] = {}
    sha256: str
    size: int
    records: int | None = None
    fetched_at: datetime
    problem: str | None = None


class Manifest(BaseModel):
    """What one slot holds.

    `complete` is False for an excerpt, from which no absence follows. `missing` are the configured
    coins that the source no longer knows. `unknown_fields` are top-level fields that the endpoint's
    declaration does not name.
    """

    model_config = ConfigDict(frozen=True)

    slot: Slot
    origin: Origin
    tier: str
    complete: bool = True
    fetched_at: datetime
    files: tuple[RawFile, ...]
    missing: tuple[str, ...] = ()
    unknown_fields: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Where this manifest is stored."""
        return self.slot.manifest_key


@dataclass(frozen=True, order=True)
class Arrival:
    """One marker of the arrivals log, ordered by the time of its writing.

    `also` are further markers of the same slot: a writer that was killed left one, or two raced.
    """

    marker: str
    slot: Slot = field(compare=False)
    also: tuple[str, ...] = field(default=(), compare=False)

    @property
    def written_at(self) -> datetime:
        """When the marker was written, by the writer's clock, UTC."""
        _, day, name = self.marker.split("/")
        stamp = f"{day.removeprefix('dt=')}T{name.split('~')[0]}"
        return datetime.strptime(stamp, "%Y-%m-%dT%H%M%S.%f").replace(tzinfo=UTC)

    @classmethod
    def parse(cls, marker: str) -> "Arrival":
        """Read an arrival from its marker's key."""
        _, source, endpoint, day, name = marker.rsplit("/", 1)[1].split("~")
        slot = Slot(source=source, endpoint=endpoint, day=date.fromisoformat(day), name=name)
        return cls(marker, slot)


class Cursor(BaseModel):
    """How far a reader of the arrivals log has come.

    Everything up to the marker `after` is settled; `seen` are the markers beyond it that were
    processed already. Bounded by the arrivals of one overlap window.
    """

    model_config = ConfigDict(frozen=True)

    after: str = ""
    seen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RawZone:
    """Reads and writes slots in the bucket `datalake`."""

    store: ObjectStore

    def manifest(self, slot: Slot) -> Manifest | None:
        """Return the slot's manifest, or None while it is not committed."""
        try:
            return Manifest.model_validate_json(self.store.get(slot.manifest_key))
        except FileNotFoundError:
            return None

    def commit(self, manifest: Manifest, now: datetime | None = None) -> bool:
        """Make the slot exist: marker, then manifest.

        Returns whether this call committed it; False where another run was first.
        """
        self.store.put(marker_key(manifest.slot, now or datetime.now(UTC)), b"")
        return self.store.put_if_absent(manifest.key, manifest.model_dump_json(indent=1).encode())

    def arrivals(
        self,
        cursor: Cursor,
        endpoints: Collection[tuple[str, str]] | None = None,
        limit: int | None = None,
    ) -> list[Arrival]:
        """Return the committed arrivals that `cursor` has not seen, oldest first.

        Args:
            cursor: where the reader stands.
            endpoints: `(source, endpoint)` pairs to keep; all where None.
            limit: at most so many, for a reader that must not take long; None, all.

        Of several markers of one slot the first stands for all, which `advance` settles together.
        """
        known = {Arrival.parse(marker).slot for marker in cursor.seen}
        found: dict[Slot, Arrival] = {}
        for arrival in self._markers(cursor):
            slot = arrival.slot
            if slot in found:
                first = found[slot]
                found[slot] = replace(first, also=(*first.also, arrival.marker))
            elif limit is not None and len(found) >= limit:
                break
            elif slot not in known and self._is_wanted(slot, endpoints):
                found[slot] = arrival
        return list(found.values())

    def _is_wanted(self, slot: Slot, endpoints: Collection[tuple[str, str]] | None) -> bool:
        wanted = endpoints is None or (slot.source, slot.endpoint) in endpoints
        return wanted and self.store.exists(slot.manifest_key)

    def _markers(self, cursor: Cursor) -> Iterator[Arrival]:
        """Yield unseen markers, oldest first, as far as they are asked for."""
        for folder in self._days(cursor):
            for stored in self.store.list(folder, cursor.after or None):
                if stored.key not in cursor.seen:
                    yield Arrival.parse(stored.key)

    def _days(self, cursor: Cursor) -> Sequence[str]:
        """Return the folders to list: on S3 the log, else its day folders from the cursor on.

        S3 lists the whole log from the cursor on as fast as one day of it, and in order. A recent cursor's are named without asking the store, whose answer grows with the log's age:
        7 ms for 400 days in a local folder. Tomorrow's is for writers whose clock is ahead.
        """
        if self.store.lists_from_key:
            return [ARRIVALS]
        today = datetime.now(UTC).date()
        if cursor.after:
            first = _marker_day(cursor.after)
            if timedelta(0) <= today - first <= _RECENT:
                days = (today - first).days + 2
                return [f"{ARRIVALS}/dt={first + timedelta(days=n)}" for n in range(days)]
        first_folder = cursor.after.rsplit("/", 1)[0]
        return [folder for folder in self.store.folders(ARRIVALS) if folder >= first_folder]


def marker_key(slot: Slot, written_at: datetime) -> str:
    """Return the arrivals-log key of `slot` written at `written_at`."""
    stamp = written_at.astimezone(UTC)
    name = "~".join([f"{stamp:%H%M%S.%f}", slot.source, slot.endpoint, str(slot.day), slot.name])
    return f"{ARRIVALS}/dt={stamp:%Y-%m-%d}/{name}"


def advance(cursor: Cursor, processed: Collection[Arrival], now: datetime) -> Cursor:
    """Return the cursor after `processed`: settled up to one overlap window before `now`."""
    horizon = marker_key_floor(now - OVERLAP)
    markers = cursor.seen.union(*((arrival.marker, *arrival.also) for arrival in processed))
    settled = [marker for marker in markers if marker < horizon]
    after = max([cursor.after, *settled])
    return Cursor(after=after, seen=frozenset(m for m in markers if m > after))


def _marker_day(marker: str) -> date:
    return date.fromisoformat(marker.split("/")[1].removeprefix("dt="))


def marker_key_floor(moment: datetime) -> str:
    """Return the smallest marker key that can be written at `moment`."""
    stamp = moment.astimezone(UTC)
    return f"{ARRIVALS}/dt={stamp:%Y-%m-%d}/{stamp:%H%M%S.%f}"


def sha256(body: bytes) -> str:
    """Return the hexadecimal SHA-256 of `body`."""
    return hashlib.sha256(body).hexdigest()


def kept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the response headers that say how fresh, how long and how limited an answer was."""
    lowered = {name.lower(): value for name, value in headers.items()}
    limits = {name: value for name, value in lowered.items() if name.startswith("x-ratelimit")}
    return {name: lowered[name] for name in _KEPT_HEADERS if name in lowered} | limits
