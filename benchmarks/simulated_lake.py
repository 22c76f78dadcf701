"""A lake of simulated data, its engine, and one build of it as a program of its own."""

import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dataplatform.lake.build import Builder, TableResult
from dataplatform.lake.catalog import SqliteCatalog
from dataplatform.lake.manifest import RawZone
from dataplatform.lake.plan import Lake
from dataplatform.lake.spark import lake_session, local_conf, prepare_environment
from dataplatform.lake.store.object_store import open_folder
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform.versions import SPARK_JARS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WORK = Path(".dataplatform/benchmarks")


def start_spark(memory: str = "2g", jars: Mapping[str, str] = SPARK_JARS) -> "SparkSession":
    """Start the JVM with the settings of the local profile, and the jars that the lake needs."""
    prepare_environment()
    from pyspark.sql import SparkSession

    return SparkSession.builder.config(map={**local_conf(memory, jars)}).getOrCreate()


class SimulatedLake:
    """One lake below `root`, opened by nobody else."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.zone = RawZone(open_folder(self.root / "datalake"))

    @property
    def _places(self) -> tuple[Path, Path]:
        return self.root / "catalog.db", self.root / "warehouse"

    def build(self, spark: "SparkSession", names: Iterable[str] | None = None) -> list[TableResult]:
        """Bring the named tables, or all, up to the raw files; returns what was done."""
        lake = Lake(self.zone, SqliteCatalog(*self._places).open(), all_endpoints(), "live")
        session = lake_session(spark, SqliteCatalog(*self._places).spark_conf())
        builder = Builder(lake, all_specs(), lambda: session)
        return list(builder.build(names or all_specs()))


@contextmanager
def workspace(name: str) -> Generator[Path]:
    """Give a folder for lakes and remove it at the end; on the disk that real lakes use."""
    WORK.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{name}-", dir=WORK) as folder:
        yield Path(folder).resolve()


def main() -> None:
    """Build once: `python -m benchmarks.simulated_lake ROOT [table …]`."""
    lake = SimulatedLake(Path(sys.argv[1]))
    results = lake.build(start_spark(), sys.argv[2:] or None)
    print({result.table: result.rows for result in results})


if __name__ == "__main__":
    main()
