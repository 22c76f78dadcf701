"""A lake on real servers, built hour by hour, as it was before its compaction and as it is after.

A program of its own, so that its JVM is gone when Trino is measured:
`python -m benchmarks.trino_lake HOME HOURS COINS`, where a stack runs below HOME.
"""

import sys
from datetime import timedelta
from pathlib import Path

from pyiceberg.catalog import Catalog

from benchmarks.simulated_lake import start_spark
from benchmarks.simulation import Market, land_snapshot, utc
from dataplatform.lake.build import Builder
from dataplatform.lake.maintenance import Maintenance
from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import LakePlace
from dataplatform.lake.plan import Lake
from dataplatform.lake.schema import identifier
from dataplatform.lake.spark import lake_session
from dataplatform.lake.spec import NAMESPACE
from dataplatform.profiles import Settings, lake_place
from dataplatform.raw import all_endpoints
from dataplatform.raw.coingecko.coins_markets import endpoint as coins_markets
from dataplatform.raw.recorded import land_recordings
from dataplatform.tables import all_specs

START = utc("2025-03-01")


def place_of(home: Path, origin: Origin) -> LakePlace:
    """Return a lake of the stack below `home`: live is compacted in the end, recorded is not."""
    return lake_place(Settings.model_validate({"profile": "stack", "home": home}), origin)


def make(home: Path, hours: int, coins: int) -> None:
    """Land and build one snapshot an hour; keep the tables as they are, then compact them.

    The other endpoints' tables hold the bundled recordings. Compaction leaves the files of younger
    snapshots in place, so that both catalogs answer side by side.
    """
    place = place_of(home, "live")
    spark = start_spark("1g", place.spark_jars)
    session = lake_session(spark, place.spark_conf())
    for endpoint in all_endpoints().values():
        if endpoint != coins_markets:
            land_recordings(place.raw_zone, endpoint)
    lake = Lake(place.raw_zone, place.open_catalog(), all_endpoints(), "live")
    for hour in range(hours):
        land_snapshot(place.raw_zone, Market(coins), START + timedelta(hours=hour))
        for _ in Builder(lake, all_specs(), lambda: session).build(all_specs()):
            pass
        print(f"hour {hour + 1} of {hours}", flush=True)
    _adopt(place.open_catalog(), place_of(home, "recorded").open_catalog())
    maintenance = Maintenance(place.open_catalog(), lambda: session)
    for name in all_specs():
        maintenance.maintain(name)
    spark.stop()


def _adopt(source: Catalog, target: Catalog) -> None:
    """Register the tables of a catalog, as they are now, in another."""
    target.create_namespace_if_not_exists(NAMESPACE)
    for name in all_specs():
        table = source.load_table(identifier(name))
        target.register_table(identifier(name), table.metadata_location)


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
