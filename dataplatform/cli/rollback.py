"""`dp rollback`: take a table back to one of its snapshots."""

from typing import Annotated

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, user_errors
from dataplatform.cli.lake import open_engine, open_lake
from dataplatform.lake.spec import NAMESPACE

WAIT_SECONDS = 10.0
"""For a run that is writing; longer than that, the user is told which."""


@user_errors
def rollback(
    name: Annotated[str, typer.Argument(metavar="TABLE")],
    snapshot: Annotated[int, typer.Argument(metavar="SNAPSHOT")],
) -> None:
    """Take a table back to one of its snapshots, which `dp table` lists.

    Rows go back together with what the table remembers of its inputs: the next run reads on from
    there. Nothing is deleted: the snapshots after it stay until maintenance expires them.
    Example: dp rollback coins 4702470322120163556
    """
    from dataplatform.lake.inspect import snapshots
    from dataplatform.lake.writer_lock import LakeBusyError

    relation = open_engine().resolve(name)
    if relation.schema != NAMESPACE:
        raise UserError(f"{relation} is a view and has no snapshots.")
    lake = open_lake()
    catalog = lake.open_catalog()
    if snapshot not in {info.snapshot_id for info in snapshots(catalog.load_table(relation))}:
        raise UserError(
            f"{relation} has no snapshot {snapshot} to go back to."
            f" Remedy: dp table {relation.name} lists the snapshots."
        )
    try:
        with lake.writer_lock("dp rollback", WAIT_SECONDS):
            table = catalog.load_table(relation)
            table.manage_snapshots().rollback_to_snapshot(snapshot).commit()
    except LakeBusyError as error:
        raise UserError(str(error)) from None
    except ValueError as error:
        raise UserError(f"{error}. Remedy: dp table {relation.name} lists the snapshots.") from None
    console.out().print(f"{relation} is at snapshot {snapshot}.", highlight=False)
