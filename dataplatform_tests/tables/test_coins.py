"""The history of listings: what happened is told the same, however it was batched."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplatform.raw.coingecko.coins_list import endpoint
from dataplatform.tables.coins import spec
from dataplatform_tests.lake.tiny_lake import TinyLake
from dataplatform_tests.tables.memory_inputs import MemoryInputs, Row, at, lineage, merged

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

START = at("2026-01-01T00:00:05")


NAMELESS = ""
"""The name of a coin whose entry has none: it is quarantined."""


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
            if name != NAMELESS
        ]

    @property
    def rejects(self) -> list[Row]:
        return [
            self.reject(json.dumps({"id": coin, "symbol": "s"}))
            for coin, name in self.names.items()
            if name == NAMELESS
        ]

    def reject(self, record: str | None, reason: str = "name: missing") -> Row:
        return {**lineage(self.moment), "record": record, "reject_reason": reason}


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
        rejects = [reject for listing in batch for reject in listing.rejects]
        table = applied_with(spark, table, batch, rejects)
    return table


def applied_with(
    spark: "SparkSession", table: list[Row], batch: Sequence[Listing], rejects: Sequence[Row]
) -> list[Row]:
    """Return the table after one batch and its rejected entries were built on top of it."""
    records = {"coins_list": [record for listing in batch for record in listing.records]}
    rejected = {"coins_list": rejects}
    rows = MemoryInputs(spark, spec, records, own=table, rejected=rejected).rows()
    return merged(spec, table, rows)


def story(table: Sequence[Row], coin: str) -> list[tuple[int, str, str]]:
    """Return (day, change, name) of each version of a coin."""
    versions = [row for row in table if row["coin_id"] == coin]
    return [((row["valid_from"] - START).days, row["change"], row["name"]) for row in versions]


def folded(given: Sequence[Listing]) -> dict[str, list[tuple[int, str, str]]]:
    """Return the story of each coin by applying one listing after the other in plain Python."""
    stories: dict[str, list[tuple[int, str, str]]] = {}
    for listing in given:
        day = (listing.moment - START).days
        named = {coin: name for coin, name in listing.names.items() if name != NAMELESS}
        for coin, name in named.items():
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


def test_a_coin_whose_entry_is_quarantined_is_neither_delisted_nor_renamed(
    spark: "SparkSession",
) -> None:
    given = listings(
        {"a": "alpha", "z": "zeta"},
        {"a": NAMELESS, "z": "zeta"},
        {"a": "alpha", "z": "zeta", "n": NAMELESS},
        {"z": "zeta"},
        {"a": NAMELESS, "z": "zeta"},
        {"a": "alpha", "z": "zeta"},
    )
    for table in (applied(spark, given), applied(spark, *[[listing] for listing in given])):
        assert story(table, "a") == [
            (0, "new", "alpha"),
            (3, "delisted", "alpha"),
            (5, "relisted", "alpha"),
        ]
        assert story(table, "n") == []


@pytest.mark.parametrize(
    "unreadable",
    ['{"symbol": "a", "name": "alpha"}', '{"id": null}', '{"id": "a", "platf', "7", None],
    ids=["no id", "null", "cut off", "no object", "no text"],
)
def test_an_entry_that_does_not_say_whose_it_is_delists_nobody(
    spark: "SparkSession", unreadable: str | None
) -> None:
    first, second, third = listings({"a": "alpha", "z": "zeta"}, {"z": "eta"}, {"z": "eta"})
    table = applied(spark, [first])
    table = applied_with(spark, table, [second], [second.reject(unreadable, "id: missing")])
    assert story(table, "a") == [(0, "new", "alpha")]
    assert story(table, "z") == [(0, "new", "zeta"), (1, "renamed", "eta")]
    # The next listing says it all.
    assert story(applied_with(spark, table, [third], []), "a")[-1] == (2, "delisted", "alpha")


@pytest.mark.parametrize(
    ("entry", "delisted"),
    [
        ({"id": "a", "symbol": "a"}, {"b"}),
        # Beyond the 2,000 characters that are kept, the text is cut off and no JSON any more.
        ({"id": "a", "platforms": {"ethereum": "0" * 2000}}, set()),
    ],
)
def test_a_rejected_entry_is_recognised_in_its_raw_file(
    tmp_path: Path, spark: "SparkSession", entry: Row, delisted: set[str]
) -> None:
    names = ("a", "b", "z")
    listed = [{"id": name, "symbol": name, "name": name, "platforms": {}} for name in names]
    lake = TinyLake(tmp_path, spark, {endpoint.name: replace(endpoint, source="test")})
    for day, listing in (("01", listed), ("02", [entry, listed[-1]])):
        lake.land(f"2026-01-{day}T00:00:05", listing, endpoint.name)
        lake.build(spec)
    found = lake.rows("coins", "coin_id", "status")
    assert {coin for coin, status in found if status == "delisted"} == delisted
    assert {coin for coin, _ in found} == set(names)


def test_an_id_twice_in_one_listing_is_one_version(spark: "SparkSession") -> None:
    (listing,) = listings({"a": "alpha"})
    records = [*listing.records, *[r | {"record_hash": "x"} for r in listing.records]]
    rows = MemoryInputs(spark, spec, {"coins_list": records}).rows()
    assert [row["change"] for row in rows] == ["new"]


def test_a_listing_that_changes_nothing_gives_nothing(spark: "SparkSession") -> None:
    first, second = listings({"a": "alpha", "b": "beta"}, {"b": "beta", "a": "alpha"})
    table = applied(spark, [first])
    assert MemoryInputs(spark, spec, {"coins_list": second.records}, own=table).rows() == []


_names = st.sampled_from([None, "alpha", "alpha", "beta", NAMELESS])
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
        {f"coin{n}": name for n, past in enumerate(histories) if (name := past[day]) is not None}
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
