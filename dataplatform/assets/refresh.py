"""When tables and views are due."""

from dagster import AssetSelection, AutomationCondition

from dataplatform.assets.raw import raw_key
from dataplatform.raw import all_endpoints


def refresh() -> AutomationCondition:
    """Return when a table or a view is due: it, its code or what it reads is newer than its rows.

    `since_last_handled` makes it an edge: one that fails waits for the next change rather than being
    asked for at every tick.
    """
    due = (
        AutomationCondition.newly_missing()
        | AutomationCondition.code_version_changed()
        | AutomationCondition.any_deps_updated()
    )
    # An unpartitioned table would wait for ever: some day of the history is always missing.
    partitioned = AssetSelection.assets(
        *(raw_key(e) for e in all_endpoints().values() if e.every == "partition")
    )
    return (
        # Dagster types `self` as a condition on assets and checks at once; no factory gives one.
        due.since_last_handled()  # ty: ignore[invalid-argument-type]
        & ~AutomationCondition.any_deps_missing().ignore(partitioned)
        & ~AutomationCondition.any_deps_in_progress()
        & ~AutomationCondition.in_progress()
    ).with_label("refresh")
