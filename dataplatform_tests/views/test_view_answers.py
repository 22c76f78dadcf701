"""Each view over hand-made rows: the expected figures were computed by hand, not by the view."""

import math
from typing import Any

import pytest

from dataplatform.lake.view_sql import checked_schemas
from dataplatform.views import all_views, table_columns
from dataplatform_tests.views.small_lake import SmallLake, at, day

USD = {"vs_currency": "usd"}


def columns(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("name", sorted(all_views()))
def test_every_view_runs_over_empty_tables_and_keeps_its_types(lake: SmallLake, name: str) -> None:
    view = all_views()[name]
    rows = lake.answer(name)
    assert len(rows) == (len(table_columns()) if name == "data_freshness" else 0)
    expected = checked_schemas(all_views().values(), table_columns())[view.relation]
    live = lake.engine.describe(str(view.relation))
    assert list(live) == list(expected)
    # What sqlglot can tell of the types in Trino is what DuckDB gives.
    loose = {"integer": "bigint"}
    for column, kind in expected.items():
        if kind != "unknown":
            assert loose.get(live[column], live[column]) == loose.get(kind, kind), column


# ---- latest_prices ----


def test_latest_price_is_the_newest_of_three_sources(lake: SmallLake) -> None:
    lake.insert(
        "market_snapshots",
        [
            {**USD, "coin_id": "bitcoin", "snapshot_at": at("2025-02-01T12:00"), "price": 100.0,
             "last_updated_at": at("2025-02-01T11:59"), "symbol": "btc", "name": "Bitcoin",
             "market_cap": 5.0, "total_volume": 7.0},
            {**USD, "coin_id": "solana", "snapshot_at": at("2025-02-01T12:00"), "price": 20.0,
             "last_updated_at": at("2025-02-01T10:00")},
        ],
    )  # fmt: skip
    lake.insert(
        "price_points",
        [
            {**USD, "coin_id": "solana", "observed_at": at("2025-02-01T10:05"), "price": 21.0},
            {**USD, "coin_id": "bitcoin", "observed_at": at("2025-02-01T11:00"), "price": 99.0},
        ],
    )
    lake.insert(
        "daily_prices",
        [
            {**USD, "coin_id": "kava", "day": day("2025-01-03"), "price": 0.5,
             "observed_at": at("2025-01-03"), "source": "inbox"},
            {**USD, "coin_id": "kava", "day": day("2025-01-04"), "price": None,
             "source": "missing"},
            {**USD, "coin_id": "bitcoin", "day": day("2025-02-01"), "price": 98.0,
             "observed_at": at("2025-02-01"), "source": "market_chart"},
        ],
    )  # fmt: skip
    rows = lake.answer("latest_prices")
    assert columns(rows, "coin_id", "price_usd", "source", "observed_at") == [
        ("bitcoin", 100.0, "market_snapshots", at("2025-02-01T11:59")),
        ("kava", 0.5, "daily_prices", at("2025-01-03")),
        ("solana", 21.0, "price_points", at("2025-02-01T10:05")),
    ]
    assert columns(rows[:1], "symbol", "name", "market_cap_usd", "rolling_volume_24h_usd") == [
        ("btc", "Bitcoin", 5.0, 7.0)
    ]


def test_latest_price_takes_names_from_the_current_listing_first(lake: SmallLake) -> None:
    lake.insert(
        "coins",
        [
            {"coin_id": "pol", "valid_from": at("2023-01-01"), "valid_to": at("2024-09-04"),
             "is_current": False, "symbol": "matic", "name": "Polygon", "status": "listed"},
            {"coin_id": "pol", "valid_from": at("2024-09-04"), "is_current": True,
             "symbol": "pol", "name": "POL (ex-MATIC)", "status": "listed"},
        ],
    )  # fmt: skip
    lake.insert(
        "market_snapshots",
        [
            {**USD, "coin_id": coin, "snapshot_at": at(moment), "price": 1.0, "symbol": symbol}
            for coin, moment, symbol in [
                ("pol", "2025-02-01", "old"),
                ("kava", "2025-01-01", "first"),
                ("kava", "2025-02-01", "second"),
            ]
        ],
    )
    rows = lake.answer("latest_prices")
    assert columns(rows, "coin_id", "symbol") == [("kava", "second"), ("pol", "pol")]


def test_latest_price_ignores_other_currencies_zero_and_old_snapshots(lake: SmallLake) -> None:
    snapshot = {"coin_id": "a", "snapshot_at": at("2025-02-10"), "price": 3.0, **USD}
    lake.insert(
        "market_snapshots",
        [
            snapshot,
            {**snapshot, "vs_currency": "eur", "price": 2.0},
            {**snapshot, "coin_id": "zero", "price": 0.0},
            {**snapshot, "coin_id": "old", "snapshot_at": at("2025-02-07T23:59")},
            {**snapshot, "coin_id": "recent", "snapshot_at": at("2025-02-08")},
        ],
    )
    rows = lake.answer("latest_prices")
    assert columns(rows, "coin_id", "price_usd") == [("a", 3.0), ("recent", 3.0)]


# ---- top_movers_24h ----


def test_movers_rank_both_ways_and_drop_what_hardly_trades(lake: SmallLake) -> None:
    snapshot = {**USD, "snapshot_at": at("2025-02-01T12:00"), "total_volume": 1e6}
    lake.insert(
        "market_snapshots",
        [
            {**snapshot, "coin_id": "up", "change_24h_pct": 12.5},
            {**snapshot, "coin_id": "down", "change_24h_pct": -40.0},
            {**snapshot, "coin_id": "dust", "change_24h_pct": 900.0, "total_volume": 49_999.0},
            {**snapshot, "coin_id": "unknown", "change_24h_pct": None},
            {**snapshot, "coin_id": "up", "snapshot_at": at("2025-02-01T11:00"),
             "change_24h_pct": 99.0},
        ],
    )  # fmt: skip
    metrics = {"day": day("2025-01-31"), "price_usd": 1.0}
    lake.insert(
        "coin_metrics_daily",
        [
            {**metrics, "coin_id": "up", "return_1d": 0.9},
            {**metrics, "coin_id": "followed", "return_1d": 0.03},
            {**metrics, "coin_id": "stale", "day": day("2025-01-27"), "return_1d": 0.5},
        ],
    )
    rows = lake.answer("top_movers_24h")
    assert columns(rows, "gainer_rank", "loser_rank", "coin_id", "change_24h", "as_of") == [
        (1, 3, "up", 0.125, day("2025-02-01")),
        (2, 2, "followed", 0.03, day("2025-01-31")),
        (3, 1, "down", -0.4, day("2025-02-01")),
    ]


def test_one_coin_that_is_ahead_does_not_empty_the_movers(lake: SmallLake) -> None:
    lake.insert(
        "coin_metrics_daily",
        [
            {"coin_id": coin, "day": day(on), "price_usd": 1.0, "return_1d": moved}
            for coin, on, moved in [
                ("ahead", "2025-01-31", 0.3),
                ("follows", "2025-01-29", 0.9),
                ("follows", "2025-01-30", 0.2),
                ("edge", "2025-01-28", 0.1),
            ]
        ],
    )
    rows = lake.answer("top_movers_24h")
    assert columns(rows, "coin_id", "change_24h", "as_of") == [
        ("ahead", 0.3, day("2025-01-31")),
        ("follows", 0.2, day("2025-01-30")),
        ("edge", 0.1, day("2025-01-28")),
    ]


# ---- coin_performance ----


def test_performance_is_of_each_coins_own_latest_day(lake: SmallLake) -> None:
    lake.insert(
        "coin_metrics_daily",
        [
            {"coin_id": "a", "day": day("2025-01-01"), "price_usd": 10.0, "return_30d": 0.9},
            {"coin_id": "a", "day": day("2025-01-02"), "price_usd": 12.0, "return_30d": 0.1,
             "return_365d": 2.0, "ma_30d": 8.0, "ma_200d": 0.0},
            {"coin_id": "a", "day": day("2025-01-03"), "price_usd": None},
            {"coin_id": "gone", "day": day("2022-05-13"), "price_usd": 1e-6, "return_30d": None},
        ],
    )  # fmt: skip
    rows = lake.answer("coin_performance")
    assert columns(rows, "coin_id", "as_of", "return_30d", "return_365d", "above_ma_30d") == [
        ("a", day("2025-01-02"), 0.1, 2.0, 0.5),
        ("gone", day("2022-05-13"), None, None, None),
    ]
    assert rows[0]["above_ma_200d"] is None  # no division by zero


# ---- ohlcv_daily ----


def candle(closed: str, minutes: int, figures: tuple[float, float, float, float]) -> dict[str, Any]:
    return {
        **USD,
        "coin_id": "a",
        "closed_at": at(closed),
        "candle_minutes": minutes,
        **dict(zip(("open", "high", "low", "close"), figures, strict=True)),
    }


def point(moment: str, price: float, **more: Any) -> dict[str, Any]:
    known = {**USD, "coin_id": "a", "granularity": "hourly", "is_partial": False}
    return {**known, "observed_at": at(moment), "price": price, **more}


def test_a_candle_belongs_to_the_day_in_which_it_lies(lake: SmallLake) -> None:
    lake.insert(
        "ohlc",
        [
            candle("2025-01-01T20:00", 240, (10, 15, 9, 11)),
            candle("2025-01-02T00:00", 240, (11, 12, 5, 6)),  # closes the first of January
            candle("2025-01-02T04:00", 240, (6, 7, 6, 7)),
            candle("2025-01-05T00:00", 5760, (1, 99, 1, 2)),  # four days: no daily bar
        ],
    )
    rows = lake.answer("ohlcv_daily")
    assert columns(rows, "day", "open", "high", "low", "close", "hours_covered", "source") == [
        (day("2025-01-02"), 6, 7, 6, 7, 4.0, "ohlc"),
        (day("2025-01-01"), 10, 15, 5, 6, 8.0, "ohlc"),
    ]


def test_the_source_that_covers_more_of_the_day_makes_the_bar(lake: SmallLake) -> None:
    lake.insert(
        "ohlc",
        [
            candle("2025-01-01T04:00", 240, (10, 15, 9, 11)),
            candle("2025-01-02T04:00", 240, (20, 25, 19, 21)),
            candle("2025-01-02T00:30", 30, (20, 21, 20, 20)),
        ],
    )
    lake.insert(
        "price_points",
        [
            # Six distinct hours beat one candle of four hours; the order of writing is not time's.
            *[point(f"2025-01-01T{hour:02}:10", 100.0 + hour) for hour in (5, 0, 3, 1, 2, 4)],
            point("2025-01-01T05:40", 90.0, volume_24h=77.0),
            # Four hours tie with the candle of four hours, which wins.
            *[point(f"2025-01-02T{hour:02}:10", 1.0) for hour in range(4)],
            # A daily point alone is no bar.
            point("2025-01-03T00:00", 5.0, granularity="daily"),
        ],
    )
    rows = lake.answer("ohlcv_daily")
    assert columns(rows, "day", "open", "high", "low", "close", "hours_covered", "source") == [
        (day("2025-01-02"), 20, 25, 19, 21, 4.0, "ohlc"),
        (day("2025-01-01"), 100, 105, 90, 90, 6.0, "price_points"),
    ]
    assert rows[1]["rolling_volume_24h"] == 77.0


def test_volume_is_the_days_last_else_that_of_the_next_midnight(lake: SmallLake) -> None:
    lake.insert(
        "price_points",
        [
            point("2025-01-01T01:00", 1.0, volume_24h=10.0),
            point("2025-01-01T23:00", 1.0, volume_24h=30.0),
            point("2025-01-01T12:00", 1.0, volume_24h=20.0),
            point("2025-01-02T12:00", 1.0),
            point("2025-01-31T12:00", 1.0),
        ],
    )
    daily = {**USD, "coin_id": "a", "source": "market_chart", "price": 1.0}
    lake.insert(
        "daily_prices",
        [
            {**daily, "day": day("2025-01-02"), "volume_24h": 40.0},
            {**daily, "day": day("2025-01-03"), "volume_24h": 50.0},
            {**daily, "day": day("2025-02-01"), "volume_24h": 60.0},
        ],
    )
    rows = lake.answer("ohlcv_daily")
    assert columns(rows, "day", "rolling_volume_24h") == [
        (day("2025-01-31"), 60.0),
        (day("2025-01-02"), 50.0),
        (day("2025-01-01"), 30.0),
    ]


# ---- market_dominance ----


def test_dominance_prefers_the_last_global_figure_of_a_day(lake: SmallLake) -> None:
    lake.insert(
        "global_market",
        [
            {"snapshot_at": at("2025-01-02T01:00"), "btc_dominance_pct": 40.0,
             "eth_dominance_pct": 10.0},
            {"snapshot_at": at("2025-01-02T23:00"), "btc_dominance_pct": 50.0,
             "eth_dominance_pct": 25.0, "total_market_cap_usd": 9.0},
        ],
    )  # fmt: skip
    lake.insert(
        "market_daily",
        [
            {"day": day("2025-01-01"), "btc_dominance": 0.75, "eth_dominance": None},
            {"day": day("2025-01-02"), "btc_dominance": 0.99, "eth_dominance": 0.01},
            {"day": day("2025-01-03"), "btc_dominance": None},
        ],
    )
    rows = lake.answer("market_dominance")
    shares = columns(rows, "day", "btc_dominance", "eth_dominance", "other_dominance", "source")
    assert shares == [
        (day("2025-01-02"), 0.5, 0.25, 0.25, "global_market"),
        (day("2025-01-01"), 0.75, None, 0.25, "market_daily"),
    ]


# ---- volatility_ranking ----


def test_volatility_ranks_coins_of_the_newest_week_only(lake: SmallLake) -> None:
    lake.insert(
        "coin_metrics_daily",
        [
            {"coin_id": "calm", "day": day("2025-01-10"), "volatility_30d": 0.1},
            {"coin_id": "wild", "day": day("2025-01-04"), "volatility_30d": math.sqrt(365.0)},
            {"coin_id": "wild", "day": day("2025-01-03"), "volatility_30d": 50.0},
            {"coin_id": "dead", "day": day("2025-01-03"), "volatility_30d": 99.0},
            {"coin_id": "new", "day": day("2025-01-10"), "volatility_30d": None},
        ],
    )
    rows = lake.answer("volatility_ranking")
    assert columns(rows, "volatility_rank", "coin_id", "as_of") == [
        (1, "wild", day("2025-01-04")),
        (2, "calm", day("2025-01-10")),
    ]
    assert rows[0]["daily_volatility"] == pytest.approx(1.0)


# ---- correlation_matrix ----


def test_correlations_become_a_symmetric_matrix_of_the_newest_day(lake: SmallLake) -> None:
    lake.insert(
        "correlations",
        [
            {"day": day("2025-01-01"), "coin_a": "a", "coin_b": "z", "correlation": 0.9},
            {"day": day("2025-01-02"), "coin_a": "a", "coin_b": "b", "correlation": -0.5,
             "observations": 60},
            {"day": day("2025-01-02"), "coin_a": "b", "coin_b": "c", "correlation": 0.25,
             "observations": 90},
        ],
    )  # fmt: skip
    rows = lake.answer("correlation_matrix")
    assert columns(rows, "coin_a", "coin_b", "correlation", "observations") == [
        ("a", "a", 1.0, 60),
        ("a", "b", -0.5, 60),
        ("b", "a", -0.5, 60),
        ("b", "b", 1.0, 90),
        ("b", "c", 0.25, 90),
        ("c", "b", 0.25, 90),
        ("c", "c", 1.0, 90),
    ]


def test_a_day_with_few_pairs_yet_does_not_shrink_the_matrix(lake: SmallLake) -> None:
    pair = {"coin_a": "a", "coin_b": "b", "correlation": 0.5}
    lake.insert(
        "correlations",
        [
            {**pair, "day": day("2025-01-01"), "coin_b": "x"},
            {**pair, "day": day("2025-01-01"), "coin_b": "y"},
            {**pair, "day": day("2025-01-01"), "coin_b": "z"},
            {**pair, "day": day("2025-01-03")},
            {**pair, "day": day("2025-01-03"), "coin_b": "c"},
            {**pair, "day": day("2025-01-04")},
        ],
    )
    rows = lake.answer("correlation_matrix")
    assert {(row["as_of"], row["coin_b"]) for row in rows} == {
        (day("2025-01-03"), coin) for coin in "abc"
    }


# ---- category_performance ----


def test_categories_compare_with_the_newest_snapshot_a_week_older(lake: SmallLake) -> None:
    def category(name: str, moment: str, cap: float | None, **more: Any) -> dict[str, Any]:
        known = {"category_id": name, "name": name.title(), "snapshot_at": at(moment)}
        return {**known, "market_cap_usd": cap, **more}

    lake.insert(
        "categories",
        [
            category("ai", "2025-01-10", 150.0, market_cap_change_24h_pct=-2.0,
                     volume_24h_usd=75.0, top_coins=["x", "y"]),
            category("meme", "2025-01-10", 300.0, top_coins=None),
            category("void", "2025-01-10", None),
            category("ai", "2025-01-03", 100.0),
            category("ai", "2025-01-02", 999.0),
            category("ai", "2025-01-04", 999.0),
            category("removed", "2025-01-03", 1e9),
        ],
    )  # fmt: skip
    rows = lake.answer("category_performance")
    figures = ("market_cap_rank", "category_id", "change_24h", "change_7d", "turnover")
    assert columns(rows, *figures, "top_coins") == [
        (1, "meme", None, None, None, None),
        (2, "ai", -0.02, 0.5, 0.5, "x, y"),
        (3, "void", None, None, None, None),
    ]


# ---- drawdowns ----


def test_drawdowns_know_peak_depth_and_days_under_water(lake: SmallLake) -> None:
    def metrics(
        moment: str, price: float | None, down: float | None, peak: float
    ) -> dict[str, Any]:
        known = {"coin_id": "a", "day": day(moment), "price_usd": price}
        return {**known, "drawdown": down, "peak_price_usd": peak}

    lake.insert(
        "coin_metrics_daily",
        [
            metrics("2025-01-01", 10.0, 0.0, 10.0),
            metrics("2025-01-02", 4.0, -0.6, 10.0),
            metrics("2025-01-03", 10.0, 0.0, 10.0),
            metrics("2025-01-04", 4.0, -0.6, 10.0),
            metrics("2025-01-05", 8.0, -0.2, 10.0),
            metrics("2025-01-06", None, None, 10.0),
        ],
    )
    (row,) = lake.answer("drawdowns")
    assert (row["as_of"], row["drawdown"], row["peak_price_usd"]) == (day("2025-01-05"), -0.2, 10.0)
    assert (row["peak_on"], row["days_since_peak"]) == (day("2025-01-03"), 2)
    assert (row["worst_drawdown"], row["worst_on"]) == (-0.6, day("2025-01-02"))


# ---- data_freshness ----


def test_freshness_is_relative_to_the_newest_fetch_of_the_lake(lake: SmallLake) -> None:
    lake.insert(
        "global_market",
        [{"snapshot_at": at("2025-01-10T12:00"), "fetched_at": at("2025-01-10T12:30")}],
    )
    lake.insert(
        "daily_prices",
        [
            {**USD, "coin_id": "a", "day": day("2025-01-08"), "price": 1.0,
             "fetched_at": at("2025-01-09T00:30")},
            {**USD, "coin_id": "a", "day": day("2025-01-07"), "price": None,
             "source": "missing", "fetched_at": None},
        ],
    )  # fmt: skip
    lake.insert("market_daily", [{"day": day("2025-01-07")}])
    rows = {row["table_name"]: row for row in lake.answer("data_freshness")}
    assert set(rows) == {relation.name for relation in table_columns()}
    shown = ("row_count", "newest_day", "days_behind", "hours_behind")
    assert columns([rows["global_market"]], *shown) == [(1, day("2025-01-10"), 0, 0.0)]
    # 36 hours lie between the two fetches.
    assert columns([rows["daily_prices"]], *shown) == [(2, day("2025-01-08"), 2, 36.0)]
    assert columns([rows["market_daily"]], *shown) == [(1, day("2025-01-07"), 3, None)]
    assert columns([rows["ohlc"]], *shown) == [(0, None, None, None)]
