"""`dp status`: how fresh every asset is, and what is left of the API's budget."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import ATTRIBUTION, Heading, counted, minute, show_lines, user_errors
from dataplatform.cli.home import dagster_home, load_settings
from dataplatform.cli.lake import open_engine, open_lake

if TYPE_CHECKING:
    from dataplatform.lake.api.endpoint import Every
    from dataplatform.lake.manifest import Manifest, Origin
    from dataplatform.lake.place import LakePlace
    from dataplatform.lake.spec import TableSpec
    from dataplatform.lake.view_engine import QueryEngine
    from dataplatform.profiles import Profile, Settings

RAW_HOURS: "Final[Mapping[Every, float]]" = {"hour": 3.0, "day": 26.0, "partition": 26.0}
VIEW_HOURS: Final = 26.0
STALE: Final = "stale"
NOT_BUILT: Final = "not built"


@dataclass(frozen=True)
class Freshness:
    """How fresh one asset is.

    Attributes:
        asset: its name, with the layer before it.
        built_at: when it was last brought up to date, whether or not that changed it.
        rows: rows of a table or a view, records of an endpoint's newest fetch.
        newest: the newest data in it: a day, or a time (UTC).
        limit_hours: how old `built_at` may be; None: it does not age.
    """

    asset: str
    built_at: datetime | None
    rows: int | None = None
    newest: date | datetime | None = None
    limit_hours: float | None = None

    def state(self, now: datetime) -> str:
        """Return `fresh`, `stale` or `not built`."""
        if self.built_at is None:
            return NOT_BUILT
        if self.limit_hours is not None and now - self.built_at > timedelta(hours=self.limit_hours):
            return STALE
        return "fresh"


@user_errors
def status(
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 where anything is stale or not built.")
    ] = False,
) -> None:
    """Show how fresh every asset is: last build, rows, newest data; and the API's budget."""
    settings = load_settings()
    lake = open_lake()
    now = datetime.now(UTC)
    found = freshness(settings, lake, open_engine())
    raw = [one for one in found if one.asset.startswith("raw.")]
    show_lines(_headings("newest records", "newest fetch (UTC)"), [_cells(o, now) for o in raw])
    built = [one for one in found if one not in raw]
    show_lines(_headings("rows", "newest data (UTC)"), [_cells(one, now) for one in built])
    screen = console.out()
    screen.print(_lake_line(lake), markup=False)
    screen.print(budget_line(settings), markup=False)
    states = {one.state(now) for one in found}
    if check and states & {STALE, NOT_BUILT}:
        console.fail("Not everything is fresh. Remedy: dp run, or switch the schedules on (dp ui).")


def _headings(rows: str, newest: str) -> tuple[Heading, ...]:
    # The age tells of the last build what its time does.
    return (
        Heading("asset"),
        Heading("state"),
        Heading("last build (UTC)", from_width=100),
        Heading("age", right=True, from_width=75),
        Heading(rows, right=True, from_width=75),
        Heading(newest),
    )


def _cells(one: Freshness, now: datetime) -> list[object]:
    age = _age(now - one.built_at) if one.built_at else None
    rows = None if one.rows is None else f"{one.rows:,}"
    return [one.asset, one.state(now), minute(one.built_at), age, rows, minute(one.newest)]


def _age(passed: timedelta) -> str:
    minutes = int(passed.total_seconds() // 60)
    if minutes < 120:  # noqa: PLR2004  two hours
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 72 * 60 else f"{minutes // 1440} d"


def _lake_line(lake: "LakePlace") -> str:
    ages = "" if lake.origin == "live" else " (recordings: they do not age)"
    return f"Lake: {lake.origin}{ages} in {lake.whereabouts['lake']} · {ATTRIBUTION}"


def budget_line(settings: "Settings") -> str:
    """Say what was used of the API's budget, and what is left."""
    from dataplatform.resources.coingecko import CoinGeckoResource

    api = CoinGeckoResource.from_settings(settings)
    used = api.budget()
    left = "" if used.remaining is None else f", {used.remaining:,} left"
    blocked = f"; all wait {used.blocked_seconds:.0f} s more" if used.blocked_seconds > 0 else ""
    return (
        f"CoinGecko API ({api.tier_in_force}): {counted(used.calls_this_month, 'call')} this month{left};"
        f" {used.current_per_minute:.3g} a minute allowed now{blocked}."
    )


def freshness(settings: "Settings", lake: "LakePlace", engine: "QueryEngine") -> list[Freshness]:
    """Return the freshness of every declared asset: endpoints, tables, views."""
    from dataplatform.views import declared_views

    events = _materializations(settings, lake.origin)
    deployed = set(engine.deployed())
    limit = VIEW_HOURS if lake.origin == "live" else None
    views = [
        Freshness(f"analytics.{name}", *_view_facts(events, name, deployed), limit_hours=limit)
        for name in declared_views(settings.profile)
    ]
    return [*_raw_freshness(lake, events), *_table_freshness(lake, engine, events), *views]


Events = Mapping[tuple[str, ...], tuple[datetime, Mapping[str, Any]]]
"""Asset key → when it was last materialized, and that event's metadata."""


def _view_facts(
    events: Events, name: str, deployed: set[str]
) -> tuple[datetime | None, int | None]:
    if name not in deployed or ("analytics", name) not in events:
        return None, None
    at, metadata = events["analytics", name]
    return at, metadata.get("dagster/row_count")


def _raw_freshness(lake: "LakePlace", events: Events) -> list[Freshness]:
    from dataplatform.raw import all_endpoints
    from dataplatform.raw.inbox import inbox

    newest = _newest_manifests(lake)
    found = []
    for endpoint in all_endpoints().values():
        manifest = newest.get(endpoint.name)
        built = _latest(
            events.get(("raw", endpoint.name)), manifest.fetched_at if manifest else None
        )
        # Nobody has to drop anything into the inbox.
        ages = lake.origin == "live" and endpoint is not inbox
        found.append(
            Freshness(
                f"raw.{endpoint.name}",
                built if manifest or endpoint is inbox else None,
                sum(file.records or 0 for file in manifest.files) if manifest else None,
                manifest.fetched_at if manifest else None,
                RAW_HOURS[endpoint.every] if ages else None,
            )
        )
    return found


def _newest_manifests(lake: "LakePlace") -> "dict[str, Manifest]":
    """Return each endpoint's manifest of the newest slot."""
    from dataplatform.lake.manifest import Cursor

    zone = lake.raw_zone
    slots = {}
    for arrival in zone.arrivals(Cursor()):
        slot = arrival.slot
        known = slots.get(slot.endpoint)
        if known is None or (known.day, known.name) < (slot.day, slot.name):
            slots[slot.endpoint] = slot
    found = {name: zone.manifest(slot) for name, slot in slots.items()}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def _table_freshness(
    lake: "LakePlace", engine: "QueryEngine", events: Events
) -> Iterable[Freshness]:
    from dataplatform.lake.inspect import footprint
    from dataplatform.lake.spec import NAMESPACE
    from dataplatform.tables import all_specs

    for spec in all_specs().values():
        table = engine.load(spec.name)
        if table is None:
            yield Freshness(f"{NAMESPACE}.{spec.name}", None)
            continue
        now = footprint(table)
        yield Freshness(
            f"{NAMESPACE}.{spec.name}",
            _latest(events.get((NAMESPACE, spec.name)), now.updated_at),
            now.rows,
            _newest_data(engine, spec) if now.rows else None,
            spec.freshness_hours if lake.origin == "live" else None,
        )


def _newest_data(engine: "QueryEngine", spec: "TableSpec") -> date | datetime | None:
    """Return the newest day or time in a table, or its newest fetch where it has no days."""
    columns = {column.name for column in spec.columns}
    column = spec.day_column or ("fetched_at" if "fetched_at" in columns else None)
    if column is None:
        return None
    sql = f"SELECT max({column}) AS newest FROM warehouse.{spec.name}"  # noqa: S608  declared names
    return engine.query(sql).rows[0][0]


def _latest(event: tuple[datetime, Any] | None, own: datetime | None) -> datetime | None:
    return max((at for at in (event[0] if event else None, own) if at), default=None)


def _materializations(settings: "Settings", origin: "Origin") -> Events:
    """Return the last materialization of each asset in this lake, as Dagster keeps them.

    Both lakes share one Dagster home: the run's tag, or the origin among the metadata, tells them
    apart. None of it is needed for tables, which know when they changed.
    """
    home = dagster_home(settings)
    # In SQLite there is nothing before the first run, and opening it would make the files.
    if not (home / ("history" if settings.profile == "local" else "dagster.yaml")).exists():
        return {}
    from dagster import AssetKey, DagsterInstance

    from dataplatform.profiles import ORIGIN_TAG

    found = {}
    with DagsterInstance.from_config(str(home)) as instance:
        keys = [AssetKey(list(path)) for path in _asset_paths(settings.profile)]
        for key, entry in instance.get_latest_materialization_events(keys).items():
            if entry is None or entry.asset_materialization is None:
                continue
            run = instance.get_run_by_id(entry.run_id)
            told = run.tags.get(ORIGIN_TAG, origin) if run else origin
            metadata = {n: v.value for n, v in entry.asset_materialization.metadata.items()}
            if metadata.get("origin", told) == origin:
                at = datetime.fromtimestamp(entry.timestamp, UTC)
                found[tuple(key.path)] = (at, metadata)
    return found


def _asset_paths(profile: "Profile") -> list[tuple[str, str]]:
    from dataplatform.raw import all_endpoints
    from dataplatform.tables import all_specs
    from dataplatform.views import declared_views

    return [
        *(("raw", name) for name in all_endpoints()),
        *(("warehouse", name) for name in all_specs()),
        *(("analytics", name) for name in declared_views(profile)),
    ]
