"""`dp doctor`: look at everything a run needs; say what is wrong, and what to do."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from dataplatform.cli import console
from dataplatform.cli.console import add_row, counted, grid, size_text, user_errors
from dataplatform.cli.home import dagster_home, load_settings
from dataplatform.cli.progress import diverted

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from dataplatform.profiles import Settings

State = Literal["ok", "warn", "fail"]
_COLOUR: Final[dict[State, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}
GIB: Final = 1024**3
DISK_WARN: Final = 5 * GIB
"""A month of hourly snapshots of 20,000 coins takes about as much."""
DISK_FAIL: Final = GIB // 2
PYTHONS: Final = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Finding:
    """What was found about one thing, and what to do where it is not well."""

    what: str
    state: State
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        remedy = f" Remedy: {self.remedy}" if self.remedy else ""
        return f"{self.what:<8} {self.state:<4}  {self.detail}{remedy}"


Check = Callable[["Settings"], Finding]


@user_errors
def doctor() -> None:
    """Check all that a run needs, from Python to disk, and the servers; exit 1 on a fault."""
    settings = load_settings()
    # What Spark says as it starts is no finding.
    with diverted(Path(os.devnull)):
        findings = [_examined(check, settings) for check in checks_of(settings.profile)]
    screen = console.out()
    if screen.is_terminal:
        table = grid(["what", "state", "found", "remedy"], named=True)
        for finding in findings:
            add_row(table, [finding.what, finding.state, finding.detail, finding.remedy])
        screen.print(table)
    else:
        for finding in findings:
            screen.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    worst = worst_of(findings)
    screen.print(_VERDICT[worst], style=_COLOUR[worst])
    if worst == "fail":
        import typer

        raise typer.Exit(1)


_VERDICT: Final[dict[State, str]] = {
    "ok": "Everything is well.",
    "warn": "It works; see the warnings.",
    "fail": "Something is missing: see the remedies.",
}


def worst_of(findings: Sequence[Finding]) -> State:
    """Return the worst state among the findings."""
    states = {finding.state for finding in findings}
    return "fail" if "fail" in states else "warn" if "warn" in states else "ok"


def _examined(check: Check, settings: "Settings") -> Finding:
    """Run one check; what it did not foresee is a fault too, and the other checks go on."""
    try:
        return check(settings)
    except Exception as error:  # noqa: BLE001  any error is a finding
        what = getattr(check, "__name__", "check")
        return from_message(what, f"{type(error).__name__}: {error}")


def from_message(what: str, message: str, state: State = "fail") -> Finding:
    """Return a finding from an error whose remedy follows the word `Remedy:` or an arrow."""
    for mark in ("Remedy:", " → "):
        detail, found, remedy = message.partition(mark)
        if found:
            return Finding(what, state, detail.strip(), remedy.strip())
    return Finding(what, state, message.strip())


def python(_settings: "Settings") -> Finding:
    """Python's version is one that the lock was made for."""
    found = sys.version_info[:2]
    text = f"{sys.version.split()[0]} in {sys.prefix}"
    if PYTHONS[0] <= found <= PYTHONS[1]:
        return Finding("Python", "ok", text)
    return Finding("Python", "fail", text, "make setup PYTHON=python3.11 (3.11 to 3.13)")


def java(_settings: "Settings") -> Finding:
    """A Java that Spark and Iceberg run on can be found."""
    from dataplatform.lake.jvm import JavaNotFoundError, find_java, java_version

    try:
        home = find_java()
    except JavaNotFoundError as error:
        return from_message("Java", str(error))
    return Finding("Java", "ok", f"{java_version(home)} in {home}")


def jars(settings: "Settings") -> Finding:
    """The jars are in the cache, or can be fetched."""
    from dataplatform.lake.jvm import JavaNotFoundError, spark_jars
    from dataplatform.lake.maven import JarError
    from dataplatform.profiles import lake_place

    try:
        found = spark_jars(lake_place(settings).spark_jars)
    except JavaNotFoundError:
        return Finding("jars", "fail", "not looked at: fetching them needs Java", "see Java")
    except JarError as error:
        return from_message("jars", str(error))
    size = size_text(sum(jar.stat().st_size for jar in found))
    return Finding("jars", "ok", f"{', '.join(jar.stem for jar in found)} ({size})")


def spark(_settings: "Settings") -> Finding:
    """Spark can be imported, in the version that the project names."""
    import pyspark

    from dataplatform.versions import SPARK_VERSION

    if pyspark.__version__ == SPARK_VERSION:
        return Finding("Spark", "ok", f"pyspark {SPARK_VERSION}")
    return Finding(
        "Spark",
        "fail",
        f"pyspark {pyspark.__version__}, but dataplatform/versions.py says {SPARK_VERSION}",
        "make setup",
    )


def store(settings: "Settings") -> Finding:
    """The bucket `datalake` takes objects and gives them back."""
    from dataplatform.profiles import lake_place

    lake = lake_place(settings)
    where = lake.whereabouts["raw files"]
    try:
        lake.store.put("_doctor", b"written")
        intact = lake.store.get("_doctor") == b"written"
        lake.store.delete("_doctor")
    except OSError as error:
        return Finding("store", "fail", f"{where}: {error}", "set DATAPLATFORM_HOME elsewhere")
    if not intact:
        return Finding("store", "fail", f"{where} gives back other bytes", "check the disk")
    return Finding("store", "ok", f"{lake.origin} lake, raw files in {where}")


def catalog(settings: "Settings") -> Finding:
    """A catalog opens, and rows written through it come back; the lake's own one is only opened."""
    import tempfile

    from dataplatform.lake.catalog import SqliteCatalog
    from dataplatform.lake.spec import NAMESPACE
    from dataplatform.profiles import lake_place

    if settings.profile != "local":
        return _catalog_of_servers(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.home, prefix="doctor-") as scratch:
        folder = Path(scratch).resolve()
        if not _round_trip(SqliteCatalog(folder / "catalog.db", folder / "warehouse").open()):
            return Finding("catalog", "fail", "rows came back changed", "make setup")
    lake = lake_place(settings)
    if not lake.is_built:
        return Finding("catalog", "ok", "rows written and read back; no lake has been built yet")
    tables = lake.open_catalog().list_tables(NAMESPACE)
    return Finding(
        "catalog", "ok", f"rows written and read back; the lake has {len(tables)} tables"
    )


def _catalog_of_servers(settings: "Settings") -> Finding:
    """Each of pyiceberg, Spark and Trino writes a row, and reads those of the others."""
    from dataplatform.lake.round_trip import round_trip
    from dataplatform.profiles import lake_place
    from dataplatform.resources.servers import find_servers
    from dataplatform.resources.spark_local import SparkLocalResource

    place = lake_place(settings)
    spark = SparkLocalResource(memory=settings.spark_memory).session(place)
    missed = round_trip(place.open_catalog(), spark, find_servers(settings).trino(place.origin))
    if not missed:
        return Finding("catalog", "ok", "pyiceberg, Spark and Trino read what each of them wrote")
    text = "; ".join(f"{engine} misses {', '.join(sorted(w))}" for engine, w in missed.items())
    remedy = "see that all three name the same catalog and warehouse"
    return Finding("catalog", "fail", text, remedy)


def _round_trip(opened: "Catalog") -> bool:
    import pyarrow as pa

    rows = pa.table({"coin_id": ["bitcoin"], "price": [1.5]})
    table = opened.create_table("warehouse.doctor", schema=rows.schema)
    table.append(rows)
    return table.scan().to_arrow().to_pylist() == rows.to_pylist()


def duckdb(_settings: "Settings") -> Finding:
    """DuckDB starts, with the extensions that read Iceberg."""
    import duckdb as library

    from dataplatform.lake.dialect import QueryError
    from dataplatform.lake.query import extension_file

    connection = library.connect(config={"autoinstall_known_extensions": False})
    loaded = []
    for name in ("avro", "iceberg"):
        try:
            connection.execute(f"LOAD '{extension_file(name)}'")
        except (QueryError, library.Error) as error:
            return from_message("DuckDB", f"extension {name}: {error}")
        loaded.append(name)
    return Finding("DuckDB", "ok", f"{library.__version__} with {', '.join(loaded)}")


def api(settings: "Settings") -> Finding:
    """The API answers, and takes the key."""
    from dataplatform.lake.api.budget_store import BudgetError
    from dataplatform.lake.place import NotConfiguredError
    from dataplatform.profiles import lake_place
    from dataplatform.resources.coingecko import CoinGeckoResource

    client = CoinGeckoResource.from_settings(settings)
    what = f"CoinGecko API ({client.tier_in_force})"
    # Recordings need no API.
    needed = settings.profile != "local" and lake_place(settings).origin == "live"
    unwell: State = "fail" if needed else "warn"
    try:
        answer = client.ping()
    except (BudgetError, NotConfiguredError) as error:
        return from_message(what, f"not asked: {error}", unwell)
    if not answer.reachable:
        found = from_message(what, answer.detail, unwell)
        remedy = "check the network; until then: dp run --origin recorded"
        return Finding(what, found.state, f"not reachable: {found.detail}", remedy)
    if " → " in answer.detail:  # It answered, and refused.
        return from_message(what, answer.detail)
    usage = client.key_usage()
    left = (
        f"; plan {usage.plan}, {counted(usage.remaining, 'call')} left this month" if usage else ""
    )
    return Finding(what, "ok", answer.detail + left)


def dagster(settings: "Settings") -> Finding:
    """Dagster's home can be written and holds the project's configuration."""
    home = dagster_home(settings)
    if not home.exists():
        return Finding("Dagster", "ok", f"{home} is made by the first `dp run` or `dp ui`")
    if not os.access(home, os.W_OK):
        return Finding("Dagster", "fail", f"{home} can't be written", "set DAGSTER_HOME elsewhere")
    if not (home / "dagster.yaml").exists():
        return Finding(
            "Dagster", "warn", f"{home} has no dagster.yaml: Dagster's defaults", "dp ui links it"
        )
    return Finding("Dagster", "ok", str(home))


def disk(settings: "Settings") -> Finding:
    """There is room for the lake to grow."""
    folder = settings.home.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{size_text(free)} free for {settings.home}"
    state: State = "fail" if free < DISK_FAIL else "warn" if free < DISK_WARN else "ok"
    return Finding("disk", state, text, "" if state == "ok" else "free some, or move the lake")


def vault(settings: "Settings") -> Finding:
    """Vault lets the platform in, and has its secrets."""
    from dataplatform.lake.secrets import SecretError
    from dataplatform.resources.vault import open_secrets

    try:
        open_secrets(settings).read("minio/platform")
    except SecretError as error:
        return from_message("Vault", str(error))
    return Finding("Vault", "ok", f"{settings.vault_addr} gives the platform's secrets")


def trino(settings: "Settings") -> Finding:
    """Trino answers."""
    from dataplatform.lake.dialect import QueryError
    from dataplatform.lake.place import NotConfiguredError
    from dataplatform.profiles import lake_place
    from dataplatform.resources.servers import find_servers

    try:
        version = find_servers(settings).trino(lake_place(settings).origin).version
    except (QueryError, NotConfiguredError) as error:
        return from_message("Trino", str(error))
    return Finding("Trino", "ok", f"{version} at {settings.trino_url}")


_ALWAYS: Final[tuple[Check, ...]] = (python, java, jars, spark)


def checks_of(profile: str) -> tuple[Check, ...]:
    """Return what is looked at in a profile, in the order in which one thing needs another."""
    engine = (duckdb,) if profile == "local" else (trino,)
    servers = () if profile == "local" else (vault,)
    return (*_ALWAYS, *servers, store, *engine, catalog, api, dagster, disk)
