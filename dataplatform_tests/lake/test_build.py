from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from dataplatform.lake import build
from dataplatform.lake.build import AuditFailedError, Builder, CommitConflictError
from dataplatform.lake.inspect import partitioning
from dataplatform.lake.schema import AUDIT_BRANCH, SchemaChangeError, ensure_table
from dataplatform.lake.spec import Check, Column, Inputs, TableSpec
from dataplatform.lake.state import (
    ALL_DAYS,
    NO_DAYS,
    STATE_PROPERTY,
    changed_since,
    published_state,
)
from dataplatform.lake.writer_lock import LockLostError
from dataplatform_tests.lake.tiny_lake import PRICES, TinyLake, changed, day, quote, reading

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

A1, A2, B1 = quote("a", "2025-01-01", 1.5), quote("a", "2025-01-02", 2), quote("b", "2025-01-01", 7)


@pytest.fixture
def lake(tmp_path: Path, spark: "SparkSession") -> TinyLake:
    # A blank, a percent sign, a plus and an umlaut: paths pass through five notations.
    return TinyLake(tmp_path / "a läke+100%", spark)


def cheapest(inputs: Inputs) -> "DataFrame":
    """The cheapest quote of each changed day, and of the day after."""
    first, last = inputs.changed("prices")
    return inputs.sql(
        """
        SELECT coin, day, price, trades, origin, fetched_at, raw_key FROM (
          SELECT *, row_number() OVER (PARTITION BY day ORDER BY price) AS place FROM {prices}
          WHERE day BETWEEN DATE {first} AND date_add(DATE {last}, 1)
        ) WHERE place = 1
        """,
        first=first,
        last=last,
    )


def after_a_cheap_day(inputs: Inputs) -> "DataFrame":
    """The cheap quotes that follow a cheap one."""
    first, last = inputs.changed("prices")
    return inputs.sql(
        """
        SELECT today.* FROM {prices} today JOIN {prices} before
          ON before.coin = today.coin AND before.day = date_sub(today.day, 1)
        WHERE today.price < 50 AND before.price < 50
          AND today.day BETWEEN DATE {first} AND date_add(DATE {last}, 1)
        """,
        first=first,
        last=last,
    )


def head(lake: TinyLake, name: str = "prices") -> int:
    snapshot = lake.table(name).current_snapshot()
    assert snapshot is not None
    return snapshot.snapshot_id


def test_first_build_then_nothing_then_the_increment(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1, A2])
    (first,) = lake.build()
    assert (first.status, first.rows, first.inserted) == ("published", 2, 2)
    assert first.changed == ("2025-01-01", "2025-01-02")
    assert lake.rows() == [("a", "2025-01-01", 1.5), ("a", "2025-01-02", 2.0)]

    before = head(lake), lake.files()
    (second,) = lake.build()
    assert (second.status, second.rows, second.raw_files) == ("unchanged", 2, 0)
    assert (head(lake), lake.files()) == before

    lake.land("2025-01-03T11:00:00", [B1])
    (third,) = lake.build()
    assert (third.rows, third.inserted, third.updated, third.raw_files) == (3, 1, 0, 1)
    assert lake.files() > before[1], "an insert writes beside what is there"


def test_an_empty_lake_makes_an_empty_table_and_starts_no_spark(lake: TinyLake) -> None:
    def refuse() -> "SparkSession":
        raise AssertionError("Spark was started for nothing")

    builder = Builder(lake.builder(PRICES).lake, {"prices": PRICES}, refuse)
    (result,) = builder.build(["prices"])
    assert (result.status, result.rows) == ("unchanged", 0)
    assert lake.rows() == []


def test_a_changed_value_is_merged_and_the_same_value_is_not(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1, B1])
    lake.build()
    lake.land("2025-01-03T11:00:00", [quote("a", "2025-01-01", 9), B1, A2])
    (result,) = lake.build()
    assert (result.inserted, result.updated, result.deleted, result.rows) == (1, 1, 0, 3)
    assert lake.rows() == [("a", "2025-01-01", 9), ("a", "2025-01-02", 2), ("b", "2025-01-01", 7)]
    assert published_state(lake.table()).rows == 3

    # The same figures again: read, recorded as read, and no row written.
    files = lake.files()
    lake.land("2025-01-03T12:00:00", [B1])
    assert [r.status for r in lake.build()] == ["unchanged"]
    assert lake.files() == files
    assert [r.raw_files for r in lake.build()] == [0], "it would be read again and again"


def test_replaces_keeps_the_newer_row_whatever_comes_last(lake: TinyLake) -> None:
    spec = changed(PRICES, replaces="s.fetched_at >= t.fetched_at")
    lake.land("2025-01-03T10:00:00", [A1])
    lake.build(spec)
    lake.land("2025-01-03T09:00:00", [quote("a", "2025-01-01", 99)])
    (result,) = lake.build(spec)
    assert (result.status, lake.rows()) == ("unchanged", [("a", "2025-01-01", 1.5)])
    lake.land("2025-01-03T11:00:00", [quote("a", "2025-01-01", 5)])
    lake.build(spec)
    assert lake.rows() == [("a", "2025-01-01", 5)]


def test_a_late_listing_rebuilds_a_table_in_order(lake: TinyLake) -> None:
    def latest(inputs: Inputs) -> "DataFrame":
        """The rows of the newest listing: what it lacks is gone."""
        return inputs.sql("""
            SELECT coin, CAST(day AS date) AS day, price, trades, origin, fetched_at, raw_key
            FROM {quotes} WHERE fetched_at = (SELECT max(fetched_at) FROM {quotes})
        """)

    spec = changed(PRICES, transform=latest, in_order=True)
    lake.land("2025-01-03T10:00:00", [A1, B1])
    lake.build(spec)
    lake.land("2025-01-03T09:00:00", [A1, A2, B1])
    (late,) = lake.build(spec)
    assert late.raw_files == 2, "all listings are read again"
    assert lake.rows() == [("a", "2025-01-01", 1.5), ("b", "2025-01-01", 7)]
    # A rebuild removes what its result does not hold.
    shrunk = changed(spec, transform=lambda i: latest(i).where("coin = 'b'"))
    lake.land("2025-01-03T08:00:00", [A1])
    (rebuilt,) = lake.build(shrunk)
    assert (rebuilt.deleted, rebuilt.rows) == (1, 1)
    assert lake.rows() == [("b", "2025-01-01", 7)]


def test_replace_days_removes_what_a_day_no_longer_has(lake: TinyLake) -> None:
    spec = reading(cheapest, replace_days=1)
    lake.land("2025-01-05T10:00:00", [A1, B1, A2, quote("a", "2025-01-04", 4)])
    lake.build(PRICES, spec)
    before = [("a", "2025-01-01", 1.5), ("a", "2025-01-02", 2), ("a", "2025-01-04", 4)]
    assert lake.rows("derived") == before
    lake.land("2025-01-05T11:00:00", [quote("c", "2025-01-01", 1)])
    _, result = lake.build(PRICES, spec)
    assert (result.inserted, result.updated, result.deleted, result.rows) == (1, 0, 1, 3)
    assert lake.rows("derived") == [*before[1:], ("c", "2025-01-01", 1)]


def test_replace_days_empties_a_day_that_has_no_row_any_more(lake: TinyLake) -> None:
    """The price of a day decides about that day and the next: both may lose all their rows."""
    spec = reading(after_a_cheap_day, replace_days=1)
    prices = [quote("a", f"2025-01-0{day}", 2) for day in range(1, 7)]
    lake.land("2025-01-07T10:00:00", prices)
    lake.build(PRICES, spec)
    assert [day for _, day, _ in lake.rows("derived")] == [f"2025-01-0{day}" for day in range(2, 7)]
    lake.land("2025-01-07T11:00:00", [quote("a", "2025-01-03", 90)])
    _, result = lake.build(PRICES, spec)
    assert (result.inserted, result.updated, result.deleted, result.rows) == (0, 0, 2, 3)
    assert result.changed == ("2025-01-03", "2025-01-04")
    assert [day for _, day, _ in lake.rows("derived")] == ["2025-01-02", "2025-01-05", "2025-01-06"]


def test_replace_days_over_all_days_empties_the_table(lake: TinyLake) -> None:
    """Somebody else's write upstream: which days changed can't be told, so all are given anew."""
    spec = reading(after_a_cheap_day, replace_days=1)
    lake.land("2025-01-03T10:00:00", [A1, A2])
    lake.build(PRICES, spec)
    assert len(lake.rows("derived")) == 1
    lake.spark.sql("UPDATE lake.warehouse.prices SET price = 90")
    (result,) = lake.builder(PRICES, spec).build(["derived"])
    assert (result.deleted, result.rows) == (1, 0)
    assert lake.rows("derived") == []


def test_replace_days_needs_days_that_change() -> None:
    with pytest.raises(ValueError, match="prices: replace_days needs upstream tables"):
        changed(PRICES, replace_days=0)


@pytest.mark.parametrize("published", [False, True])
def test_a_failed_audit_keeps_readers_on_the_last_good_snapshot(
    lake: TinyLake, published: bool
) -> None:
    if published:
        lake.land("2025-01-03T10:00:00", [A1])
        lake.build()
    good = lake.rows() if published else []
    lake.land("2025-01-03T11:00:00", [B1, quote("x", "2025-01-01", 5000)])
    with pytest.raises(AuditFailedError, match=r"prices: not published: below_1000: 1 violation"):
        lake.build()
    assert lake.rows() == good
    rejected = lake.spark.sql(
        "SELECT coin FROM lake.warehouse.prices VERSION AS OF 'audit' WHERE price > 999"
    )
    assert [row.coin for row in rejected.collect()] == ["x"]
    # Nobody reads on over it: the same rows fail the same audit.
    with pytest.raises(AuditFailedError):
        lake.build()
    # A rule that allows them (or corrected data) publishes all of it.
    lake.build(changed(PRICES, checks=()))
    assert [row[0] for row in lake.rows()] == [*(row[0] for row in good), "b", "x"]
    assert AUDIT_BRANCH not in lake.table().refs()


def test_another_partitioning_holds_for_what_is_written_from_then_on(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1, B1])
    lake.build()
    yearly = changed(PRICES, partitioning=("year(day)",))
    lake.land("2025-01-03T11:00:00", [A2, quote("b", "2025-01-01", 8)])
    lake.build(yearly)
    assert partitioning(lake.table()) == "year(day)"
    assert [row[:3] for row in lake.rows()] == [
        ("a", "2025-01-01", 1.5),
        ("a", "2025-01-02", 2.0),
        ("b", "2025-01-01", 8.0),
    ]
    spec_id = lake.table().spec().spec_id
    lake.land("2025-01-03T12:00:00", [quote("c", "2026-01-01", 8)])
    lake.build(yearly)
    assert lake.table().spec().spec_id == spec_id
    # There and back: Iceberg remembers the fields of old layouts.
    lake.land("2025-01-03T13:00:00", [quote("d", "2026-01-01", 8)])
    lake.build()
    assert (partitioning(lake.table()), len(lake.rows())) == ("month(day)", 5)


def test_a_failed_table_keeps_back_what_reads_it_and_nothing_else(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [quote("x", "2025-01-01", 5000)])
    derived = reading(lambda inputs: inputs.table("prices"))
    others = [changed(PRICES, name=name, checks=()) for name in ("one", "two", "three")]
    published: list[str] = []
    builder = lake.builder(PRICES, derived, *others)
    with pytest.raises(AuditFailedError, match="prices: not published"):
        published.extend(result.table for result in builder.build(builder.specs))
    assert sorted(result for result in published) == ["one", "three", "two"]
    assert not lake.catalog.table_exists("warehouse.derived")


def test_duplicate_keys_fail_the_audit(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1, quote("a", "2025-01-01", 3)])
    with pytest.raises(AuditFailedError, match="keys_unique: 1 violation") as failed:
        lake.build()
    (found,) = [c for c in failed.value.result.checks if not c.passed]
    assert found.sample == [{"coin": "a", "day": "2025-01-01"}]


def test_a_rule_over_groups_sees_all_rows_of_a_group(lake: TinyLake) -> None:
    cheap = Check("cheap", "max(price) > 2 * min(price)", "No price doubles.", per=("coin",))
    calm = changed(PRICES, checks=(cheap,))
    lake.land("2025-01-03T10:00:00", [quote("x", "2025-01-01", 5), quote("y", "2025-01-01", 5)])
    lake.build(calm)
    lake.land("2025-01-03T11:00:00", [quote("x", "2025-01-01", 6), quote("y", "2025-01-01", 6)])
    doubled = [quote("x", "2025-01-02", 13), quote("y", "2025-01-02", 7)]
    lake.land("2025-01-03T12:00:00", doubled)
    with pytest.raises(AuditFailedError, match="cheap: 1 violation") as failed:
        lake.build(calm)
    (found,) = [c for c in failed.value.result.checks if not c.passed]
    assert found.sample == [{"coin": "x"}]


def test_a_warning_does_not_block(lake: TinyLake) -> None:
    (check,) = PRICES.checks
    lenient = changed(PRICES, checks=(type(check)(check.name, check.violated, "", blocking=False),))
    lake.land("2025-01-03T10:00:00", [quote("x", "2025-01-01", 5000)])
    (result,) = lake.build(lenient)
    assert result.status == "published"
    (found,) = [c for c in result.checks if c.name == "below_1000"]
    assert (found.violations, found.passed, found.sample[0]["coin"]) == (1, False, "x")


@pytest.mark.parametrize("published", [False, True])
def test_who_publishes_meanwhile_wins(
    lake: TinyLake, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if published:
        lake.land("2025-01-03T10:00:00", [A1])
        lake.build()
    lake.land("2025-01-03T11:00:00", [B1])
    audit = build.audit

    def audit_while_another_writes(*args: object) -> object:
        monkeypatch.undo()
        lake.table().append(lake.table().schema().as_arrow().empty_table())
        return audit(*args)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(build, "audit", audit_while_another_writes)
    with pytest.raises(CommitConflictError, match="run it again"):
        lake.build()
    assert "b" not in {row[0] for row in lake.rows()}
    lake.build()
    assert "b" in {row[0] for row in lake.rows()}


class Losing:
    """A writers' lock that is lost after so many questions; another writer then does something."""

    def __init__(self, after: int, meanwhile: Callable[[], None]) -> None:
        self.left = after
        self.meanwhile = meanwhile

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.meanwhile()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_who_lost_the_lock_publishes_nothing(lake: TinyLake, after: int) -> None:
    def lost() -> None:
        raise LockLostError("the lock was lost")

    lake.land("2025-01-03T01:00:00", [A1])
    lake.build()
    lake.land("2025-01-03T02:00:00", [A2])
    with pytest.raises(LockLostError):
        list(lake.builder(PRICES, still_writer=Losing(after, lost)).build(["prices"]))
    assert lake.rows() == [("a", "2025-01-01", 1.5)]
    lake.build()
    assert lake.rows() == [("a", "2025-01-01", 1.5), ("a", "2025-01-02", 2)]


@pytest.mark.parametrize("first", [[], [A1]])
def test_rows_that_another_writer_put_on_the_branch_are_not_published(
    lake: TinyLake, first: list[dict[str, object]]
) -> None:
    def other() -> None:
        table = lake.table()
        empty = {name: [None] for name in table.schema().as_arrow().names}
        row = empty | {"coin": ["x"], "day": [day("2025-01-01")], "price": [1.0]}
        table.append(pa.table(row, schema=table.schema().as_arrow()), branch=AUDIT_BRANCH)

    if first:
        lake.land("2025-01-03T01:00:00", first)
        lake.build()
    lake.land("2025-01-03T02:00:00", [A2])
    with pytest.raises(CommitConflictError, match="run it again"):
        list(lake.builder(PRICES, still_writer=Losing(2, other)).build(["prices"]))
    lake.build()
    assert [row[0] for row in lake.rows()] == ["a"] * (len(first) + 1)


@pytest.mark.parametrize("published", [False, True])
def test_the_branch_of_a_killed_run_is_replaced(
    lake: TinyLake, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if published:
        lake.land("2025-01-03T10:00:00", [A1])
        lake.build()
    lake.land("2025-01-03T11:00:00", [B1, quote("a", "2025-01-01", 4)])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "audit", die)
    with pytest.raises(KeyboardInterrupt):
        lake.build()
    monkeypatch.undo()
    assert AUDIT_BRANCH in lake.table().refs()
    (result,) = lake.build()
    assert lake.rows() == [("a", "2025-01-01", 4), ("b", "2025-01-01", 7)]
    assert result.rows == 2
    assert AUDIT_BRANCH not in lake.table().refs()


def test_the_branch_of_an_overtaken_build_goes_though_nothing_is_new(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1])
    (published,) = lake.build()
    assert published.snapshot_id
    with lake.table().manage_snapshots() as snapshots:
        snapshots.create_branch(published.snapshot_id, AUDIT_BRANCH)
    (result,) = lake.build()
    assert (result.status, result.snapshot_id) == ("unchanged", published.snapshot_id)
    assert AUDIT_BRANCH not in lake.table().refs()


def test_a_schema_grows_in_place(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1])
    lake.build()
    wider = tuple(
        Column("trades", "bigint", "How many trades.") if c.name == "trades" else c
        for c in PRICES.columns
    )
    spec = changed(
        PRICES,
        columns=(*wider, Column("note", "string", "New.")),
        transform=lambda i: PRICES.transform(i).selectExpr("*", "'seen' AS note"),
    )
    lake.land("2025-01-03T11:00:00", [B1])
    lake.build(spec)
    assert lake.rows("prices", "coin", "trades", "note") == [("a", 1, None), ("b", 1, "seen")]
    assert str(lake.table().schema().find_field("trades").field_type) == "long"


def test_a_change_that_loses_data_is_refused(lake: TinyLake) -> None:
    ensure_table(lake.catalog, PRICES)
    columns = tuple(
        Column("price", "boolean", "Is it a price?") if c.name == "price" else c
        for c in PRICES.columns
    )
    with pytest.raises(SchemaChangeError, match="prices: the declared schema can't be reached"):
        ensure_table(lake.catalog, changed(PRICES, columns=columns))
    assert str(lake.table().schema().find_field("price").field_type) == "double"


def test_what_is_known_survives_compaction(lake: TinyLake) -> None:
    lake.land("2025-01-03T10:00:00", [A1])
    lake.build()
    seen = head(lake)
    lake.land("2025-01-03T11:00:00", [B1])
    lake.build()
    known = published_state(lake.table())
    lake.spark.sql(
        "CALL lake.system.rewrite_data_files(table => 'warehouse.prices',"
        " options => map('rewrite-all', 'true'))"
    ).collect()
    compacted = lake.table().current_snapshot()
    assert compacted is not None
    assert compacted.summary is not None
    assert STATE_PROPERTY not in compacted.summary.additional_properties
    assert published_state(lake.table()) == known
    assert changed_since(lake.table(), seen) == ("2025-01-01", "2025-01-01")
    assert [(r.status, r.raw_files) for r in lake.build()] == [("unchanged", 0)]


def test_the_days_that_changed_since_a_snapshot(lake: TinyLake) -> None:
    ensure_table(lake.catalog, PRICES)
    assert changed_since(lake.table(), None) == NO_DAYS
    seen = []
    for hour, record in enumerate(
        (A1, quote("a", "2025-01-09", 1), quote("a", "2025-01-09", 2), B1)
    ):
        lake.land(f"2025-01-10T{hour:02d}:00:00", [record])
        lake.build()
        seen.append(head(lake))
    table = lake.table()
    assert changed_since(table, seen[3]) == NO_DAYS
    assert changed_since(table, seen[2]) == ("2025-01-01", "2025-01-01")
    assert changed_since(table, seen[1]) == ("2025-01-01", "2025-01-09")
    assert changed_since(table, None) == ALL_DAYS
    assert changed_since(table, 1) == ALL_DAYS, "an expired snapshot"


def test_an_update_alone_names_its_day_and_not_all(lake: TinyLake) -> None:
    lake.land("2025-01-10T00:00:00", [A1, A2])
    lake.build()
    seen = head(lake)
    lake.land("2025-01-10T01:00:00", [quote("a", "2025-01-02", 3)])
    lake.build()
    assert changed_since(lake.table(), seen) == ("2025-01-02", "2025-01-02")


def test_rows_that_somebody_else_wrote_count_as_all_days(lake: TinyLake) -> None:
    lake.land("2025-01-10T00:00:00", [A1])
    lake.build()
    seen = head(lake)
    table = lake.table()
    row = table.scan().to_arrow().to_pylist()[0] | {"coin": "foreign"}
    table.append(pa.Table.from_pylist([row], schema=table.schema().as_arrow()))
    assert changed_since(lake.table(), seen) == ALL_DAYS


def test_a_table_follows_its_upstream(lake: TinyLake) -> None:
    def doubled(inputs: Inputs) -> "DataFrame":
        first, last = inputs.changed("prices")
        return inputs.sql(
            "SELECT coin, day, 2 * price AS price, trades, origin, fetched_at, raw_key"
            " FROM {prices} WHERE day BETWEEN {first} AND {last}",
            first=first,
            last=last,
        )

    derived: TableSpec = reading(doubled)
    lake.land("2025-01-10T00:00:00", [A1, A2])
    lake.build(PRICES, derived)
    lake.land("2025-01-10T01:00:00", [quote("a", "2025-01-02", 10)])
    _, result = lake.build(PRICES, derived)
    assert (result.updated, result.inserted, result.changed) == (1, 0, ("2025-01-02",) * 2)
    assert lake.rows("derived") == [("a", "2025-01-01", 3), ("a", "2025-01-02", 20)]
    assert [r.status for r in lake.build(PRICES, derived)] == ["unchanged", "unchanged"]
