"""Views on Trino: deployed from their files, compared, repaired when a table changed."""

import pytest

from dataplatform.lake.dialect import QueryError
from dataplatform.lake.trino.errors import StaleViewError, UnknownColumnError
from dataplatform.lake.view_engine import drift, orphans, prune, repair, stale, verify
from dataplatform.lake.views import ViewSpec, parse_view
from dataplatform_tests.trino.conftest import TrinoLake

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
COIN = "CREATE TABLE warehouse.coin (id varchar, rank integer, price double)"


def view(name: str, sql: str, about: str = "A view.") -> ViewSpec:
    return parse_view(name, f"-- {about}\n{sql}")


@pytest.fixture
def coin(trino: TrinoLake) -> TrinoLake:
    trino.client.execute(COIN)
    trino.client.execute("INSERT INTO warehouse.coin VALUES ('a', 1, 2.5), ('b', 2, NULL)")
    return trino


def test_deploy_drift_and_redeploy(coin: TrinoLake) -> None:
    ours = view("cheap", "SELECT id FROM warehouse.coin WHERE (price + 1e0) * 2e0 < 9e0")
    assert drift(coin.engine, ours) == ""
    assert coin.engine.deploy(ours) is True
    assert drift(coin.engine, ours) is None
    assert coin.engine.deploy(ours) is False
    assert verify(coin.engine, ours).sample.rows == [("a",)]
    # Without the parentheses it is another view.
    theirs = "SELECT id FROM warehouse.coin WHERE price + 1e0 * 2e0 < 9e0"
    coin.client.execute(f"CREATE OR REPLACE VIEW analytics.cheap SECURITY INVOKER AS {theirs}")
    difference = drift(coin.engine, ours)
    assert difference is not None
    assert "+  price + 1e0 * 2e0 < 9e0" in difference
    assert coin.engine.deploy(ours) is True
    assert drift(coin.engine, ours) is None


def test_view_and_columns_say_what_they_are(coin: TrinoLake) -> None:
    ours = view("told", 'SELECT id, -- the coin\'s "id"\nrank FROM warehouse.coin', "It's told.")
    coin.engine.deploy(ours)
    live = coin.engine.live("told")
    assert live is not None
    assert (live.comment, live.security) == ("It's told.", "INVOKER")
    columns = coin.client.query("SHOW COLUMNS FROM analytics.told").rows
    assert [(row[0], row[3]) for row in columns] == [("id", 'the coin\'s "id"'), ("rank", "")]


def test_a_new_comment_alone_is_deployed_and_is_no_new_definition(coin: TrinoLake) -> None:
    coin.engine.deploy(view("told", "SELECT id FROM warehouse.coin"))
    assert coin.engine.deploy(view("told", "SELECT id FROM warehouse.coin", "Better.")) is False
    live = coin.engine.live("told")
    assert live is not None
    assert live.comment == "Better."


def test_nobody_sees_more_through_a_view_than_without(coin: TrinoLake) -> None:
    coin.client.execute(
        "CREATE VIEW analytics.old SECURITY DEFINER AS SELECT id FROM warehouse.coin"
    )
    ours = view("old", "SELECT id FROM warehouse.coin")
    assert coin.engine.deploy(ours) is False
    live = coin.engine.live("old")
    assert live is not None
    assert live.security == "INVOKER"


def test_a_definition_that_does_not_bind_leaves_the_old_one(coin: TrinoLake) -> None:
    good = view("cheap", "SELECT id FROM warehouse.coin")
    coin.engine.deploy(good)
    coin.client.execute(
        "CREATE VIEW analytics.foreign SECURITY DEFINER AS SELECT id FROM warehouse.coin"
    )
    for name in ("cheap", "foreign"):
        for broken in ("SELECT cost FROM warehouse.coin", "SELECT id FROM warehouse.nowhere"):
            with pytest.raises(QueryError):
                coin.engine.deploy(view(name, broken))
        assert drift(coin.engine, view(name, good.sql)) is None


def test_prune_drops_only_what_no_file_declares(coin: TrinoLake) -> None:
    kept = view("kept", "SELECT id FROM warehouse.coin")
    for spec in (kept, view("gone", kept.sql)):
        coin.engine.deploy(spec)
    assert orphans(coin.engine, {"kept": kept}) == ["gone"]
    assert prune(coin.engine, {"kept": kept}) == ["gone"]
    assert coin.engine.deployed() == ["kept"]
    coin.engine.drop("gone")


CHANGES = {
    "a wider type": "ALTER TABLE warehouse.coin ALTER COLUMN rank SET DATA TYPE bigint",
    "a renamed column": "ALTER TABLE warehouse.coin RENAME COLUMN rank TO place",
    "a dropped column": "ALTER TABLE warehouse.coin DROP COLUMN rank",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_view_whose_table_changed_is_found_and_repaired(coin: TrinoLake, change: str) -> None:
    ranks = view("ranks", "SELECT id, rank FROM warehouse.coin")
    best = view("best", "SELECT min(rank) AS rank FROM analytics.ranks")
    views = {"ranks": ranks, "best": best}
    assert repair(coin.engine, views) == ["ranks", "best"]
    assert stale(coin.engine, views) == {}
    coin.client.execute(change)
    assert drift(coin.engine, ranks) is None
    assert set(stale(coin.engine, views)) == {"ranks", "best"}
    with pytest.raises(StaleViewError, match=r"ranks.* Remedy: .*deploy it again"):
        coin.engine.query("SELECT * FROM ranks")
    if "DATA TYPE" in change:
        assert repair(coin.engine, views) == ["ranks", "best"]
    else:
        with pytest.raises(UnknownColumnError, match="rank"):
            repair(coin.engine, views)
        views["ranks"] = view("ranks", "SELECT id, 1 AS rank FROM warehouse.coin")
        assert repair(coin.engine, views)[0] == "ranks"
    assert stale(coin.engine, views) == {}


def test_a_new_column_of_the_table_leaves_its_views_alone(coin: TrinoLake) -> None:
    views = {"ranks": view("ranks", "SELECT id, rank FROM warehouse.coin")}
    repair(coin.engine, views)
    coin.client.execute("ALTER TABLE warehouse.coin ADD COLUMN volume double")
    assert stale(coin.engine, views) == {}
    assert repair(coin.engine, views) == []
