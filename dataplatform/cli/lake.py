"""Open the lake that the settings name, for commands that only look."""

from typing import TYPE_CHECKING

from dataplatform.cli.console import UserError
from dataplatform.cli.home import load_settings

if TYPE_CHECKING:
    from dataplatform.lake.place import LakePlace
    from dataplatform.lake.view_engine import QueryEngine
    from dataplatform.lake.views import ViewSpec


def open_lake() -> "LakePlace":
    """Return the lake.

    Raises:
        UserError: a setting is wrong, or nothing has been built yet.
    """
    from dataplatform.profiles import lake_place

    lake = lake_place(load_settings())
    if not lake.is_built:
        where = lake.whereabouts["lake"]
        raise UserError(f"There is no lake in {where} yet. Remedy: run `dp run` first.")
    return lake


def open_engine() -> "QueryEngine":
    """Return the query engine over that lake; errors as for `open_lake`."""
    from dataplatform.lake.spec import NAMESPACE
    from dataplatform.lake.views import Relation
    from dataplatform.tables import all_specs

    declared = [Relation(NAMESPACE, name) for name in all_specs()]
    declared += [view.relation for view in views_here().values()]
    return open_lake().engine(declared)


def views_here() -> "dict[str, ViewSpec]":
    """Return the views that the profile in force declares."""
    from dataplatform.views import declared_views

    return declared_views(load_settings().profile)
