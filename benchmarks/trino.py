"""What compaction does for the views in Trino: each asked first after a restart, and again.

Two catalogs show one lake, before its compaction and after, and take turns. What Trino caches of
tables' metadata it holds in memory, so a restart empties it; a table that one view reads is then
asked in both, so that no view's figure is that of a JVM which loads its classes.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import measure
from benchmarks.report import Comparison, Result
from benchmarks.trino_lake import place_of
from dataplatform.lake.maintenance import Size, size
from dataplatform.lake.manifest import Origin
from dataplatform.lake.schema import identifier
from dataplatform.lake.trino.client import TrinoClient
from dataplatform.profiles import Settings
from dataplatform.resources.servers import find_servers
from dataplatform.stack.layout import Given
from dataplatform.stack.runner import Stack
from dataplatform.tables import all_specs
from dataplatform.views import all_views

STATES: dict[str, Origin] = {"as built": "recorded", "compacted": "live"}
_WARM = 3
_FIRST = """
WITH ranked AS (SELECT name, row_number() OVER (PARTITION BY country ORDER BY name) AS n FROM warehouse.exchanges)
SELECT one.n, count(*), max(one.name) FROM ranked one JOIN ranked two ON one.n = two.n
GROUP BY one.n ORDER BY one.n
"""
Samples = dict[str, list[float]]


@dataclass
class Latencies:
    """Milliseconds an answer, cold and warm, by view; in one state of the lake."""

    cold: Samples = field(default_factory=lambda: {view: [] for view in all_views()})
    warm: Samples = field(default_factory=lambda: {view: [] for view in all_views()})


def run(*, quick: bool) -> Result:
    """Build, compact, then ask every view in both states after each of some restarts."""
    hours, coins, restarts = (3, 50, 1) if quick else (50, 300, 3)
    with _stack() as (stack, home):
        command = [sys.executable, "-m", "benchmarks.trino_lake", str(home), str(hours), str(coins)]
        measure(command, os.environ)
        sizes = {state: _size(home, origin) for state, origin in STATES.items()}
        for origin in STATES.values():
            _deploy(home, origin)
        found = {state: Latencies() for state in STATES}
        for turn in range(restarts):
            stack.restart("trino", _quiet)
            _ask(_clients(home), found, turn)
    return Result(
        "trino",
        f"Views in Trino over {hours} hourly builds of {coins} coins (simulated), and compacted",
        tuple(_comparisons(found)),
        tuple(_described(state, sizes[state]) for state in STATES),
    )


@contextmanager
def _stack() -> Generator[tuple[Stack, Path]]:
    """Bring up servers in a short path, since Unix sockets take no long one."""
    home = Path(tempfile.mkdtemp(prefix="dp-bench-"))
    stack = Stack(home, Given.model_construct())
    try:
        stack.up(_quiet, free_ports=True)
        yield stack, home
    finally:
        stack.down(_quiet)
        shutil.rmtree(home, ignore_errors=True)


def _quiet(_server: str, _what: str) -> None:
    """Take progress and say nothing."""


def _size(home: Path, origin: Origin) -> Size:
    """Return what all tables are made of."""
    catalog = place_of(home, origin).open_catalog()
    sizes = [size(catalog.load_table(identifier(name))).model_dump() for name in all_specs()]
    return Size(**{part: sum(one[part] for one in sizes) for part in Size.model_fields})


def _described(state: str, found: Size) -> str:
    return (
        f"{state}: {found.rows:,} rows in {found.data_files} data and {found.delete_files} delete"
        f" files, {found.bytes / 2**20:.1f} MiB, {found.manifests} manifests."
    )


def _deploy(home: Path, origin: Origin) -> None:
    engine = place_of(home, origin).engine()
    for view in all_views().values():
        engine.deploy(view)


def _clients(home: Path) -> dict[str, TrinoClient]:
    servers = find_servers(Settings.model_validate({"profile": "stack", "home": home}))
    return {state: servers.trino(origin) for state, origin in STATES.items()}


def _ask(clients: dict[str, TrinoClient], found: dict[str, Latencies], turn: int) -> None:
    """Ask every view in both states, the first of each changing; begin with another view a turn."""
    for client in [*clients.values()] * _WARM:
        client.query(_FIRST)
    views = list(all_views())
    begin = turn * 3 % len(views)
    for number, view in enumerate(views[begin:] + views[:begin]):
        states = list(clients) if (number + turn) % 2 else list(reversed(clients))
        for state in states:
            found[state].cold[view].append(_milliseconds(clients[state], view))
        for _ in range(_WARM):
            for state in states:
                found[state].warm[view].append(_milliseconds(clients[state], view))
    for client in clients.values():
        client.close()


def _milliseconds(client: TrinoClient, view: str) -> float:
    started = time.perf_counter()
    client.query(f"SELECT * FROM analytics.{view}")  # noqa: S608  a declared name
    return (time.perf_counter() - started) * 1000


def _comparisons(found: dict[str, Latencies]) -> Iterable[Comparison]:
    """Yield the sum of the views, then each view, cold and warm."""
    before, after = found["as built"], found["compacted"]
    for what, ours, theirs in (
        ("cold", after.cold, before.cold),
        ("warm", after.warm, before.warm),
    ):
        total, baseline = _sums(ours), _sums(theirs)
        yield Comparison(f"all views, {what}", "ms", ("compacted", total), ("as built", baseline))
        for view in all_views():
            subject, other = ("compacted", ours[view]), ("as built", theirs[view])
            yield Comparison(f"{view}, {what}", "ms", subject, other)


def _sums(samples: Samples) -> list[float]:
    return [sum(one) for one in zip(*samples.values(), strict=True)]
