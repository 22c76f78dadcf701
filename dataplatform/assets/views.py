"""View assets: each `.sql` file becomes one asset that deploys the view and runs it once."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    Failure,
    FreshnessPolicy,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableSchema,
    asset,
    multi_asset_check,
)

from dataplatform.assets.cancellation import not_retried_if_cancelled
from dataplatform.assets.lineage import lineage_metadata, relation_key
from dataplatform.assets.plots import plot_metadata, preview_markdown
from dataplatform.assets.pods import pod_tags
from dataplatform.assets.raw import NO_RUN_RETRY, OWNERS, RETRY
from dataplatform.assets.refresh import refresh
from dataplatform.lake.spec import NAMESPACE
from dataplatform.lake.view_engine import Answer, ViewEngine, drift, staleness, verify
from dataplatform.lake.views import VIEW_SCHEMA, Relation, ViewError, ViewSpec
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.views import ViewsResource
from dataplatform.tables import all_specs
from dataplatform.views import all_views, table_columns
from dataplatform.views.federated import DAGSTER_TABLES

GROUP: Final = "views"
ANSWERS: Final = "answers"
ANSWERS_RULE: Final = "The view runs and has rows."
DRIFT: Final = "view_definition_drift"
# The tables that views read change hourly to daily.
_FRESHNESS: Final = FreshnessPolicy.time_window(timedelta(hours=50), timedelta(hours=26))


def build_view_assets(
    views: Mapping[str, ViewSpec] | None = None, engine_kind: str = "duckdb"
) -> list[AssetsDefinition]:
    """Return one asset a view.

    Args:
        views: by name, each after those it reads; the package's own where None.
        engine_kind: the badge of the engine that answers in this profile, `duckdb` or `trino`.
    """
    declared = all_views() if views is None else views
    return [_view_asset(view, declared, engine_kind) for view in declared.values()]


def _view_asset(
    view: ViewSpec, declared: Mapping[str, ViewSpec], engine_kind: str
) -> AssetsDefinition:
    key = relation_key(view.relation)

    @asset(
        key=key,
        deps=_deps(view),
        group_name=GROUP,
        description=view.description,
        kinds={"view", "sql", engine_kind},
        owners=OWNERS,
        code_version=view.code_version,
        retry_policy=RETRY,
        op_tags=pod_tags("250m", "1Gi"),
        automation_condition=refresh(),
        freshness_policy=_FRESHNESS,
        check_specs=[AssetCheckSpec(ANSWERS, asset=key, description=ANSWERS_RULE)],
        metadata={
            "sql": MetadataValue.md(f"```sql\n{view.sql}```"),
            "dagster/table_name": str(view.relation),
        },
    )
    def _view(
        context: AssetExecutionContext, lake: LakeResource, views: ViewsResource
    ) -> MaterializeResult:
        _ensure_tables(lake, view)
        engine = views.engine(lake)
        with not_retried_if_cancelled(context):
            answer, changed = _deployed(context, engine, view, views.sample_rows)
        return MaterializeResult(
            metadata={
                **_metadata(view, declared, answer),
                "engine": engine.title,
                "definition_changed": changed,
            },
            check_results=[_answers(answer)],
        )

    return _view


def _deps(view: ViewSpec) -> list[AssetKey]:
    """Return what a view is built after: what it reads; where that is Dagster's records, all tables."""
    read = [relation_key(relation) for relation in view.references]
    return read or [relation_key(Relation(NAMESPACE, name)) for name in all_specs()]


def _ensure_tables(lake: LakeResource, view: ViewSpec) -> None:
    """Create, empty, the declared tables that `view` reads and that were never built.

    The first run of a lake may be one endpoint's, by a schedule or a dropped file: what reads the
    others as well answers with the rows that there are. No writer's lock is needed: a table is made
    once, whoever comes first.
    """
    from dataplatform.lake.schema import ensure_table, load_table

    catalog = lake.catalog()
    for relation in view.references:
        spec = all_specs().get(relation.name) if relation.schema == NAMESPACE else None
        if spec is not None and load_table(catalog, spec.name) is None:
            ensure_table(catalog, spec)


def _deployed(
    context: AssetExecutionContext, engine: ViewEngine, view: ViewSpec, sample_rows: int
) -> tuple[Answer, bool]:
    from dataplatform.lake.dialect import EngineFailedError, QueryError

    try:
        changed = engine.deploy(view)
        return verify(engine, view, sample_rows), changed
    except EngineFailedError:
        raise
    except (QueryError, ViewError) as error:
        # The same SQL over the same tables fails again: neither step nor run is worth a retry.
        context.instance.add_run_tags(context.run.run_id, dict(NO_RUN_RETRY))
        raise Failure(f"{view.relation}: {error}", allow_retries=False) from error


def _answers(answer: Answer) -> AssetCheckResult:
    return AssetCheckResult(
        check_name=ANSWERS,
        passed=answer.row_count > 0,
        severity=AssetCheckSeverity.WARN,
        description=ANSWERS_RULE,
        metadata={"rows": answer.row_count},
    )


def _metadata(view: ViewSpec, views: Mapping[str, ViewSpec], answer: Answer) -> dict[str, Any]:
    from dataplatform.lake.view_sql import checked_schemas, column_docs, column_lineage

    schemas = checked_schemas(_upstream(view, views), {**table_columns(), **DAGSTER_TABLES})
    plot = plot_metadata(view.plot, answer.sample.arrow, view.name) if view.plot else None
    return {
        "dagster/column_schema": _column_schema(answer, column_docs(view)),
        **lineage_metadata(column_lineage(view, schemas)),
        "dagster/row_count": answer.row_count,
        "preview": MetadataValue.md(preview_markdown(answer.sample.arrow)),
        **({"plot": plot} if plot else {}),
    }


def _upstream(view: ViewSpec, views: Mapping[str, ViewSpec]) -> list[ViewSpec]:
    """Return the views that `view` reads, directly or not, each after those it reads itself."""
    found: dict[str, ViewSpec] = {}
    for relation in view.references:
        if relation.schema == VIEW_SCHEMA and relation.name in views:
            upstream = views[relation.name]
            found |= {other.name: other for other in [*_upstream(upstream, views), upstream]}
    return list(found.values())


def _column_schema(answer: Answer, docs: Mapping[str, str]) -> TableSchema:
    sample = answer.sample
    return TableSchema(
        [
            TableColumn(name, kind, docs.get(name) or None)
            for name, kind in zip(sample.columns, sample.types, strict=True)
        ]
    )


def build_view_checks(views: Mapping[str, ViewSpec] | None = None) -> AssetChecksDefinition:
    """Return the check that holds every live definition to its file, one step for all of them."""
    declared = all_views() if views is None else views
    by_key = {relation_key(view.relation): view for view in declared.values()}

    @multi_asset_check(
        name=DRIFT,
        specs=[
            AssetCheckSpec(
                DRIFT, asset=key, description="The live definition is the one in the repository."
            )
            for key in by_key
        ],
        can_subset=True,
    )
    def _drift(
        context: AssetCheckExecutionContext, lake: LakeResource, views: ViewsResource
    ) -> Iterator[AssetCheckResult]:
        engine = views.engine(lake)
        for check in sorted(context.selected_asset_check_keys, key=lambda check: check.asset_key):
            view = by_key[check.asset_key]
            difference = drift(engine, view)
            stale = staleness(engine, view) if difference is None else None
            yield _drift_result(check.asset_key, difference, stale)

    return _drift


def _drift_result(key: AssetKey, difference: str | None, stale: str | None) -> AssetCheckResult:
    if stale is not None:
        return AssetCheckResult(
            asset_key=key, check_name=DRIFT, passed=False, description=f"It is stale: {stale}"
        )
    if difference is None:
        return AssetCheckResult(asset_key=key, check_name=DRIFT, passed=True)
    text = f"```diff\n{difference}\n```" if difference else "The view is not deployed."
    return AssetCheckResult(
        asset_key=key,
        check_name=DRIFT,
        passed=False,
        severity=AssetCheckSeverity.ERROR,
        description="The live definition differs from the repository's. Remedy: materialize the"
        " view to deploy it again, or bring the change into its file.",
        metadata={"difference": MetadataValue.md(text)},
    )
