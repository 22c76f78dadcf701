"""Views over Dagster's own database beside the lake: they exist where Trino is.

Written as the others, with `postgres.public.<table>` for a table of Dagster's. What asset events hold
is JSON text, whose paths follow Dagster's serialization (1.13).
"""

from pathlib import Path
from typing import Final

from dataplatform.lake.views import Relation, Schemas, ViewSpec, load_views

DAGSTER_TABLES: Final[Schemas] = {
    Relation("public", "runs"): {
        "run_id": "varchar",
        "status": "varchar",
        "start_time": "double",
        "end_time": "double",
    },
    Relation("public", "run_tags"): {"run_id": "varchar", "key": "varchar", "value": "varchar"},
    Relation("public", "asset_keys"): {
        "asset_key": "varchar",
        "last_materialization": "varchar",
        "last_run_id": "varchar",
    },
    Relation("public", "event_logs"): {
        "run_id": "varchar",
        "event": "varchar",
        "dagster_event_type": "varchar",
        "timestamp": "timestamp(6)",
        "asset_key": "varchar",
    },
}
"""The columns of dagster-postgres 0.29 that the views read."""


def federated_views() -> dict[str, ViewSpec]:
    """Return the views of this folder by name."""
    return load_views(Path(__file__).parent)
