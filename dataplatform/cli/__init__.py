"""The command line `dp`. Heavy libraries are imported by the command that needs them."""

from typing import Final

import typer

from dataplatform.cli import (
    backup,
    docs,
    doctor,
    images,
    infra,
    kubespray,
    prune,
    query,
    rollback,
    run,
    stack,
    status,
    tunnel,
    ui,
    views,
)

app: Final = typer.Typer(
    name="dp",
    help="A self-hosted lakehouse: build it, look into it, ask it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("run")(run.run)
app.command("ui")(ui.ui)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("docs")(docs.docs)
app.command("query")(query.query)
app.command("export")(query.export)
app.command("tables")(query.tables)
app.command("table")(query.table)
app.command("rollback")(rollback.rollback)
app.command("backup")(backup.backup)
app.command("prune-runs")(prune.prune_runs)
app.command("restore")(backup.restore)
app.add_typer(views.app, name="views")
app.add_typer(stack.app, name="stack")
app.add_typer(images.app, name="images")
kubespray.add_commands(infra.app)
app.add_typer(infra.app, name="infra")
app.add_typer(tunnel.app, name="tunnel")
