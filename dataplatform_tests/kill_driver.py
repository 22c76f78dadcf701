"""Run a small lineage once, and kill this process at a point that is named from outside.

    python -m dataplatform_tests.kill_driver HOME WAVE [POINT]

The market is simulated and its answers carry the wave's time, so that two lakes that saw the same
waves are equal to the last column. POINT is `name:when:n`: before or after the n-th call of the
function of that name the process kills itself by SIGKILL; nothing can clean up.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Final

from dagster import DagsterInstance, asset, materialize

from dataplatform.assets.tables import build_table_assets
from dataplatform.lake import build, landing
from dataplatform.lake.api.client import Response
from dataplatform.lake.landing import Scope, land, plan_slot
from dataplatform.lake.manifest import RawZone
from dataplatform.lake.query import EmbeddedEngine
from dataplatform.lake.store.object_store import ObjectStore
from dataplatform.raw import all_endpoints
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_local import SparkLocalResource
from dataplatform.tables import all_specs
from dataplatform.views import all_views
from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer

START: Final = datetime(2026, 3, 10, 12, 20, tzinfo=UTC)
LANDED: Final = ("global", "coins_list", "market_chart", "coins_markets")
TABLES: Final = ("global_market", "coins", "price_points", "market_snapshots", "daily_prices")
VIEWS: Final = ("data_freshness",)
DURING_SECONDS: Final = 0.25
"""How long after the start of a Spark write `during` kills: it takes longer than that."""

POINTS: Final[Mapping[str, tuple[Any, str]]] = {
    "put": (ObjectStore, "put"),
    "put_if_absent": (ObjectStore, "put_if_absent"),
    "delete": (ObjectStore, "delete"),
    "write_body": (landing, "write_body"),
    "commit": (RawZone, "commit"),
    "ensure_table": (build, "ensure_table"),
    "change": (build.Builder, "_change"),
    "branch": (build.Builder, "_branch"),
    "merge": (build.Builder, "_merge"),
    "write": (build.Builder, "_write"),
    "audit": (build, "audit"),
    "publish": (build.Builder, "_publish"),
    "record": (build.Builder, "_record"),
    "deploy": (EmbeddedEngine, "deploy"),
}


class Simulated:
    """Answers as the API would at one moment; `fetched_at` is that moment."""

    def __init__(self, wave: int, coins: int = 5) -> None:
        self.at = START + timedelta(hours=wave)
        # Wave 1: a coin more is a new listing, one less a delisting. Wave 2 lists the same again.
        market = Market(coins=coins + min(wave, 1), retired={"tether"} if wave else set())
        self._server = CoinGeckoServer(market, now=self.at.timestamp)

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Response:
        status, body, headers = self._server.answer(path, params or {}, {})
        assert status == 200, f"{path}: {body}"
        return Response(json.dumps(body).encode(), status, headers, path, self.at)


def die() -> None:
    """End as a power cut does."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Replace the named function by one that kills the process."""
    name, when, wanted = point.split(":")
    owner, attribute = POINTS[name]
    original: Callable[..., Any] = getattr(owner, attribute)
    calls = 0

    @wraps(original)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls == int(wanted)
        if now and when == "before":
            die()
        if now and when == "during":
            threading.Timer(DURING_SECONDS, die).start()
        result = original(*args, **kwargs)
        if now and when == "after":
            die()
        return result

    setattr(owner, attribute, deadly)


def land_wave(zone: RawZone, wave: int, coins: int = 5) -> None:
    """Land every endpoint's slot; what is committed is left alone."""
    source = Simulated(wave, coins)
    day = source.at.date()
    for name in LANDED:
        endpoint = all_endpoints()[name]
        # Daily endpoints would fill the same slot again: a wave is a day to them.
        moment = source.at + timedelta(days=wave if endpoint.every == "day" else 0)
        span = (day - timedelta(days=wave), day)
        slot = plan_slot(endpoint, moment, span)
        scope = Scope(coins=("bitcoin", "ethereum"))
        land(zone, endpoint, source, slot, tier="demo", scope=scope)


def main(home: str, wave: int, point: str | None) -> None:
    """Land, build and deploy."""
    if point is not None:
        arm(point)
    lake = LakeResource(home=home, origin="live")
    land_wave(lake.raw_zone, wave)
    specs = {name: all_specs()[name] for name in TABLES}

    @asset(deps=[["warehouse", name] for name in TABLES])
    def views() -> None:
        engine = lake.place.engine()
        for name in all_specs():
            build.ensure_table(lake.catalog(), all_specs()[name])
        for name in VIEWS:
            engine.deploy(all_views()[name])

    resources = {"lake": lake, "spark": SparkLocalResource(memory="512m")}
    assets = [build_table_assets(specs), views]
    with DagsterInstance.local_temp(str(Path(home) / "dagster")) as instance:
        assert materialize(assets, resources=resources, instance=instance).success


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
