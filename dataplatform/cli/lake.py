"""Open the lake that the settings name, for commands that only look."""

from typing import TYPE_CHECKING

from dataplatform.cli.console import UserError

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from dataplatform.lake.query import EmbeddedEngine
    from dataplatform.profiles import LocalLake


def open_lake() -> "tuple[LocalLake, Catalog]":
    """Return the embedded lake and its catalog.

    Raises:
        UserError: nothing has been built yet, or the profile has no embedded lake.
    """
    from dataplatform.lake.catalog import open_sqlite_catalog
    from dataplatform.profiles import LocalLake, Settings

    settings = Settings()
    if settings.profile != "local":
        raise UserError(
            f"The profile {settings.profile} has no embedded lake. Remedy: ask its Trino server, or"
            " unset DATAPLATFORM_PROFILE."
        )
    lake = LocalLake(settings.home, settings.origin)
    if not lake.catalog_db.exists():
        raise UserError(f"There is no lake in {lake.root} yet. Remedy: run `dp run` first.")
    return lake, open_sqlite_catalog(lake.catalog_db, lake.warehouse)


def open_engine() -> "EmbeddedEngine":
    """Return the query engine over that lake; errors as for `open_lake`."""
    from dataplatform.lake.query import EmbeddedEngine
    from dataplatform.lake.spec import NAMESPACE
    from dataplatform.lake.views import Relation
    from dataplatform.tables import all_specs
    from dataplatform.views import all_views

    declared = [Relation(NAMESPACE, name) for name in all_specs()]
    declared += [view.relation for view in all_views().values()]
    lake, catalog = open_lake()
    return EmbeddedEngine(lake, catalog, declared)
