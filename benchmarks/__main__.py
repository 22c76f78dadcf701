"""`python -m benchmarks [name …] [--quick]`: measure, print, plot."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.report import save, show

EMBEDDED = ("load", "sensor", "peer", "increment", "lineage", "infra_plan")
NAMES = (*EMBEDDED, "minio", "trino", "spark_operator")
"""The others need servers, or a Kubernetes node and root: they run when named."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(NAMES)}.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small and once: does it work?")] = False,
    output: Annotated[Path, typer.Option(help="Folder of plots and JSON.")] = Path(
        ".dataplatform/benchmarks"
    ),
) -> None:
    """Measure this platform against baselines in the same run; ratios, not seconds, are compared."""
    unknown = set(names or ()) - set(NAMES)
    if unknown:
        raise typer.BadParameter(f"no benchmark {', '.join(sorted(unknown))}: {', '.join(NAMES)}")
    console = Console()
    for name in names or EMBEDDED:
        console.print(f"[dim]{name}: measuring …[/dim]")
        result = import_module(f"benchmarks.{name}").run(quick=quick)
        show(result, console)
        for path in save(result, output):
            console.print(f"  [dim]{path}[/dim]")


# Printed with their locals, the events of 50 runs took minutes and gigabytes.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
app.command()(main)
app()
