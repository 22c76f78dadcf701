"""From an endpoint's declaration to committed raw files.

A slot is planned before anything is asked, so a run that is repeated finds what it has: a committed
slot is returned as it is, and nothing is asked. A file's name holds the digest of its body. Two runs
that fetch one slot at the same time therefore never overwrite each other's files, and the manifest
that is first decides; what it does not name (a killed run's files, the slower run's) is removed.
"""

import gzip
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.api.errors import NotFoundError, PermanentApiError
from dataplatform.lake.manifest import Manifest, RawFile, RawZone, Slot, kept_headers, sha256

logger = logging.getLogger(__name__)

CHUNK_DAYS: Final = 90
"""CoinGecko answers ranges up to 90 days hour by hour, longer ones day by day."""
MOST_PAGES: Final = 1000
"""Twelve times what /coins/markets has; more is an API that ignores `page`."""
WRITERS: Final = 4
"""How many bodies of a slot are written at a time, while the next is fetched."""


class Answer(Protocol):
    """What a fetch gives."""

    @property
    def body(self) -> bytes:
        """The body as sent."""
        ...

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The response headers."""
        ...

    @property
    def request(self) -> str:
        """What was asked, without secrets."""
        ...

    @property
    def fetched_at(self) -> datetime:
        """When it was received."""
        ...


class Source(Protocol):
    """What a slot is fetched from."""

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Answer:
        """Return the answer to a GET of `path`."""
        ...


@dataclass(frozen=True)
class Scope:
    """What to ask for, where the declaration leaves it open.

    Attributes:
        coins: ids, for endpoints that are asked coin by coin.
        vs_currency: replaces that of the declaration.
        pages: at most so many pages of a paged endpoint; None, until the end.
    """

    coins: Sequence[str] = ()
    vs_currency: str = "usd"
    pages: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a slot has come. `total` requests and `eta` seconds are None while unknown."""

    what: str
    done: int
    total: int | None
    eta: float | None

    def __str__(self) -> str:
        """Return it as a line for a log."""
        of = f" of {self.total}" if self.total else ""
        left = f", about {self.eta:.0f} s left" if self.eta else ""
        return f"{self.what}: {self.done}{of}{left}"


Listener = Callable[[Progress], object]
Put = Callable[[str, bytes], object]
"""Writes an object, or begins to: `ObjectStore.put`, or what waits for it before the manifest."""


@dataclass(frozen=True)
class Landing:
    """A committed slot, and whether this call committed it (False: it was there)."""

    manifest: Manifest
    fetched: bool


@dataclass(frozen=True)
class _Request:
    """One planned request; `params` include path variables, `name` is the file's stem."""

    path: str
    query: Mapping[str, str]
    params: Mapping[str, str]
    name: str
    coin: str | None = None


def plan_slot(endpoint: Endpoint, at: datetime, days: tuple[date, date] | None = None) -> Slot:
    """Return the slot that a fetch of `endpoint` fills.

    Args:
        endpoint: what is fetched.
        at: when, for hourly and daily endpoints.
        days: first and last day (inclusive), for partitioned ones.
    """
    moment = at.astimezone(UTC)
    day, name = moment.date(), "D"
    if endpoint.every == "hour":
        name = f"T{moment:%H}"
    if endpoint.every == "partition":
        if days is None:
            raise ValueError(f"{endpoint.name} is partitioned by day: which days?")
        day = days[0]
        name = "D" if days[0] == days[1] else f"{days[0]}_{days[1]}"
    return Slot(source=endpoint.source, endpoint=endpoint.name, day=day, name=name)


def land(
    zone: RawZone,
    endpoint: Endpoint,
    source: Source,
    slot: Slot,
    *,
    tier: str,
    scope: Scope | None = None,
    listener: Listener = logger.info,
) -> Landing:
    """Fetch a slot and commit it; a committed one is returned and nothing is asked.

    A coin that the API does not know does not keep the others from landing: it is named in the
    manifest's `missing`. Where no coin is known, the error is raised.

    Raises:
        PermanentApiError: a person must change something first.
        TransientApiError: it failed at every attempt.
    """
    present = zone.manifest(slot)
    if present is not None:
        return Landing(present, fetched=False)
    fetch = _Fetch(zone, endpoint, source, slot, scope or Scope(), listener)
    fetch.run()
    return commit(
        zone,
        Manifest(
            slot=slot,
            origin="live",
            tier=tier,
            complete=fetch.complete,
            fetched_at=fetch.files[0].fetched_at,
            files=tuple(fetch.files),
            missing=tuple(fetch.missing),
            unknown_fields=tuple(sorted(fetch.unknown)),
        ),
    )


def commit(zone: RawZone, manifest: Manifest) -> Landing:
    """Commit a slot whose files are written, and remove the files that no manifest names."""
    first = zone.commit(manifest)
    standing = manifest if first else zone.manifest(manifest.slot)
    if standing is None:
        raise RuntimeError(f"{manifest.key} was refused as present, and is not there")
    named = {file.key for file in standing.files} | {standing.key}
    for stored in list(zone.store.list(manifest.slot.folder)):
        if stored.key not in named:
            zone.store.delete(stored.key)
    return Landing(standing, fetched=first)


def write_body(put: Put, slot: Slot, stem: str, suffix: str, body: bytes) -> tuple[str, int]:
    """Write a body, compressed, under a name that holds its digest; return key and stored size."""
    key = f"{slot.folder}/{visible(stem)}.{sha256(body)[:12]}.{suffix}.gz"
    # mtime=0: the same body gives the same bytes.
    packed = gzip.compress(body, compresslevel=6, mtime=0)
    put(key, packed)
    return key, len(packed)


def visible(name: str) -> str:
    """Return a file name that Spark reads: it passes over those that begin with `_` or `.`."""
    return f"file{name}" if name.startswith(("_", ".")) else name


def raw_file(
    put: Put,
    endpoint: Endpoint,
    slot: Slot,
    stem: str,
    params: Mapping[str, str],
    answer: Answer,
) -> tuple[RawFile, set[str]]:
    """Write one answer's body; return its entry in the manifest, and fields nobody declared."""
    count, unknown = records_in(endpoint, orjson.loads(answer.body))
    key, size = write_body(put, slot, stem, "json", answer.body)
    file = RawFile(
        key=key,
        request=answer.request,
        params=dict(params),
        status=answer.status,
        headers=kept_headers(answer.headers),
        sha256=sha256(answer.body),
        size=size,
        records=count,
        fetched_at=answer.fetched_at,
    )
    return file, unknown


def records_in(endpoint: Endpoint, parsed: Any) -> tuple[int, set[str]]:
    """Return how many top-level records a body holds and which fields no declaration names.

    Args:
        endpoint: its `envelope` names the top of a body that is an object.
        parsed: the body's JSON.
    """
    known = {field.name for field in endpoint.fields} | endpoint.ignored
    parts, unknown = [parsed], set[str]()
    if isinstance(parsed, dict) and endpoint.envelope:
        parts = [part for name, part in parsed.items() if name in endpoint.envelope]
        unknown = parsed.keys() - endpoint.envelope
    records = [_records(part, known) for part in parts]
    sent = {name for part in records for one in part if isinstance(one, dict) for name in one}
    return max(map(len, records), default=0), unknown | (sent - known)


def _records(part: Any, known: AbstractSet[str]) -> list[Any]:
    """Return the records in an array, in a map, or the one that `part` itself is."""
    if isinstance(part, list):
        return part
    if not isinstance(part, dict):
        return []
    if known.isdisjoint(part) and all(isinstance(one, dict) for one in part.values()):
        # A map of records: its names are ids, such as those of coins or currencies, not fields.
        return list(part.values())
    return [part]


class _Fetch:
    """One slot being fetched; `run` fills the rest."""

    def __init__(
        self,
        zone: RawZone,
        endpoint: Endpoint,
        source: Source,
        slot: Slot,
        scope: Scope,
        listener: Listener,
    ) -> None:
        self._zone, self._endpoint, self._source = zone, endpoint, source
        self._slot, self._scope, self._listener = slot, scope, listener
        self._started = time.monotonic()
        self._writing: deque[Future[None]] = deque()
        self.files: list[RawFile] = []
        self.missing: list[str] = []
        self.unknown: set[str] = set()
        self.complete = True

    def run(self) -> None:
        """Fetch one answer after the other; return when all bodies are written."""
        with ThreadPoolExecutor(WRITERS) as self._writers:
            self._fetch()
            self._await_writes(0)

    def _fetch(self) -> None:
        if self._endpoint.page_size is not None:
            self._fetch_pages(self._endpoint.page_size)
        else:
            self._fetch_planned(list(self._planned()))

    def _fetch_pages(self, page_size: int) -> None:
        for page in range(1, MOST_PAGES + 1):
            query = self._query() | {"per_page": str(page_size), "page": str(page)}
            name = f"page-{page:04d}"
            file = self._land(_Request(self._endpoint.path, query, query, name))
            self._refuse_repetition(file)
            self._progress(page, _pages(file, page_size))
            if (file.records or 0) < page_size:
                return
            if page == self._scope.pages:
                self.complete = False
                return
        raise PermanentApiError(
            self._endpoint.path, f"no end after {MOST_PAGES} pages", "report it: paging changed"
        )

    def _refuse_repetition(self, file: RawFile) -> None:
        """An API that ignored `page` would be read for ever."""
        if any(file.sha256 == other.sha256 for other in self.files[:-1]):
            raise PermanentApiError(
                file.request, "the page repeats an earlier one", "report it: paging changed"
            )

    def _fetch_planned(self, planned: Sequence[_Request]) -> None:
        refused: NotFoundError | None = None
        for done, request in enumerate(planned, start=1):
            if request.coin is None or request.coin not in self.missing:
                try:
                    self._land(request)
                except NotFoundError as error:
                    if request.coin is None:
                        raise
                    refused = error
                    self.missing.append(request.coin)
                    logger.warning("%s is not known any more: %s", request.coin, error)
            self._progress(done, len(planned))
        if refused is not None and not self.files:
            raise refused

    def _land(self, request: _Request) -> RawFile:
        answer = self._source.fetch(request.path, request.query)
        file, unknown = raw_file(
            self._put, self._endpoint, self._slot, request.name, request.params, answer
        )
        self.unknown |= unknown
        self.files.append(file)
        return file

    def _put(self, key: str, packed: bytes) -> None:
        # A store that fails or is slow is noticed a few answers later, not after the last.
        self._await_writes(WRITERS - 1)
        self._writing.append(self._writers.submit(self._zone.store.put, key, packed))

    def _await_writes(self, most: int) -> None:
        """Wait until at most so many bodies are being written; raises what writing one raised."""
        while len(self._writing) > most:
            self._writing.popleft().result()

    def _planned(self) -> Iterator[_Request]:
        path, query = self._endpoint.path, self._query()
        if not self._endpoint.per_coin:
            yield _Request(path, query, query, "body")
            return
        if not self._scope.coins:
            raise PermanentApiError(path, "no coins are configured", "set DATAPLATFORM_COINS")
        for coin in self._scope.coins:
            coin_path = path.replace("{id}", quote(coin, safe=""))
            for name, window in self._windows():
                asked = query | window
                # Stores treat other characters differently; the digest keeps equal stems apart.
                stem = re.sub(r"[^A-Za-z0-9._-]", "_", coin) + name
                yield _Request(coin_path, asked, asked | {"id": coin}, stem, coin)

    def _windows(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the time ranges of a partitioned slot, at most 90 days each; else one of no range.

        `from` and `to` are Unix seconds; the end of one is the start of the next, so that a point
        exactly there may come twice and is never lost.
        """
        if self._endpoint.every != "partition":
            yield "", {}
            return
        first, last = _slot_days(self._slot)
        start, end = _midnight(first), _midnight(last + timedelta(days=1))
        while start < end:
            stop = min(end, start + timedelta(days=CHUNK_DAYS))
            window = {"from": f"{start.timestamp():.0f}", "to": f"{stop.timestamp():.0f}"}
            yield f"-{start:%Y%m%d}", window
            start = stop

    def _query(self) -> dict[str, str]:
        query = dict(self._endpoint.params)
        if "vs_currency" in query:
            query["vs_currency"] = self._scope.vs_currency
        return query

    def _progress(self, done: int, total: int | None) -> None:
        if total is not None and self._scope.pages is not None and self._endpoint.page_size:
            total = min(total, self._scope.pages)
        spent = time.monotonic() - self._started
        eta = None if total is None else spent / done * max(0, total - done)
        self._listener(Progress(self._endpoint.name, done, total, eta))


def _pages(file: RawFile, page_size: int) -> int | None:
    """Return how many pages there are, where the answer's `total` header says it."""
    total = file.headers.get("total", "")
    return -(-int(total) // page_size) if total.isdigit() else None


def _slot_days(slot: Slot) -> tuple[date, date]:
    if slot.name == "D":
        return slot.day, slot.day
    first, last = slot.name.split("_")
    return date.fromisoformat(first), date.fromisoformat(last)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, clock_time(), UTC)
