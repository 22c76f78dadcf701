"""Column lineage as Dagster's UI shows it."""

from collections.abc import Mapping
from typing import Any

from dagster import AssetKey, MetadataValue, TableColumnDep, TableColumnLineage

from dataplatform.assets.plots import markdown_lines
from dataplatform.lake.views import Relation


def relation_key(relation: Relation) -> AssetKey:
    """Return the asset key of an endpoint, a table or a view."""
    return AssetKey([relation.schema, relation.name])


def lineage_metadata(sources: Mapping[str, tuple[tuple[Relation, str], ...]]) -> dict[str, Any]:
    """Return where each column comes from: for Dagster's catalog, and as a table for its readers.

    The open-source UI (1.13) stores column lineage and does not show it.
    """
    listed = [
        (column, ", ".join(f"{relation}.{name}" for relation, name in origins))
        for column, origins in sources.items()
    ]
    return {
        "dagster/column_lineage": TableColumnLineage(
            {
                column: [TableColumnDep(relation_key(relation), name) for relation, name in origins]
                for column, origins in sources.items()
            }
        ),
        "columns_from": MetadataValue.md(markdown_lines(["column", "comes from"], listed)),
    }
