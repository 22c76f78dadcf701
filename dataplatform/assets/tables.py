"""Table assets: all tables are one multi-asset, so that a run builds them with one Spark session.

Any subset can be selected. Each table is reported as soon as it is published. One that fails keeps
back what reads it, which would be built on rows that nobody accepted, and no other.

What failed is tried again, unless it would fail the same way: in this process after a pause, and, as
a JVM that died can't be had back in it, by the daemon in a new one.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from typing import Any, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Failure,
    FreshnessPolicy,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableColumnConstraints,
    TableConstraints,
    TableSchema,
    multi_asset,
)

from dataplatform.assets.cancellation import not_retried_if_cancelled
from dataplatform.assets.lineage import lineage_metadata
from dataplatform.assets.plots import ATTRIBUTION, markdown_table, plot_metadata
from dataplatform.assets.pods import pod_tags
from dataplatform.assets.raw import NO_RUN_RETRY, OWNERS, RETRY, raw_key
from dataplatform.assets.refresh import refresh
from dataplatform.lake.plot import TablePlot
from dataplatform.lake.server_errors import server_failure
from dataplatform.lake.spec import NAMESPACE, Column, TableSpec
from dataplatform.raw import all_endpoints
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark import SparkResource
from dataplatform.tables import all_specs

GROUP: Final = "tables"
POOL: Final = "lake_writer"
RUN_RETRY: Final[Mapping[str, str]] = {"dagster/retry_on_asset_or_op_failure": "true"}
"""Has the daemon try a run again, though an asset's failure is none of its business otherwise."""


def table_key(name: str) -> AssetKey:
    """Return the asset key of a table."""
    return AssetKey([NAMESPACE, name])


def build_table_assets(specs: Mapping[str, TableSpec] | None = None) -> AssetsDefinition:
    """Return the tables as one multi-asset of which any subset can be selected.

    Args:
        specs: tables by name in dependency order; the package's own where None.
    """
    declared = all_specs() if specs is None else specs

    @multi_asset(
        name="tables",
        specs=[_asset_spec(spec) for spec in declared.values()],
        check_specs=[check for spec in declared.values() for check in _check_specs(spec)],
        can_subset=True,
        pool=POOL,
        retry_policy=RETRY,
        op_tags=pod_tags("500m", "2Gi"),
    )
    def _tables(
        context: AssetExecutionContext, lake: LakeResource, spark: SparkResource
    ) -> Iterator[MaterializeResult | AssetCheckResult]:
        selected = {key.path[-1] for key in context.selected_asset_keys}
        with not_retried_if_cancelled(context):
            yield from _build(context, lake, spark, declared, selected)

    return _tables


def _build(
    context: AssetExecutionContext,
    lake: LakeResource,
    spark: SparkResource,
    declared: Mapping[str, TableSpec],
    selected: set[str],
) -> Iterator[MaterializeResult | AssetCheckResult]:
    from dataplatform.lake.failures import is_permanent, members

    try:
        target = lake.build_target()
        with closing(spark.build(context, lake, declared, selected)) as results:
            for result in results:
                context.log.info(_sentence(result))
                yield _materialized(declared[result.table], declared, result, target)
    except Exception as error:
        failures = members(error)
        yield from _failed_audits(declared, failures)
        permanent = all(is_permanent(failure) for failure in failures)
        context.instance.add_run_tags(
            context.run.run_id, dict(NO_RUN_RETRY if permanent else RUN_RETRY)
        )
        if not permanent:
            for failure in failures if len(failures) > 1 else ():
                # Dagster shows no traceback of a group's members.
                context.log.exception(str(failure), exc_info=failure)
            named = server_failure(error)
            if named is not None:
                raise named from error
            raise
        raise Failure("\n".join(map(str, failures)), allow_retries=False) from error


def _failed_audits(
    declared: Mapping[str, TableSpec], failures: Iterable[BaseException]
) -> Iterator[AssetCheckResult]:
    from dataplatform.lake.build import AuditFailedError

    for failure in failures:
        if isinstance(failure, AuditFailedError):
            yield from _check_results(declared[failure.result.table], failure.result)


def _sentence(result: Any) -> str:
    if result.status == "unchanged":
        return f"{result.table}: up to date, {result.rows:,} rows"
    return (
        f"{result.table}: {result.rows:,} rows (+{result.inserted:,} ~{result.updated:,}"
        f" -{result.deleted:,}) in {result.seconds:.1f} s"
    )


def _materialized(
    spec: TableSpec, declared: Mapping[str, TableSpec], result: Any, lake: Any
) -> MaterializeResult:
    return MaterializeResult(
        asset_key=table_key(spec.name),
        metadata={
            "dagster/row_count": result.rows,
            "status": result.status,
            "inserted": result.inserted,
            "updated": result.updated,
            "deleted": result.deleted,
            "raw_files_read": result.raw_files,
            "seconds": round(result.seconds, 2),
            **_lineage(spec, declared),
            **_footprint(spec, result, lake),
        },
        check_results=list(_check_results(spec, result)),
    )


def _lineage(spec: TableSpec, declared: Mapping[str, TableSpec]) -> dict[str, Any]:
    from dataplatform.lake.table_lineage import LineageUnknownError, table_lineage

    try:
        found = table_lineage(spec, declared, all_endpoints())
    except LineageUnknownError as error:
        return {"column_lineage_unknown": str(error)}
    return lineage_metadata(found)


def _footprint(spec: TableSpec, result: Any, lake: Any) -> dict[str, Any]:
    """Return sizes, and a preview and a plot where something changed."""
    from dataplatform.lake.inspect import footprint
    from dataplatform.lake.schema import identifier

    table = lake.catalog.load_table(identifier(spec.name))
    size = footprint(table)
    found: dict[str, Any] = {
        "snapshot_id": str(result.snapshot_id),
        "bytes": size.size,
        "data_files": size.data_files,
        "delete_files": size.delete_files,
    }
    if result.changed:
        found["changed_days"] = " to ".join(result.changed)
    if result.preview:
        rows = [list(row.values()) for row in result.preview]
        found["preview"] = MetadataValue.md(markdown_table(list(result.preview[0]), rows))
    return found | (_plot(spec, table) if result.status == "published" else {})


def _plot(spec: TableSpec, table: Any) -> dict[str, Any]:
    if spec.plot is None:
        return {}
    from dataplatform.lake.plot_rows import plot_rows

    units = {column.name: column.unit for column in spec.columns if column.unit}
    rows = plot_rows(table, spec.plot, spec.day_column)
    plot = plot_metadata(spec.plot, rows, _title(spec, spec.plot, rows), units)
    return {"plot": plot} if plot else {}


def _title(spec: TableSpec, plot: TablePlot, rows: Any) -> str:
    from dataplatform.lake.state import as_iso

    moment = rows[spec.day_column][0].as_py() if spec.day_column and rows.num_rows else None
    shown = f", {as_iso(moment)}" if moment and not plot.days else ""
    return f"{spec.name}: {plot.title}{shown}"


def _check_results(spec: TableSpec, result: Any) -> Iterator[AssetCheckResult]:
    """Yield every declared check that was audited.

    With nothing new these are the blocking ones that all rows have passed before. A warning of an
    earlier build is not turned green by a run that looked at nothing, nor is a check that is new.
    """
    found = {check.name: check for check in result.checks}
    for declared in spec.audited:
        check = found.get(declared.name)
        if check is None and declared.fingerprint not in result.held:
            continue
        violations = check.violations if check else 0
        metadata: dict[str, Any] = {"violations": violations, "audited": check is not None}
        if check and check.sample:
            metadata["sample"] = MetadataValue.json(check.sample)
        yield AssetCheckResult(
            asset_key=table_key(spec.name),
            check_name=declared.name,
            passed=violations == 0,
            severity=AssetCheckSeverity.ERROR if declared.blocking else AssetCheckSeverity.WARN,
            description=declared.description,
            metadata=metadata,
        )


def _check_specs(spec: TableSpec) -> list[AssetCheckSpec]:
    return [
        AssetCheckSpec(
            check.name,
            asset=table_key(spec.name),
            description=check.description,
            blocking=check.blocking,
        )
        for check in spec.audited
    ]


def _asset_spec(spec: TableSpec) -> AssetSpec:
    stale = timedelta(hours=spec.freshness_hours)
    return AssetSpec(
        key=table_key(spec.name),
        deps=[
            *(raw_key(all_endpoints()[name]) for name in spec.endpoints),
            *(table_key(name) for name in spec.upstream),
        ],
        description=spec.description,
        group_name=GROUP,
        kinds={"iceberg", "spark"},
        owners=list(OWNERS),
        automation_condition=refresh(),
        code_version=str(spec.version),
        freshness_policy=FreshnessPolicy.time_window(stale * 2, stale),
        metadata={
            "dagster/column_schema": _schema(spec),
            "dagster/table_name": f"lake.{NAMESPACE}.{spec.name}",
            "keys": ", ".join(spec.keys),
            "partitioning": ", ".join(spec.partitioning) or "none",
            "sort_order": ", ".join(spec.sort_order) or "none",
            "attribution": ATTRIBUTION,
        },
    )


def _schema(spec: TableSpec) -> TableSchema:
    return TableSchema(
        columns=[_column(column, spec) for column in spec.columns],
        constraints=TableConstraints(other=[f"unique ({', '.join(spec.keys)})"]),
    )


def _column(column: Column, spec: TableSpec) -> TableColumn:
    return TableColumn(
        column.name,
        column.type,
        description=column.documentation,
        constraints=TableColumnConstraints(nullable=not spec.requires(column)),
    )
