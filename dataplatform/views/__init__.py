"""Views in the schema `analytics`: one `.sql` file a view, Trino dialect.

To add a view, write one file here. Its leading comment is the description; the comment behind a
select item describes that column; two directives in the leading comment are optional:

    -- order: <ORDER BY items>                         how previews are sorted
    -- plot: bar x=<column> y=<column>[,…] [limit=N]   a plot for the asset's page
    -- plot: line x=<column> y=<column>[,…]
    -- plot: heatmap x=<column> y=<column> value=<column>
"""

from pathlib import Path

from dataplatform.lake.views import Schemas, ViewSpec, load_views, relation_schemas


def all_views() -> dict[str, ViewSpec]:
    """Return the views of this package by name, each after those that it reads."""
    return load_views(Path(__file__).parent)


def declared_views(profile: str) -> dict[str, ViewSpec]:
    """Return the views of a profile: on `local`, which has no Trino, those of this folder."""
    from dataplatform.views.federated import federated_views

    return all_views() | ({} if profile == "local" else federated_views())


def table_columns() -> Schemas:
    """Return the declared columns of every table, as the views may use them."""
    # Imported here: the views must load where the tables' transformations can't.
    from dataplatform.tables import all_specs

    return relation_schemas(all_specs().values())
