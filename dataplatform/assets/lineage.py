"""Column lineage as Dagster's UI shows it."""

from collections.abc import Mapping

from dagster import AssetKey, TableColumnDep, TableColumnLineage

from dataplatform.lake.views import Relation


def relation_key(relation: Relation) -> AssetKey:
    """Return the asset key of an endpoint, a table or a view."""
    return AssetKey([relation.schema, relation.name])


def lineage_metadata(
    sources: Mapping[str, tuple[tuple[Relation, str], ...]],
) -> TableColumnLineage:
    """Return for each column the columns that it comes from, as asset key and name."""
    return TableColumnLineage(
        {
            column: [TableColumnDep(relation_key(relation), name) for relation, name in origins]
            for column, origins in sources.items()
        }
    )
