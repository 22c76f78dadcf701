"""A simulated market: the same seed and moment give the same figures.

It has the oddities that were measured in real answers: nulls in supplies and ranks, `roi` null or
an object, whole numbers where a price is large, symbols shared by several coins, a last point that
is "now", and steps that are not even.
"""

import hashlib
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

FIRST = ("bitcoin", "ethereum", "tether", "solana", "ripple", "cardano", "chainlink", "litecoin")
HOUR = 3600
DAY = 24 * HOUR


@dataclass
class Market:
    """N coins and their prices at any moment.

    Args:
        coins: how many are listed.
        seed: another seed is another market.
        retired: ids the API no longer knows.
        extra_fields: fields that the market's records carry beyond the documented ones.
        rotation: by how many places the ranking is turned; changing it between two pages shifts
            coins from one to the other.
    """

    coins: int = 40
    seed: int = 1
    retired: set[str] = field(default_factory=set)
    extra_fields: dict[str, Any] = field(default_factory=dict)
    rotation: int = 0

    def ids(self) -> list[str]:
        """Return the listed ids in order of rank."""
        ids = [FIRST[i] if i < len(FIRST) else f"coin-{i}" for i in range(self.coins)]
        turned = ids[self.rotation :] + ids[: self.rotation]
        return [coin for coin in turned if coin not in self.retired]

    def price(self, coin: str, at: float, currency: str = "usd") -> float:
        """Return the price at Unix second `at`."""
        base = 10 ** (4 - 7 * self._unit(coin, "base"))
        slow = math.sin(at / (DAY * (5 + 20 * self._unit(coin, "period"))))
        fast = math.sin(at / (HOUR * (2 + 9 * self._unit(coin, "fast"))))
        rate = {"usd": 1.0, "eur": 0.92}.get(currency, 0.5)
        return rate * base * math.exp(0.3 * slow + 0.02 * fast)

    def supply(self, coin: str) -> float:
        """Return the coins in circulation."""
        return round(1e6 * 10 ** (3 * self._unit(coin, "supply")))

    def record(self, coin: str, rank: int, at: float, currency: str) -> dict[str, Any]:
        """Return one record of /coins/markets."""
        price, cap = self._mixed(coin, at, currency), self._cap(coin, at, currency)
        before = self.price(coin, at - DAY, currency)
        change = (self.price(coin, at, currency) - before) / before * 100
        return {
            **self._names(coin),
            "image": f"https://assets.example/{coin}.png",
            "current_price": price,
            "market_cap": cap,
            # Beyond some place coins are not ranked any more.
            "market_cap_rank": rank if rank <= 0.9 * self.coins or self.coins < 10 else None,
            "fully_diluted_valuation": None if self._odd(coin, "fdv", 5) else cap * 1.1,
            "total_volume": cap * 0.05,
            "high_24h": max(price, before),
            "low_24h": min(price, before),
            "price_change_24h": price - before,
            "price_change_percentage_24h": change,
            "market_cap_change_24h": cap * change / 100,
            "market_cap_change_percentage_24h": change,
            "circulating_supply": self.supply(coin),
            "total_supply": None if self._odd(coin, "total", 14) else self.supply(coin),
            "max_supply": None if self._odd(coin, "max", 2) else int(self.supply(coin) * 2),
            "ath": price * 2,
            "ath_change_percentage": -50.0,
            "ath_date": "2024-03-14T07:10:36.635Z",
            "atl": price / 100,
            "atl_change_percentage": 9900.0,
            "atl_date": "2015-07-06T00:00:00.000Z",
            "roi": {"times": 2.5, "currency": "usd", "percentage": 250.1}
            if self._odd(coin, "roi", 4)
            else None,
            "last_updated": iso(at - 30),
            "price_change_percentage_1h_in_currency": change / 24,
            "price_change_percentage_24h_in_currency": change,
            "price_change_percentage_7d_in_currency": change * 3,
            "price_change_percentage_30d_in_currency": None if rank % 9 == 0 else change * 5,
            **self.extra_fields,
        }

    def listing(self, platforms: bool) -> list[dict[str, Any]]:
        """Return /coins/list."""
        return [
            self._names(coin) | ({"platforms": self._platforms(coin)} if platforms else {})
            for coin in sorted(self.ids())
        ]

    def chart(
        self, coin: str, currency: str, start: float, end: float, now: float
    ) -> dict[str, Any]:
        """Return /coins/{id}/market_chart/range: hourly up to 90 days, else daily at 00:00."""
        step = HOUR if end - start <= 90 * DAY else DAY
        first = math.ceil(start / step)
        times: list[float] = [i * step for i in range(first, math.floor(min(end, now) / step) + 1)]
        if step == HOUR:
            # Hourly points come up to minutes late; those of a day come exactly at midnight.
            times = [t + 120 * self._unit(coin, f"jitter{t}") if t % DAY else t for t in times]
        if end >= now:
            times.append(now)
        stamps = [int(t * 1000) for t in times if start <= t <= end]
        return {
            "prices": [[s, self.price(coin, s / 1000, currency)] for s in stamps],
            "market_caps": [[s, self._cap(coin, s / 1000, currency)] for s in stamps],
            "total_volumes": [[s, self._cap(coin, s / 1000, currency) * 0.05] for s in stamps],
        }

    def candles(self, coin: str, currency: str, days: int, now: float) -> list[list[float]]:
        """Return /coins/{id}/ohlc; the time of a candle is its close."""
        step = HOUR // 2 if days <= 1 else 4 * HOUR if days <= 30 else 4 * DAY
        last = math.floor(now / step)
        return [
            [i * step * 1000, *self._candle(coin, currency, i * step, step)]
            for i in range(last - days * DAY // step + 1, last + 1)
        ]

    def exchanges(self) -> list[dict[str, Any]]:
        """Return every exchange."""
        return [
            {
                "id": f"exchange-{i}",
                "name": f"Exchange {i}",
                "year_established": None if i % 5 == 0 else 2010 + i % 15,
                "country": None if i % 7 == 0 else "Switzerland",
                "description": "",
                "url": f"https://exchange-{i}.example/",
                "image": f"https://assets.example/e{i}.png",
                "has_trading_incentive": False,
                "trust_score": None if i > 200 else 10 - i // 25,
                "trust_score_rank": i + 1,
                "trade_volume_24h_btc": 50_000 / (i + 1),
                "trade_volume_24h_btc_normalized": 40_000 / (i + 1),
            }
            for i in range(260)
        ]

    def categories(self, at: float) -> list[dict[str, Any]]:
        """Return /coins/categories."""
        return [
            {
                "id": name,
                "name": name.title(),
                "market_cap": 1e12 / (i + 1),
                "market_cap_change_24h": math.sin(at / DAY + i),
                "content": "",
                "top_3_coins_id": self.ids()[i : i + 3],
                "top_3_coins": [],
                "volume_24h": 1e10 / (i + 1),
                "updated_at": iso(at - 60),
            }
            for i, name in enumerate(["layer-1", "stablecoins", "meme"])
        ]

    def totals(self, at: float) -> dict[str, Any]:
        """Return /global."""
        caps = {coin: self._cap(coin, at, "usd") for coin in self.ids()}
        total = sum(caps.values())
        return {
            "data": {
                "active_cryptocurrencies": len(caps),
                "upcoming_icos": 0,
                "ongoing_icos": 49,
                "ended_icos": 3376,
                "markets": 260,
                "total_market_cap": {"usd": total, "eur": total * 0.92},
                "total_volume": {"usd": total * 0.05, "eur": total * 0.046},
                "market_cap_percentage": {
                    "btc": caps.get("bitcoin", 0) / total * 100,
                    "eth": caps.get("ethereum", 0) / total * 100,
                },
                "market_cap_change_percentage_24h_usd": 1.5,
                "volume_change_percentage_24h_usd": -2.5,
                "updated_at": int(at),
            }
        }

    def _names(self, coin: str) -> dict[str, str]:
        # Every tenth coin shares its symbol: a symbol is no key.
        shared = coin.startswith("coin-") and coin.endswith("0")
        return {"id": coin, "symbol": "dup" if shared else coin[:8], "name": coin.title()}

    def _platforms(self, coin: str) -> dict[str, str | None]:
        digest = hashlib.sha256(coin.encode()).hexdigest()[:40]
        return {"ethereum": f"0x{digest}"} if self._odd(coin, "platform", 2) else {}

    def _candle(self, coin: str, currency: str, close_at: int, step: int) -> list[float]:
        prices = [self.price(coin, close_at - step + step * k / 8, currency) for k in range(9)]
        return [prices[0], max(prices), min(prices), prices[-1]]

    def _mixed(self, coin: str, at: float, currency: str) -> float:
        price = self.price(coin, at, currency)
        return round(price) if price > 1000 else price

    def _cap(self, coin: str, at: float, currency: str) -> float:
        return self.price(coin, at, currency) * self.supply(coin)

    def _unit(self, coin: str, what: str) -> float:
        digest = hashlib.sha256(f"{self.seed}/{coin}/{what}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def _odd(self, coin: str, what: str, one_in: int) -> bool:
        return self._unit(coin, what) < 1 / one_in


def iso(at: float) -> str:
    """Return a moment as the API writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
