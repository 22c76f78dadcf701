"""The history of listings: what happened is told the same, however it was batched."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplatform.tables.coins import spec
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage, merged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = at("2026-01-01T00:00:05")


@dataclass(frozen=True)
class Listing:
    """What /coins/list said at one moment: name by coin id."""

    moment: datetime
    names: dict[str, str]
    complete: bool = True

    @property
    def records(self) -> list[Row]:
        where = lineage(self.moment, complete=self.complete)
        return [
            {"id": coin, "symbol": name[:1], "name": name, **where}
            for coin, name in self.names.items()
        ]


def listings(*names: dict[str, str], excerpts: Sequence[int] = ()) -> list[Listing]:
    """Return one listing a day; those at the positions `excerpts` are not complete."""
    return [
        Listing(START + timedelta(days=number), one, number not in excerpts)
        for number, one in enumerate(names)
    ]


def applied(spark: "SparkSession", *batches: list[Listing]) -> list[Row]:
    """Return the table after each batch was built on top of what the ones before left."""
    table: list[Row] = []
    for batch in batches:
        records = [record for listing in batch for record in listing.records]
        rows = MemoryInputs(spark, spec, {"coins_list": records}, own=table).rows()
        table = merged(spec, table, rows)
    return table


def story(table: Sequence[Row], coin: str) -> list[tuple[int, str, str]]:
    """Return (day, change, name) of each version of a coin."""
    versions = [row for row in table if row["coin_id"] == coin]
    return [((row["valid_from"] - START).days, row["change"], row["name"]) for row in versions]


def folded(given: Sequence[Listing]) -> dict[str, list[tuple[int, str, str]]]:
    """Return the story of each coin by applying one listing after the other in plain Python."""
    stories: dict[str, list[tuple[int, str, str]]] = {}
    for listing in given:
        day = (listing.moment - START).days
        for coin, name in listing.names.items():
            past = stories.setdefault(coin, [])
            if not past:
                past.append((day, "new", name))
            elif past[-1][1] == "delisted":
                past.append((day, "relisted", name))
            elif past[-1][2] != name:
                past.append((day, "renamed", name))
        for coin, past in stories.items():
            if listing.complete and coin not in listing.names and past[-1][1] != "delisted":
                past.append((day, "delisted", past[-1][2]))
    return stories


def test_a_coin_is_listed_renamed_retired_and_comes_back(spark: "SparkSession") -> None:
    given = listings(
        {"a": "alpha", "z": "zeta"},
        {"a": "alpha", "z": "zeta"},
        {"a": "Alpha 2", "z": "zeta"},
        {"z": "zeta"},
        {"z": "zeta"},
        {"a": "Alpha 3", "z": "zeta"},
    )
    table = applied(spark, given)
    assert story(table, "a") == [
        (0, "new", "alpha"),
        (2, "renamed", "Alpha 2"),
        (3, "delisted", "Alpha 2"),
        (5, "relisted", "Alpha 3"),
    ]
    assert story(table, "z") == [(0, "new", "zeta")]
    versions = [row for row in table if row["coin_id"] == "a"]
    assert [row["valid_to"] for row in versions[:-1]] == [r["valid_from"] for r in versions[1:]]
    assert [row["is_current"] for row in versions] == [False, False, False, True]
    assert [row["status"] for row in versions] == ["listed", "listed", "delisted", "listed"]
    assert versions[2]["raw_key"] == given[3].records[0]["raw_key"]


def test_an_excerpt_adds_and_renames_but_never_delists(spark: "SparkSession") -> None:
    given = listings({"a": "alpha", "b": "beta"}, {"a": "gamma", "c": "new"}, excerpts=[1])
    table = applied(spark, given)
    assert story(table, "a") == [(0, "new", "alpha"), (1, "renamed", "gamma")]
    assert story(table, "b") == [(0, "new", "beta")]
    assert story(table, "c") == [(1, "new", "new")]


def test_an_id_twice_in_one_listing_is_one_version(spark: "SparkSession") -> None:
    (listing,) = listings({"a": "alpha"})
    records = [*listing.records, *[r | {"record_hash": "x"} for r in listing.records]]
    rows = MemoryInputs(spark, spec, {"coins_list": records}).rows()
    assert [row["change"] for row in rows] == ["new"]


def test_a_listing_that_changes_nothing_gives_nothing(spark: "SparkSession") -> None:
    first, second = listings({"a": "alpha", "b": "beta"}, {"b": "beta", "a": "alpha"})
    table = applied(spark, [first])
    assert MemoryInputs(spark, spec, {"coins_list": second.records}, own=table).rows() == []


_names = st.sampled_from([None, "alpha", "alpha", "beta"])
_histories = st.lists(st.lists(_names, min_size=5, max_size=5), min_size=8, max_size=24)


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(_histories, st.sets(st.integers(0, 4), max_size=2), st.integers(1, 4))
def test_the_story_does_not_depend_on_the_batches(
    spark: "SparkSession", histories: list[list[str | None]], excerpts: set[int], cut: int
) -> None:
    days = [
        {f"coin{n}": name for n, past in enumerate(histories) if (name := past[day])}
        for day in range(5)
    ]
    # One coin is always there: a listing without any record is no listing.
    given_listings = listings(*[day | {"zz": "zeta"} for day in days], excerpts=sorted(excerpts))
    at_once = applied(spark, given_listings)
    assert at_once == applied(spark, given_listings[:cut], given_listings[cut:])
    assert at_once == applied(spark, *[[listing] for listing in given_listings])
    expected = folded(given_listings)
    assert {coin: story(at_once, coin) for coin in expected} == expected
    current = [row["coin_id"] for row in at_once if row["is_current"]]
    assert sorted(current) == sorted(expected)
