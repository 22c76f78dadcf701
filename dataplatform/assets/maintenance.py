"""The maintenance job: one operation that goes through the tables and reports on each."""

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetObservation,
    Config,
    JobDefinition,
    OpExecutionContext,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from dataplatform.assets.tables import POOL, table_key
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark import SparkResource
from dataplatform.tables import all_specs

if TYPE_CHECKING:
    from dataplatform.lake.maintenance import Maintained

JOB: Final = "maintenance_job"


class MaintenanceConfig(Config):
    """What to maintain, and how long to keep what is no longer current.

    Attributes:
        tables: names; all tables where empty.
        snapshot_days: age up to which every snapshot is kept; the floor is 7.
        retain_last: snapshots kept whatever their age; the floor is 5.
        orphan_days: age below which an unnamed file is left alone; the floor is 3.
        shorter_for: tables for which less than the floor may be asked for.
    """

    tables: list[str] = Field(default_factory=list)
    snapshot_days: float = Field(default=7.0, ge=0)
    retain_last: int = Field(default=5, ge=1)
    orphan_days: float = Field(default=3.0, ge=0)
    shorter_for: list[str] = Field(default_factory=list)


@op(pool=POOL)
def maintain_tables(
    context: OpExecutionContext,
    config: MaintenanceConfig,
    lake: LakeResource,
    spark: SparkResource,
) -> None:
    """Compact each table, rewrite its manifests, expire its snapshots, remove its orphan files."""
    from dataplatform.lake.maintenance import Retention

    retention = Retention(
        snapshots=timedelta(days=config.snapshot_days),
        last=config.retain_last,
        orphans=timedelta(days=config.orphan_days),
        shorter_for=frozenset(config.shorter_for),
    )
    names = _chosen(config.tables)
    for name in names:
        # Before the first table is touched rather than in the middle.
        retention.require_for(name)
    with closing(spark.maintain(context, lake, names, retention)) as results:
        for name, done in results:
            _report(context, name, done)


def build_maintenance_job() -> JobDefinition:
    """Return the job that maintains the tables, never beside a writer of them."""

    @job(
        name=JOB,
        description=(
            "Compacts small files and folds deletes in, rewrites manifests, expires snapshots"
            " beyond the retention, removes files that no snapshot names."
        ),
        executor_def=in_process_executor,
    )
    def _maintenance() -> None:
        maintain_tables()

    return _maintenance


def _chosen(names: Sequence[str]) -> list[str]:
    unknown = set(names) - set(all_specs())
    if unknown:
        raise ValueError(f"no such table: {', '.join(sorted(unknown))}")
    return [name for name in all_specs() if not names or name in names]


def _report(context: OpExecutionContext, name: str, done: "Maintained | None") -> None:
    if done is None:
        context.log.info("%s: not built yet", name)
        return
    context.log.info(_sentence(done))
    context.log_event(AssetObservation(asset_key=table_key(name), metadata=_metadata(done)))


def _sentence(done: "Maintained") -> str:
    before, after = done.before, done.after
    return (
        f"{done.table}: {before.data_files} data and {before.delete_files} delete files became"
        f" {after.data_files} and {after.delete_files}, {before.snapshots} snapshots"
        f" {after.snapshots}; {done.removed_files} files removed in {done.seconds:.1f} s"
    )


def _metadata(done: "Maintained") -> dict[str, Any]:
    before, after = done.before.model_dump(), done.after.model_dump()
    sizes = {
        f"{what}_{when}": values[what]
        for what in before
        if what != "rows"
        for when, values in (("before", before), ("after", after))
    }
    removed = {f"removed_{kind}": count for kind, count in done.removed.items()}
    return {"rows": done.after.rows, **sizes, **removed, "seconds": round(done.seconds, 2)}
