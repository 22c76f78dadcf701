"""A process that runs the lineage again and again in one JVM, for tests that disturb it."""

import multiprocessing
import os
import traceback
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

if TYPE_CHECKING:
    from dagster import DagsterInstance, ExecuteInProcessResult

_PAUSE: Final = 1 / 20
"""A step that is tried again waits 3 s instead of a minute: a killed server takes as long."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        success: whether every step did.
        errors: what each failed attempt said, the causes below it included.
        said: everything that was logged, for a look at secrets.
        changed: the tables in which the run published something.
    """

    success: bool
    errors: tuple[str, ...]
    said: str
    changed: frozenset[str] = frozenset()


class Worker:
    """Runs in another process; the JVM there stays warm between two runs."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def begin(self, *keys: str) -> Future[Outcome]:
        """Begin a run of the assets `keys`, such as `warehouse/coins`."""
        return self._pool.submit(_run, keys)

    def run(self, *keys: str) -> Outcome:
        """Run the assets `keys` to the end."""
        return self.begin(*keys).result(timeout=300)

    def land(self, home: Path, wave: int, coins: int) -> None:
        """Land a wave of simulated answers in the embedded lake below `home`."""
        self._pool.submit(_land, home, wave, coins).result(timeout=60)

    def build_undisturbed(self, home: Path, tables: tuple[str, ...]) -> None:
        """Build tables of the embedded lake below `home`."""
        self._pool.submit(_build, home, tables).result(timeout=300)


@contextmanager
def worker(env: Mapping[str, str], folder: Path) -> Generator[Worker]:
    """Start a process with this environment, in `folder`."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, _prepare, (dict(env), folder)) as pool:
        yield Worker(pool)


def _prepare(env: Mapping[str, str], folder: Path) -> None:
    os.environ.clear()
    os.environ.update(env)
    # Not the repository's folder: a developer's `.env` lies there.
    os.chdir(folder)
    from dagster import RetryPolicy

    patient = RetryPolicy.calculate_delay
    patch.object(RetryPolicy, "calculate_delay", lambda self, n: patient(self, n) * _PAUSE).start()


def _run(keys: tuple[str, ...]) -> Outcome:
    from dagster import AssetKey, DagsterInstance

    from dataplatform.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def()
    selection = [AssetKey(key.split("/")) for key in keys]
    try:
        with DagsterInstance.get() as instance:
            result = job.execute_in_process(
                instance=instance, asset_selection=selection, raise_on_error=False
            )
            return _outcome(result, instance)
    except Exception:  # noqa: BLE001  Dagster itself may fail with its storage
        said = traceback.format_exc()
        return Outcome(success=False, errors=(said,), said=said)


def _outcome(result: "ExecuteInProcessResult", instance: "DagsterInstance") -> Outcome:
    failed = (e for e in result.all_events if e.is_step_failure or e.is_step_up_for_retry)
    errors = (getattr(event.event_specific_data, "error", None) for event in failed)
    changed = {
        event.asset_key.path[-1]
        for event in result.get_asset_materialization_events()
        if event.asset_key
        if getattr(event.materialization.metadata.get("status"), "value", "") == "published"
    }
    said = "\n".join(str(entry) for entry in instance.all_logs(result.run_id))
    texts = tuple(error.to_string() for error in errors if error)
    return Outcome(result.success, texts, said, frozenset(changed))


def _land(home: Path, wave: int, coins: int) -> None:
    from dataplatform.lake.place import LocalLake
    from dataplatform_tests.kill_driver import land_wave

    land_wave(LocalLake(home, "live").raw_zone, wave, coins)


def _build(home: Path, tables: tuple[str, ...]) -> None:
    from dataplatform.lake.build import Builder
    from dataplatform.lake.place import LocalLake
    from dataplatform.lake.plan import Lake
    from dataplatform.lake.spark import lake_session
    from dataplatform.profiles import Settings, lake_place
    from dataplatform.raw import all_endpoints
    from dataplatform.resources.spark_local import SparkLocalResource
    from dataplatform.tables import all_specs

    servers = lake_place(Settings(), "live")
    place = LocalLake(home, "live")
    lake = Lake(place.raw_zone, place.open_catalog(), all_endpoints(), "live")
    # By way of the servers' lake: its jars must be on the JVM's class path from the start.
    spark = SparkLocalResource().session(servers)
    session = lake_session(spark, place.spark_conf())
    list(Builder(lake, all_specs(), lambda: session).build(tables))
