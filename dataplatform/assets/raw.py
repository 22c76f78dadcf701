"""Raw assets: each declared endpoint becomes one asset that lands its files.

In a lake of recorded data the same assets land the bundled recordings instead; in neither case does
a run that is repeated write or ask anything twice.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    BackfillPolicy,
    Backoff,
    BetaWarning,
    Failure,
    FreshnessPolicy,
    Jitter,
    MaterializeResult,
    MetadataValue,
    RetryPolicy,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    asset,
)

from dataplatform.assets.cancellation import not_retried_if_cancelled
from dataplatform.assets.partitions import DAILY
from dataplatform.assets.pods import pod_tags
from dataplatform.assets.raw_preview import preview
from dataplatform.lake.api.endpoint import RECORD_COLUMNS, Endpoint, Every, Field
from dataplatform.lake.api.errors import PermanentApiError
from dataplatform.lake.landing import Landing, Scope, land, plan_slot
from dataplatform.lake.manifest import RawZone
from dataplatform.raw.coingecko import api_endpoints
from dataplatform.raw.inbox import inbox, land_inbox
from dataplatform.resources.coingecko import CoinGeckoResource
from dataplatform.resources.lake import LakeResource

GROUP: Final = "raw"
OWNERS: Final = ("team:data-platform",)
POOL: Final = "coingecko_api"
NO_UNKNOWN_FIELDS: Final = "no_unknown_fields"
NO_MISSING_COINS: Final = "no_missing_coins"
NO_UNREADABLE_FILES: Final = "no_unreadable_files"
NO_RUN_RETRY: Final[Mapping[str, str]] = {"dagster/retry_on_asset_or_op_failure": "false"}
"""Run retries of the daemon ignore `allow_retries=False`; this run tag they heed."""

# Minutes rather than seconds. The API's client has been patient for ten by then, and a full disk or
# a locked catalog is not mended at once either.
RETRY: Final = RetryPolicy(
    max_retries=2, delay=60, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS
)
_FRESHNESS: Final[Mapping[Every, FreshnessPolicy]] = {
    "hour": FreshnessPolicy.time_window(timedelta(hours=3), timedelta(minutes=90)),
    "day": FreshnessPolicy.time_window(timedelta(hours=50), timedelta(hours=26)),
    "partition": FreshnessPolicy.time_window(timedelta(hours=50), timedelta(hours=26)),
}


def build_raw_assets() -> list[AssetsDefinition]:
    """Return one asset for each endpoint, and the inbox."""
    with warnings.catch_warnings():
        # A range of partitions in one run is what market_chart is about, and there is no other way.
        warnings.filterwarnings("ignore", "Parameter `backfill_policy`", BetaWarning)
        return [*(raw_asset(endpoint) for endpoint in api_endpoints().values()), inbox_asset()]


def raw_key(endpoint: Endpoint) -> AssetKey:
    """Return the asset key of an endpoint."""
    return AssetKey(["raw", endpoint.name])


def raw_asset(endpoint: Endpoint) -> AssetsDefinition:
    """Return the asset that lands one endpoint of the API."""
    partitioned = endpoint.every == "partition"

    @asset(
        key=raw_key(endpoint),
        group_name=GROUP,
        description=endpoint.description,
        kinds={endpoint.source, "json"},
        owners=OWNERS,
        pool=POOL,
        retry_policy=RETRY,
        op_tags=pod_tags("250m", "1Gi"),
        freshness_policy=_FRESHNESS[endpoint.every],
        partitions_def=DAILY if partitioned else None,
        backfill_policy=BackfillPolicy.single_run() if partitioned else None,
        check_specs=_check_specs(endpoint),
        metadata=_declaration(endpoint),
    )
    def _raw(
        context: AssetExecutionContext, lake: LakeResource, coingecko: CoinGeckoResource
    ) -> MaterializeResult:
        if lake.lake_origin == "recorded":
            return _result(endpoint, lake.raw_zone, _recorded(lake.raw_zone, endpoint), {})
        with not_retried_if_cancelled(context):
            landing = _fetch(context, endpoint, lake.raw_zone, coingecko)
        return _result(endpoint, lake.raw_zone, [landing], _budget(coingecko))

    return _raw


def inbox_asset() -> AssetsDefinition:
    """Return the asset that lands what others dropped under `inbox/`."""

    @asset(
        key=raw_key(inbox),
        group_name=GROUP,
        description=inbox.description,
        kinds={"csv", "json", "parquet"},
        owners=OWNERS,
        retry_policy=RETRY,
        op_tags=pod_tags("250m", "1Gi"),
        check_specs=_check_specs(inbox),
        metadata=_declaration(inbox),
    )
    def _inbox(context: AssetExecutionContext, lake: LakeResource) -> MaterializeResult:
        with not_retried_if_cancelled(context):
            bundled = _recorded(lake.raw_zone, inbox) if lake.lake_origin == "recorded" else []
            dropped = land_inbox(lake.raw_zone, lake.lake_origin)
        return _result(inbox, lake.raw_zone, [*bundled, *dropped], {})

    return _inbox


def _fetch(
    context: AssetExecutionContext, endpoint: Endpoint, zone: RawZone, coingecko: CoinGeckoResource
) -> Landing:
    days = _days(context) if endpoint.every == "partition" else None
    slot = plan_slot(endpoint, datetime.now(UTC), days)
    scope = Scope(coingecko.coins, coingecko.vs_currency, coingecko.markets_pages)
    try:
        return land(
            zone,
            endpoint,
            coingecko,
            slot,
            tier=coingecko.tier_in_force,
            scope=scope,
            listener=lambda progress: context.log.info(str(progress)),
        )
    except PermanentApiError as error:
        context.instance.add_run_tags(context.run.run_id, dict(NO_RUN_RETRY))
        raise Failure(
            str(error),
            metadata={"cause": error.cause, "remedy": error.remedy, "request": error.request},
            allow_retries=False,
        ) from None


def _days(context: AssetExecutionContext) -> tuple[date, date]:
    chosen = context.partition_key_range
    return date.fromisoformat(chosen.start), date.fromisoformat(chosen.end)


def _recorded(zone: RawZone, endpoint: Endpoint) -> list[Landing]:
    from dataplatform.raw.recorded import land_recordings

    return land_recordings(zone, endpoint)


def _result(
    endpoint: Endpoint, zone: RawZone, landings: Sequence[Landing], budget: Mapping[str, Any]
) -> MaterializeResult:
    metadata = {**_metadata(landings), **preview(endpoint, zone, landings), **budget}
    return MaterializeResult(metadata=metadata, check_results=list(_checks(endpoint, landings)))


def _metadata(landings: Sequence[Landing]) -> dict[str, Any]:
    manifests = [landing.manifest for landing in landings]
    files = [file for manifest in manifests for file in manifest.files]
    return {
        "slots": len(manifests),
        "slots_fetched": sum(landing.fetched for landing in landings),
        "files": len(files),
        "bytes": sum(file.size for file in files),
        "dagster/row_count": sum(file.records or 0 for file in files),
        "manifests": MetadataValue.json([manifest.key for manifest in manifests]),
        "origin": _texts(manifest.origin for manifest in manifests),
        "tier": _texts(manifest.tier for manifest in manifests),
        "complete": all(manifest.complete for manifest in manifests),
        **({"fetched_at": _newest(landings)} if landings else {}),
    }


def _newest(landings: Sequence[Landing]) -> MetadataValue:
    return MetadataValue.timestamp(max(landing.manifest.fetched_at for landing in landings))


def _texts(values: Iterable[str]) -> str:
    return ", ".join(sorted(set(values))) or "none"


def _budget(coingecko: CoinGeckoResource) -> dict[str, Any]:
    status = coingecko.budget()
    left = {} if status.remaining is None else {"api_calls_left_this_month": status.remaining}
    return {
        "api_calls_this_month": status.calls_this_month,
        "api_calls_per_minute": status.current_per_minute,
        **left,
    }


def _declaration(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "path": endpoint.path,
        "dagster/column_schema": _schema(endpoint),
        "attribution": "Data provided by CoinGecko",
    }


def _schema(endpoint: Endpoint) -> TableSchema:
    """Return the declared fields, and what each record carries of where it comes from."""
    added = "Of every record: where it comes from; no field of the answer."
    return TableSchema(
        [
            *(_column(field) for field in endpoint.fields),
            *(TableColumn(name, kind, added) for name, kind in RECORD_COLUMNS.items()),
        ]
    )


def _column(field: Field) -> TableColumn:
    bounds = [field.bounds] if field.bounds else []
    constraints = TableColumnConstraints(nullable=not field.required, other=bounds)
    return TableColumn(field.name, field.type, constraints=constraints)


def _check_specs(endpoint: Endpoint) -> list[AssetCheckSpec]:
    described = {
        NO_UNKNOWN_FIELDS: "The source sends no field that the declaration does not name.",
    }
    if endpoint.per_coin:
        described[NO_MISSING_COINS] = "The source knows every configured coin."
    if endpoint == inbox:
        described[NO_UNREADABLE_FILES] = "Every dropped file can be read."
    return [
        AssetCheckSpec(name, asset=raw_key(endpoint), description=text, blocking=False)
        for name, text in described.items()
    ]


def _checks(endpoint: Endpoint, landings: Sequence[Landing]) -> Iterable[AssetCheckResult]:
    manifests = [landing.manifest for landing in landings]
    found = {
        NO_UNKNOWN_FIELDS: {name for m in manifests for name in m.unknown_fields},
        NO_MISSING_COINS: {coin for m in manifests for coin in m.missing},
        NO_UNREADABLE_FILES: {
            f"{file.params.get('file', file.key)}: {file.problem}"
            for manifest in manifests
            for file in manifest.files
            if file.problem
        },
    }
    for spec in _check_specs(endpoint):
        names = sorted(found[spec.name])
        yield AssetCheckResult(
            passed=not names,
            check_name=spec.name,
            severity=AssetCheckSeverity.WARN,
            description=spec.description,
            metadata={"found": MetadataValue.json(names)},
        )
