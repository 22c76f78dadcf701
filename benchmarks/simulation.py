"""Simulated raw files, written as `land` would write them: a seeded random walk, no real market.

What takes its time in the platform (parsing, typing, merging) sees the fields, the nulls and the
number formats of real answers of /coins/markets; the figures themselves mean nothing.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson

from dataplatform.lake.manifest import Manifest, RawFile, RawZone, Slot, sha256

SEED = 20_250_105


@dataclass(frozen=True)
class Market:
    """A market of `coins` coins whose figures at a moment depend on the seed and that moment only."""

    coins: int
    seed: int = SEED

    def records(self, at: datetime) -> list[dict[str, object]]:
        """Return one record a coin, with the fields of /coins/markets."""
        rng = np.random.default_rng([self.seed, int(at.timestamp())])
        start = np.random.default_rng(self.seed).lognormal(0.0, 4.0, self.coins)
        days = at.timestamp() / 86_400
        prices = start * np.exp(0.2 * np.sin(days / 9 + start) + rng.normal(0, 0.02, self.coins))
        supply = np.random.default_rng(self.seed + 1).lognormal(17.0, 2.0, self.coins)
        changes = rng.normal(0, 5, (4, self.coins)).round(5).tolist()
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        columns = zip(prices.tolist(), supply.tolist(), *changes, strict=True)
        return [_record(i, stamp, *figures) for i, figures in enumerate(columns)]


def _record(i: int, stamp: str, price: float, supply: float, *changes: float) -> dict[str, object]:
    hour, day, week, month = changes
    cap = round(price * supply)
    return {
        "id": f"coin-{i:05d}",
        "symbol": f"c{i % 7000}",
        "name": f"Coin {i}",
        "image": f"https://example.org/coins/images/{i}/large.png",
        "current_price": price,
        "market_cap": cap,
        "market_cap_rank": i + 1 if i < 13_000 else None,
        "fully_diluted_valuation": cap if i % 5 else None,
        "total_volume": round(cap * 0.03),
        "high_24h": price * 1.03,
        "low_24h": price * 0.97,
        "price_change_24h": price * day / 100,
        "price_change_percentage_24h": day,
        "circulating_supply": supply,
        "total_supply": supply if i % 14 else None,
        "max_supply": supply if i % 3 else None,
        "ath": price * 4,
        "ath_change_percentage": -75.0,
        "ath_date": "2021-11-10T14:24:11.849Z",
        "atl": price / 50,
        "atl_date": "2020-03-13T02:22:55.391Z",
        "roi": None,
        "last_updated": stamp,
        "price_change_percentage_1h_in_currency": hour,
        "price_change_percentage_24h_in_currency": day,
        "price_change_percentage_7d_in_currency": week,
        "price_change_percentage_30d_in_currency": month,
    }


def land_snapshot(zone: RawZone, market: Market, at: datetime, page_size: int = 250) -> Manifest:
    """Commit one slot of /coins/markets with the whole market at `at`, in pages."""
    slot = Slot(source="coingecko", endpoint="coins_markets", day=at.date(), name=f"T{at:%H}")
    files = tuple(_files(zone, slot, market.records(at), at, page_size))
    manifest = Manifest(slot=slot, origin="live", tier="simulated", fetched_at=at, files=files)
    zone.commit(manifest, at)
    return manifest


def _files(
    zone: RawZone, slot: Slot, records: list[dict[str, object]], at: datetime, page_size: int
) -> Iterator[RawFile]:
    for page, first in enumerate(range(0, len(records), page_size), start=1):
        chunk = records[first : first + page_size]
        body = orjson.dumps(chunk)
        packed = gzip.compress(body, 1)
        key = f"{slot.folder}/page-{page:04d}.json.gz"
        zone.store.put(key, packed)
        yield RawFile(
            key=key,
            request=f"simulated: seed {SEED}",
            params={"vs_currency": "usd", "page": str(page)},
            sha256=sha256(body),
            size=len(packed),
            records=len(chunk),
            fetched_at=at,
        )


def utc(text: str) -> datetime:
    """Return an ISO date or time stamp as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
