"""`dp views`: compare deployed views with their files, mend them, remove those without a file."""

from typing import Annotated, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import grid, user_errors
from dataplatform.cli.lake import open_engine, views_here

app: Final = typer.Typer(help="Compare deployed views with their files.", no_args_is_help=True)


@app.command("status")
@user_errors
def status() -> None:
    """Say of each view whether it is deployed as its file says; exit code 1 where one is not."""
    from dataplatform.lake.view_engine import drift, orphans, staleness

    engine = open_engine()
    listing = grid(["view", "state"], named=True)
    differing = False
    for view in views_here().values():
        difference = drift(engine, view)
        reason = staleness(engine, view) if difference is None else None
        state = {None: "as declared", "": "not deployed"}.get(difference, "differs from its file")
        state = f"stale: {reason}" if reason else state
        differing = differing or difference is not None or reason is not None
        listing.add_row(view.name, state)
    for name in orphans(engine, views_here()):
        listing.add_row(name, "its file is gone: dp views prune")
    console.out().print(listing)
    if differing:
        console.fail("Not all views are as declared. Remedy: dp views deploy.")


@app.command("deploy")
@user_errors
def deploy() -> None:
    """Deploy again what is missing, differs from its file, or went stale with a table."""
    from dataplatform.lake.view_engine import repair

    repaired = repair(open_engine(), views_here())
    done = f"Deployed {', '.join(repaired)}." if repaired else "Every view is as declared."
    console.out().print(done)


@app.command("prune")
@user_errors
def prune(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Drop deployed views whose file is gone from the repository."""
    from dataplatform.lake.view_engine import orphans
    from dataplatform.lake.view_engine import prune as drop_orphans

    engine = open_engine()
    gone = orphans(engine, views_here())
    if not gone:
        console.out().print("Every deployed view has its file.")
        return
    console.out().print(f"Without a file: {', '.join(gone)}")
    if yes or typer.confirm("Drop them?"):
        console.out().print(f"Dropped {', '.join(drop_orphans(engine, views_here()))}.")
