import gzip
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from dataplatform.lake import landing
from dataplatform.lake.api.client import ApiClient, Response
from dataplatform.lake.api.endpoint import Endpoint, Field
from dataplatform.lake.api.errors import NotFoundError, PermanentApiError, TransientApiError
from dataplatform.lake.landing import (
    WRITERS,
    Landing,
    Progress,
    Scope,
    land,
    plan_slot,
    records_in,
)
from dataplatform.lake.manifest import ARRIVALS, Cursor, RawZone, sha256
from dataplatform.lake.store.object_store import ObjectStore, open_folder
from dataplatform.raw.coingecko.coins_list import endpoint as coins_list
from dataplatform.raw.coingecko.coins_markets import endpoint as coins_markets
from dataplatform.raw.coingecko.exchanges import endpoint as exchanges
from dataplatform.raw.coingecko.global_ import endpoint as global_
from dataplatform.raw.coingecko.market_chart import endpoint as market_chart
from dataplatform.raw.coingecko.ohlc import endpoint as ohlc
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault

NOW = datetime.now(UTC)
DAY = date.fromordinal(NOW.date().toordinal() - 2)
MARKETS = replace(coins_markets, page_size=15)


def landed(
    zone: RawZone,
    client: ApiClient,
    endpoint: Endpoint,
    scope: Scope | None = None,
    days: tuple[date, date] | None = None,
) -> Landing:
    slot = plan_slot(endpoint, NOW, days)
    return land(zone, endpoint, client, slot, tier="demo", scope=scope, listener=str)


def bodies(zone: RawZone, result: Landing) -> list[bytes]:
    return [gzip.decompress(zone.store.get(file.key)) for file in result.manifest.files]


def keys(zone: RawZone) -> set[str]:
    return {stored.key for stored in zone.store.list("coingecko")}


@pytest.mark.parametrize(
    ("endpoint", "days", "day", "name"),
    [
        (coins_markets, None, "2026-11-20", "T13"),
        (coins_list, None, "2026-11-20", "D"),
        (market_chart, ("2026-10-01", "2026-10-01"), "2026-10-01", "D"),
        (market_chart, ("2026-10-01", "2026-10-03"), "2026-10-01", "2026-10-01_2026-10-03"),
    ],
)
def test_a_slot_is_known_before_the_fetch(
    endpoint: Endpoint, days: tuple[str, str] | None, day: str, name: str
) -> None:
    at = datetime(2026, 11, 20, 13, 59, tzinfo=UTC)
    window = (date.fromisoformat(days[0]), date.fromisoformat(days[1])) if days else None
    slot = plan_slot(endpoint, at, window)
    assert (str(slot.day), slot.name) == (day, name)


def test_a_partitioned_endpoint_wants_its_days() -> None:
    with pytest.raises(ValueError, match="which days"):
        plan_slot(market_chart, NOW)


def test_bodies_land_byte_for_byte_with_their_digest(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    result = landed(zone, client, coins_list)
    (body,) = bodies(zone, result)
    assert json.loads(body) == server.market.listing(platforms=True)
    (file,) = result.manifest.files
    assert file.sha256 == sha256(body)
    assert file.size == len(zone.store.get(file.key))
    assert file.records == 40
    assert file.params == {"include_platform": "true"}
    assert file.request == f"{server.url}/coins/list?include_platform=true"
    assert result.manifest.complete


def test_pages_are_read_until_one_is_short(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    result = landed(zone, client, MARKETS)
    assert [file.records for file in result.manifest.files] == [15, 15, 10]
    assert [file.params["page"] for file in result.manifest.files] == ["1", "2", "3"]
    ids = [record["id"] for body in bodies(zone, result) for record in json.loads(body)]
    assert ids == server.market.ids()


def test_an_empty_page_after_full_ones_is_the_end(zone: RawZone, client: ApiClient) -> None:
    result = landed(zone, client, replace(coins_markets, page_size=20))
    assert [file.records for file in result.manifest.files] == [20, 20, 0]


def test_a_limit_on_pages_is_an_excerpt(zone: RawZone, client: ApiClient) -> None:
    result = landed(zone, client, MARKETS, Scope(pages=2))
    assert len(result.manifest.files) == 2
    assert not result.manifest.complete


def test_a_limit_beyond_the_end_is_no_excerpt(zone: RawZone, client: ApiClient) -> None:
    assert landed(zone, client, MARKETS, Scope(pages=9)).manifest.complete


def test_pages_that_shift_land_as_they_came(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    def turn() -> None:
        server.market.rotation = 38

    # The fault is taken by the second page: the first coin of page 1 slides down to page 2.
    server.script(Fault(kind="call", action=lambda: None), Fault(kind="call", action=turn))
    result = landed(zone, client, MARKETS)
    ids = [record["id"] for body in bodies(zone, result) for record in json.loads(body)]
    assert len(ids) == 40
    assert len(set(ids)) == 38
    assert ids[15:17] == ids[13:15]


def test_an_api_that_ignores_the_page_is_not_read_for_ever(zone: RawZone) -> None:
    class Stuck:
        asked = 0

        def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Response:
            self.asked += 1
            return Response(b'[{"id":"a"}]', 200, {}, path, NOW)

    stuck = Stuck()
    endpoint = replace(coins_markets, page_size=1)
    with pytest.raises(PermanentApiError, match="repeats"):
        land(zone, endpoint, stuck, plan_slot(endpoint, NOW), tier="x", listener=str)
    assert stuck.asked == 2


def test_a_committed_slot_asks_and_writes_nothing(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    first = landed(zone, client, MARKETS)
    before, asked = keys(zone), len(server.seen)
    again = landed(zone, client, MARKETS)
    assert (first.fetched, again.fetched) == (True, False)
    assert again.manifest == first.manifest
    assert (keys(zone), len(server.seen)) == (before, asked)
    assert len(zone.arrivals(Cursor())) == 1


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_killed_run_leaves_nothing_behind_once_repeated(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer, page: int
) -> None:
    regular = [Fault(kind="call", action=lambda: None)] * (page - 1)
    server.script(*regular, *[Fault()] * client.patience.attempts)
    with pytest.raises(TransientApiError):
        landed(zone, client, MARKETS)
    assert zone.arrivals(Cursor()) == []
    result = landed(zone, client, MARKETS)
    named = {file.key for file in result.manifest.files} | {result.manifest.key}
    assert keys(zone) == named
    assert len(zone.arrivals(Cursor())) == 1


def test_of_two_runs_at_once_the_first_manifest_stands(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    inner: list[Landing] = []
    # While the outer run asks for its last page, another run of the same slot begins and ends.
    quiet = [Fault(kind="call", action=lambda: None)] * 2
    overtaken = Fault(kind="call", action=lambda: inner.append(landed(zone, client, MARKETS)))
    server.script(*quiet, overtaken)
    outer = landed(zone, client, MARKETS)
    assert (inner[0].fetched, outer.fetched) == (True, False)
    assert outer.manifest == inner[0].manifest
    for file, body in zip(outer.manifest.files, bodies(zone, outer), strict=True):
        assert sha256(body) == file.sha256
    assert keys(zone) == {file.key for file in outer.manifest.files} | {outer.manifest.key}


def test_the_same_answers_give_the_same_bytes(client: ApiClient, tmp_path: Path) -> None:
    stored = []
    for name in "ab":
        zone = RawZone(open_folder(tmp_path / name))
        result = landed(zone, client, coins_list)
        stored.append([(f.key, zone.store.get(f.key)) for f in result.manifest.files])
    assert stored[0] == stored[1]
    # Bytes 4 to 7 of a gzip file are its time: two files of one second would be equal anyway.
    assert all(packed[4:8] == bytes(4) for _, packed in stored[0])


def test_a_day_of_history_is_asked_from_midnight_to_midnight(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    result = landed(zone, client, market_chart, Scope(("bitcoin", "tether")), (DAY, DAY))
    midnight = int(datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp())
    assert [file.params["id"] for file in result.manifest.files] == ["bitcoin", "tether"]
    for file in result.manifest.files:
        assert (int(file.params["from"]), int(file.params["to"])) == (midnight, midnight + 86_400)
        assert file.records == 25
    assert server.paths() == [f"/coins/{c}/market_chart/range" for c in ("bitcoin", "tether")]


def test_a_range_is_asked_in_pieces_that_stay_hourly_and_leave_no_gap(
    zone: RawZone, client: ApiClient
) -> None:
    first = date.fromordinal(DAY.toordinal() - 199)
    result = landed(zone, client, market_chart, Scope(("bitcoin",)), (first, DAY))
    windows = [(int(f.params["from"]), int(f.params["to"])) for f in result.manifest.files]
    assert len(windows) == 3
    assert windows[-1][1] - windows[0][0] == 200 * 86_400
    assert all(end - start <= landing.CHUNK_DAYS * 86_400 for start, end in windows)
    assert all(a[1] == b[0] for a, b in pairwise(windows))
    records = [file.records or 0 for file in result.manifest.files]
    assert sum(records) >= 200 * 24


def test_a_retired_coin_does_not_keep_the_others_from_landing(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    server.market.retired = {"ethereum"}
    result = landed(zone, client, ohlc, Scope(("bitcoin", "ethereum", "tether")))
    assert [file.params["id"] for file in result.manifest.files] == ["bitcoin", "tether"]
    assert result.manifest.missing == ("ethereum",)


def test_a_retired_coin_is_asked_once_not_once_a_piece(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    first = date.fromordinal(DAY.toordinal() - 199)
    landed(zone, client, market_chart, Scope(("gone", "bitcoin")), (first, DAY))
    assert [path for path in server.paths() if "gone" in path] == ["/coins/gone/market_chart/range"]


def test_all_coins_retired_is_an_error_with_a_remedy(zone: RawZone, client: ApiClient) -> None:
    with pytest.raises(NotFoundError, match="DATAPLATFORM_COINS"):
        landed(zone, client, ohlc, Scope(("gone", "lost")))
    assert keys(zone) == set()


def test_no_coins_configured_is_said(zone: RawZone, client: ApiClient) -> None:
    with pytest.raises(PermanentApiError, match="DATAPLATFORM_COINS"):
        landed(zone, client, ohlc, Scope(()))


def test_days_beyond_the_plan_say_what_to_do(zone: RawZone, client: ApiClient) -> None:
    old = date.fromordinal(DAY.toordinal() - 500)
    with pytest.raises(PermanentApiError, match="365 days") as caught:
        landed(zone, client, market_chart, Scope(("bitcoin",)), (old, old))
    assert caught.value.code == 10012


def test_an_id_is_quoted_in_the_path(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    with pytest.raises(NotFoundError):
        landed(zone, client, ohlc, Scope(("a/b?c",)))
    assert server.paths() == ["/coins/a%2Fb%3Fc/ohlc"]


def test_the_currency_of_the_settings_is_asked_for(zone: RawZone, client: ApiClient) -> None:
    result = landed(zone, client, ohlc, Scope(("bitcoin",), vs_currency="eur"))
    assert result.manifest.files[0].params["vs_currency"] == "eur"


def test_a_new_field_is_named_and_kept(
    zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    server.market.extra_fields = {"sentiment": 0.7}
    result = landed(zone, client, MARKETS)
    assert result.manifest.unknown_fields == ("sentiment",)
    assert json.loads(bodies(zone, result)[0])[0]["sentiment"] == 0.7


@pytest.mark.parametrize("endpoint", [coins_list, exchanges, global_, coins_markets])
def test_what_the_api_documents_is_no_drift(
    zone: RawZone, client: ApiClient, endpoint: Endpoint
) -> None:
    assert landed(zone, client, endpoint).manifest.unknown_fields == ()


RATES = replace(
    global_,
    name="exchange_rates",
    fields=(Field("name"), Field("value", "double")),
    ignored=frozenset({"unit"}),
    envelope=frozenset({"rates"}),
)
BTC, EUR = {"name": "Bitcoin", "value": 1}, {"name": "Euro", "value": 2.5, "unit": "€"}


@pytest.mark.parametrize(
    ("endpoint", "parsed", "expected"),
    [
        # A map of records by id, in an envelope or as the whole body: the ids are no fields.
        (RATES, {"rates": {"btc": BTC, "eur": EUR}}, (2, set())),
        (
            RATES,
            {"rates": {"btc": BTC, "eur": EUR | {"type": "fiat"}}, "as_of": 1},
            (2, {"type", "as_of"}),
        ),
        (RATES, {"rates": [BTC, EUR | {"type": "fiat"}]}, (2, {"type"})),
        (replace(RATES, envelope=frozenset()), {"btc": BTC, "eur": EUR}, (2, set())),
        # One record whose fields are maps is no map of records.
        (global_, {"data": {"total_market_cap": {"usd": 1}, "mood": {"fear": 1}}}, (1, {"mood"})),
        (global_, {"error": "odd"}, (0, {"error"})),
        (global_, {"data": {"markets": 1, "mood": 1}, "extra": 1}, (1, {"mood", "extra"})),
        (market_chart, {"prices": [1, 2], "market_caps": [1], "depth": []}, (2, {"depth"})),
        (ohlc, [[1, 2, 3, 4, 5]], (1, set())),
        (coins_list, [], (0, set())),
        (coins_list, "odd", (0, set())),
    ],
)
def test_records_and_unknown_fields(
    endpoint: Endpoint, parsed: object, expected: tuple[int, set[str]]
) -> None:
    assert records_in(endpoint, parsed) == expected


def test_progress_says_how_many_and_how_long(zone: RawZone, client: ApiClient) -> None:
    told: list[Progress] = []
    slot = plan_slot(MARKETS, NOW)
    land(zone, MARKETS, client, slot, tier="demo", listener=told.append)
    assert [(p.done, p.total) for p in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1].eta == 0
    assert str(told[0]).startswith("coins_markets: 1 of 3, about")


@dataclass(frozen=True)
class Watched(ObjectStore):
    """A store that is slow to write bodies, and knows what it wrote, in which order."""

    refused: str = "none"
    written: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    most: list[int] = field(default_factory=list)

    def put(self, key: str, body: bytes) -> None:
        if self.refused in key:
            raise PermissionError(key)
        self.begun.append(key)
        self.most.append(len(self.begun) - len(self.written))
        if not key.startswith(ARRIVALS):
            time.sleep(0.05)
        super().put(key, body)
        self.written.append(key)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        self.written.append(key)
        return super().put_if_absent(key, body)


class AtOnce:
    """An API that answers at once."""

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Response:
        return Response(b"[]", 200, {}, path, NOW)


def test_marker_and_manifest_wait_for_the_last_body(folder_zone: RawZone) -> None:
    store = Watched(folder_zone.store.backend, "")
    scope = Scope(coins=tuple(f"coin-{number}" for number in range(9)))
    slot = plan_slot(ohlc, NOW)
    result = land(RawZone(store), ohlc, AtOnce(), slot, tier="x", scope=scope, listener=str)
    *first, marker, manifest = store.written
    assert sorted(first) == [file.key for file in result.manifest.files]
    assert len(first) == 9
    assert marker.startswith(ARRIVALS)
    assert manifest == result.manifest.key
    assert 1 < max(store.most) <= WRITERS


def test_a_body_that_is_refused_ends_the_fetch_and_commits_nothing(
    folder_zone: RawZone, client: ApiClient, server: CoinGeckoServer
) -> None:
    store = Watched(folder_zone.store.backend, "", refused="page-0002")
    with pytest.raises(PermissionError):
        landed(RawZone(store), client, replace(coins_markets, page_size=1))
    assert folder_zone.arrivals(Cursor()) == []
    assert len(server.seen) <= 2 + WRITERS
