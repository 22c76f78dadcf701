"""The code location: merges what the folders define. Loading it asks no server and no disk."""

from dagster import Definitions, in_process_executor

from dataplatform.assets.raw import build_raw_assets
from dataplatform.assets.tables import build_table_assets
from dataplatform.assets.views import build_view_assets, build_view_checks
from dataplatform.automation import build_jobs, build_schedules, build_sensors
from dataplatform.profiles import Settings
from dataplatform.resources.coingecko import CoinGeckoResource
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.servers import build_server_resources
from dataplatform.resources.spark import build_spark_resources
from dataplatform.resources.views import ViewsResource
from dataplatform.views import declared_views

settings = Settings()
step_pods = settings.step_pod_jobs if settings.profile == "cluster" else ()
engine_kind = "duckdb" if settings.profile == "local" else "trino"
views = declared_views(settings.profile)

defs = Definitions(
    assets=[*build_raw_assets(), build_table_assets(), *build_view_assets(views, engine_kind)],
    asset_checks=[build_view_checks(views)],
    jobs=build_jobs(settings.profile, step_pods),
    schedules=build_schedules(settings.profile, step_pods),
    sensors=build_sensors(settings.profile, step_pods),
    # One process a run: the tables share one Spark, and 18 steps took 27 s instead of 91 s.
    executor=in_process_executor,
    resources={
        "lake": LakeResource(
            home=str(settings.home), origin=settings.origin, profile=settings.profile
        ),
        "coingecko": CoinGeckoResource.from_settings(settings),
        "views": ViewsResource(),
        **build_spark_resources(settings),
        **build_server_resources(settings),
    },
)
