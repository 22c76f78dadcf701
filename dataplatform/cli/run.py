"""`dp run`: build the whole lineage in this process, and say what came of it."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import ATTRIBUTION, UserError, add_row, counted, grid, user_errors
from dataplatform.cli.home import load_settings, new_log, prepare_dagster_home
from dataplatform.cli.origin import Wanted, choose_origin
from dataplatform.lake.place import shown
from dataplatform.resources.servers import require_servers

if TYPE_CHECKING:
    from dagster import AssetKey, JobDefinition

    from dataplatform.cli.events import RunFacts
    from dataplatform.cli.progress import ProgressView
    from dataplatform.lake.api.endpoint import Endpoint
    from dataplatform.lake.place import LakePlace
    from dataplatform.profiles import Settings

KNOWN_PAGES: Final = {"coins_markets": 78, "exchanges": 4}
"""Pages in November 2026: about 19,400 coins and 1,000 exchanges, 250 a page."""
LONG_MINUTES: Final = 2.0
"""An estimate beyond this is said, with what shortens it."""
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Plan:
    """What one run builds: the job, its assets, and first and last day where one has partitions."""

    job: "JobDefinition"
    assets: "Sequence[AssetKey]"
    days: tuple[str, str] | None


@user_errors
def run(
    partition: Annotated[
        str | None,
        typer.Option(
            "--partition",
            "-p",
            metavar="DAY",
            help="Day of history, or FIRST...LAST: default yesterday; 90 days in a new live lake.",
        ),
    ] = None,
    select: Annotated[
        str,
        typer.Option("--select", "-s", metavar="SEL", help="Dagster's asset selection."),
    ] = "*",
    origin: Annotated[
        Wanted,
        typer.Option(help="auto: live, or recordings while there is no live lake and no API."),
    ] = Wanted.AUTO,
    pages: Annotated[
        int | None, typer.Option(min=1, help="At most so many pages of the market listing.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Dagster's and Spark's logs on the screen.")
    ] = False,
) -> None:
    """Build everything: API or recordings, raw files, tables, views; then a summary.

    A second run goes on where the first one ended, and changes nothing where nothing is new.
    Example: dp run --select 'key:"warehouse/coins"' --origin recorded
    """
    if pages is not None:
        os.environ["DATAPLATFORM_MARKETS_PAGES"] = str(pages)
    settings = load_settings()
    require_servers(settings)
    # Before anything is asked: what is mistyped should not cost a request.
    plan = _plan(select, _days(partition))
    lake = _choose_lake(settings, origin, asks_api=bool(_endpoints_of(plan)))
    prepare_dagster_home(settings)
    if partition is None and lake.origin == "live" and plan.days and not _has_history(lake):
        console.err().print(f"A new lake: {_HISTORY_DAYS} days of history for each coin.")
        plan = replace(plan, days=_last_days(_HISTORY_DAYS))
    if lake.origin == "live":
        _announce_length(settings, plan)
    lake.remember()
    raise typer.Exit(_execute(settings, lake, plan, verbose))


_HISTORY_DAYS: Final = 90
"""What correlations look back; the API answers a coin's 90 days in one call, as it does a day."""


def _last_days(count: int) -> tuple[str, str]:
    """Return the first and last of so many days before today, UTC."""
    today = datetime.now(UTC)
    return f"{today - timedelta(days=count):%Y-%m-%d}", f"{today - timedelta(days=1):%Y-%m-%d}"


def _has_history(lake: "LakePlace") -> bool:
    from dataplatform.raw import all_endpoints

    history = [e for e in all_endpoints().values() if e.every == "partition"]
    return all(lake.store.folders(f"{endpoint.source}/{endpoint.name}") for endpoint in history)


def _days(text: str | None) -> tuple[str, str]:
    """Read `DAY` or `FIRST...LAST`, as Dagster writes ranges."""
    if text is None:
        return _last_days(1)
    first, dots, last = text.partition("...")
    return _day(first), _day(last if dots else first)


def _day(text: str) -> str:
    try:
        return f"{datetime.strptime(text, '%Y-%m-%d'):%Y-%m-%d}"  # noqa: DTZ007  a calendar day
    except ValueError:
        raise UserError(
            f"{text} is no day. Remedy: --partition YYYY-MM-DD, such as 2026-01-31."
        ) from None


def _choose_lake(settings: "Settings", wanted: Wanted, *, asks_api: bool) -> "LakePlace":
    """Decide on the lake, say why, and let this process use it."""
    from dataplatform.profiles import lake_place
    from dataplatform.resources.coingecko import CoinGeckoResource

    api = CoinGeckoResource.from_settings(settings)
    choice = choose_origin(wanted, settings, api.ping, asks_api=asks_api)
    console.err().print(str(choice), markup=False)
    os.environ["DATAPLATFORM_ORIGIN"] = choice.origin
    return lake_place(settings, choice.origin)


def _endpoints_of(plan: Plan) -> "list[Endpoint]":
    """Return what the plan asks the API for."""
    from dataplatform.raw.coingecko import api_endpoints

    selected = {key.path[-1] for key in plan.assets if key.path[0] == "raw"}
    return [endpoint for endpoint in api_endpoints().values() if endpoint.name in selected]


def _announce_length(settings: "Settings", plan: Plan) -> None:
    from dataplatform.resources.coingecko import CoinGeckoResource

    calls = calls_of(_endpoints_of(plan), settings)
    pace = CoinGeckoResource.from_settings(settings).budget().current_per_minute
    estimate = estimate_text(settings, calls, pace)
    if estimate:
        console.err().print(estimate, markup=False)


def calls_of(endpoints: "Sequence[Endpoint]", settings: "Settings") -> int:
    """Return about how many requests it takes to fetch each of `endpoints` once."""
    pages = KNOWN_PAGES | (
        {"coins_markets": settings.markets_pages} if settings.markets_pages else {}
    )
    return sum(len(settings.coins) if e.per_coin else pages.get(e.name, 1) for e in endpoints)


def estimate_text(settings: "Settings", calls: int, per_minute: float) -> str | None:
    """Say how long the API's limit makes a first run, and how to shorten it; None if not long.

    Args:
        settings: pages and tier.
        calls: requests that a first run sends.
        per_minute: calls a minute that the budget allows now.
    """
    from dataplatform.resources.coingecko import CoinGeckoResource

    minutes = calls / per_minute
    if minutes <= LONG_MINUTES:
        return None
    pages = settings.markets_pages or calls
    ways = [] if pages <= _FEW_PAGES else [f"--pages {_FEW_PAGES} (the largest 1,000 coins)"]
    tier = CoinGeckoResource.from_settings(settings).tier_in_force
    if tier == "keyless":
        ways.append("a free demo key in DATAPLATFORM_COINGECKO_API_KEY (30 calls a minute)")
    shorter = f" Shorter: {', or '.join(ways)}." if ways else ""
    return (
        f"The {tier} API allows {counted(round(per_minute), 'call')} a minute:"
        f" up to {counted(calls, 'call')},"
        f" about {minutes:.0f} min; what was fetched this hour or today is not fetched again."
        f"{shorter}"
    )


_FEW_PAGES: Final = 4


def _plan(select: str, days: tuple[str, str]) -> Plan:
    """Resolve the selection against the code location, which is loaded here."""
    from dagster import AssetSelection, BetaWarning, DagsterError

    from dataplatform.assets.partitions import DAILY
    from dataplatform.definitions import defs

    graph = defs.resolve_asset_graph()
    try:
        with warnings.catch_warnings():
            # Dagster's parser of selections uses a parameter of its own that is in beta.
            warnings.filterwarnings("ignore", "Parameter `include_sources`", BetaWarning)
            keys = AssetSelection.from_string(select).resolve(graph)
    except DagsterError:
        keys = set()
    if not keys:
        raise UserError(
            _no_asset(select, [key.to_user_string() for key in graph.get_all_asset_keys()])
        )
    partitioned = any(graph.get(key).is_partitioned for key in keys)
    unknown = [day for day in days if not DAILY.has_partition_key(day)]
    if partitioned and (unknown or days[0] > days[1]):
        raise UserError(
            f"There is no partition {'...'.join(unknown or days)}. Remedy: a day from {DAILY.get_first_partition_key()} to"
            f" {DAILY.get_last_partition_key()}: days that are over, in UTC."
        )
    job = defs.resolve_implicit_global_asset_job_def()
    return Plan(job, sorted(keys), days if partitioned else None)


def _no_asset(select: str, known: "Sequence[str]") -> str:
    """Say that a selection names nothing, and which assets have a name like one in it."""
    from difflib import get_close_matches

    near: dict[str, None] = {}
    for word in re.findall(r"[\w/]+", select):
        # By the whole key, or by the dataset alone: `coins` is in more than one group.
        for of in (lambda key: key, lambda key: key.rpartition("/")[2]):
            found = get_close_matches(word, {of(key) for key in known}, n=2, cutoff=0.75)
            near |= dict.fromkeys(key for name in found for key in sorted(known) if of(key) == name)
    shown = " or ".join(f'key:"{key}"' for key in list(near)[:_OFFERED])
    meant = f" Did you mean {shown}?" if shown else ""
    return f"--select {select} names no asset.{meant}{_SYNTAX}"


_OFFERED: Final = 3
_SYNTAX: Final = (
    " Remedy: a selection such as 'group:tables', '+key:\"warehouse/coins\"' (with all before it)"
    " or 'key:\"raw/*\"'."
)


def _execute(settings: "Settings", lake: "LakePlace", plan: Plan, verbose: bool) -> int:
    """Run the plan; returns the exit code."""
    import sys
    from contextlib import nullcontext

    from dataplatform.cli.progress import ProgressView, diverted, on_ctrl_c

    log = new_log(settings, "run")
    with nullcontext(sys.stderr) if verbose else diverted(log) as screen:
        view = ProgressView(screen, len(plan.assets))
        try:
            with view.live(), on_ctrl_c(lambda: view.console.print("Stopping …")):
                succeeded = _materialize(plan, view, lake, verbose)
                if not succeeded and (rest := _rest_of(plan, view.facts)):
                    view.console.print("Tables and views are built from what has landed.")
                    view.facts.skipped.clear()
                    _materialize(rest, view, lake, verbose)
        except KeyboardInterrupt:
            view.console.print("Interrupted. What is published stays; `dp run` goes on from there.")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  whatever it is, the user gets cause and log
            _note_crash(view.facts, error)
            succeeded = False
    if not succeeded:
        _show_failure(view.facts, None if verbose else log)
        return 1
    if verbose or not (console.err().is_terminal and console.out().is_terminal):
        _show_built(view.facts)
    _show_summary(view.facts, lake, view.total)
    _show_next(settings)
    return 0


def _rest_of(plan: Plan, facts: "RunFacts") -> Plan | None:
    """Return what is left where raw assets alone failed, and others landed; else None.

    All tables are one step to Dagster, which skips it where any of its inputs failed.
    """
    only_raw = facts.failed and all(failed.step.startswith("raw.") for failed in facts.failed)
    if not only_raw or not any(built.group == "raw" for built in facts.built):
        return None
    done = {(built.group, built.name) for built in facts.built}
    rest = [key for key in plan.assets if key.path[0] != "raw" and tuple(key.path) not in done]
    # Raw assets alone are partitioned.
    return Plan(plan.job, rest, None) if rest else None


def _materialize(plan: Plan, view: "ProgressView", lake: "LakePlace", verbose: bool) -> bool:
    from dagster import DagsterInstance
    from dagster._core.storage.tags import (
        ASSET_PARTITION_RANGE_END_TAG,
        ASSET_PARTITION_RANGE_START_TAG,
    )
    from dagster._core.utils import make_new_run_id

    from dataplatform.profiles import ORIGIN_TAG

    run_id = make_new_run_id()
    first, last = plan.days or (None, None)
    span = {}
    if first is not None and last is not None and first != last:
        span = {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
    # To the log file goes everything; on the screen INFO is what Dagster's own CLI shows.
    level = "INFO" if verbose else "DEBUG"
    with DagsterInstance.get() as instance:
        instance.add_event_listener(run_id, view.on_event)
        result = plan.job.execute_in_process(
            run_config={"loggers": {"console": {"config": {"log_level": level}}}},
            instance=instance,
            partition_key=first if first == last else None,
            asset_selection=list(plan.assets),
            raise_on_error=False,
            run_id=run_id,
            tags={ORIGIN_TAG: lake.origin, "dataplatform/started_by": "dp run", **span},
        )
    # While it executes, Dagster takes Ctrl-C itself and ends the run as failed.
    if view.interrupted:
        raise KeyboardInterrupt
    return result.success


def _note_crash(facts: "RunFacts", error: Exception) -> None:
    """Keep the traceback in the log and the message for the panel."""
    import traceback

    from dataplatform.cli.events import split_remedy

    traceback.print_exception(error)
    facts.failed.append(split_remedy("the run", f"{type(error).__name__}: {error}"))


def _show_failure(facts: "RunFacts", log: Path | None) -> None:
    """Show one panel with cause and remedy: of the first failure, as the others may follow it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.panel import Panel

    lines = []
    for failed in facts.failed[:1]:
        lines += [f"[bold]{escape(failed.step)}[/] failed.", "", escape(failed.cause)]
        if failed.remedy:
            lines += ["", f"[bold]Remedy:[/] {escape(failed.remedy)}"]
    if len(facts.failed) > 1:
        others = ", ".join(failed.step for failed in facts.failed[1:])
        lines += ["", f"Failed as well: {escape(others)}."]
    if facts.skipped:
        lines += ["", f"Not built, as they read from it: {escape(', '.join(facts.skipped))}."]
    lines += ["", "What is published stays; `dp run` goes on from there."]
    lines += [f"Log: {escape(shown(log))}"] if log else []
    Console(stderr=True, highlight=False).print(
        Panel("\n".join(lines), title="Run failed", border_style="red")
    )


def _show_built(facts: "RunFacts") -> None:
    """Show a table of what each line said already: for a reader that had no lines, or among logs."""
    table = grid(["asset", "rows", "change", "seconds"], [False, True, False, True], named=True)
    for built in facts.built:
        rows = "" if built.rows is None else f"{built.rows:,}"
        add_row(table, [f"{built.group}.{built.name}", rows, built.change, f"{built.seconds:.1f}"])
    console.out().print(table)


def _show_summary(facts: "RunFacts", lake: "LakePlace", total: int) -> None:
    from dataplatform.cli.events import UNCHANGED

    unchanged = sum(built.change == UNCHANGED for built in facts.built)
    screen = console.out()
    screen.print(
        f"{len(facts.built)} of {total} assets built, {unchanged} of them unchanged."
        f" Data: {lake.origin}. {ATTRIBUTION}.",
        markup=False,
    )
    places = lake.whereabouts
    screen.print(f"Raw files {places['raw files']} · tables {places['tables']}")
    for warning in facts.warnings:
        screen.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def _show_next(settings: "Settings") -> None:
    # It may have been set for this command alone.
    here = (
        "" if settings.profile == "local" else f"  export DATAPLATFORM_PROFILE={settings.profile}\n"
    )
    console.out().print(f"\nNext:\n{here}{_NEXT}", markup=False, highlight=False)


_NEXT: Final = """\
  dp query "select * from analytics.latest_prices limit 5"
  dp tables        what there is
  dp status        how fresh everything is
  make ui          Dagster's UI: the asset graph, runs, schedules
(dp is .venv/bin/dp after `make run`.)"""
