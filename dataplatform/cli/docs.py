"""`dp docs`: the data dictionary and the view of freshness, written from the declarations."""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dataplatform.cli import console
from dataplatform.cli.console import UserError, user_errors

if TYPE_CHECKING:
    from dataplatform.lake.api.endpoint import Endpoint, Field
    from dataplatform.lake.spec import Column, TableSpec
    from dataplatform.lake.views import Schemas, ViewSpec

DICTIONARY: Final = Path("docs/data-dictionary.md")
FRESHNESS: Final = Path(__file__).parents[1] / "views" / "data_freshness.sql"
_EVERY: Final = {"hour": "hourly", "day": "daily", "partition": "a daily partition"}
_SHOWN_DIFFERENCE: Final = 20


@user_errors
def docs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 where a file is outdated.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the data dictionary is.")
    ] = DICTIONARY,
) -> None:
    """Write what derives from the declarations: data dictionary and view data_freshness."""
    # In this order: the page describes the view.
    for path, declared in ((FRESHNESS, _freshness_view), (output, data_dictionary)):
        _bring_up_to_date(path, declared(), check=check)


def _bring_up_to_date(path: Path, wanted: str, *, check: bool) -> None:
    present = path.read_text(encoding="utf-8") if path.exists() else ""
    if check and present != wanted:
        differing = difflib.unified_diff(
            present.splitlines(), wanted.splitlines(), str(path), "declared", lineterm="", n=0
        )
        for line in list(differing)[:_SHOWN_DIFFERENCE]:
            console.err().print(line, markup=False)
        raise UserError(f"{path} is not what the declarations say. Remedy: make docs.")
    if present != wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted, encoding="utf-8")
    console.out().print(
        f"{os.path.relpath(path)} {'is as declared' if present == wanted else 'written'}."
    )


def _freshness_view() -> str:
    from dataplatform.lake.freshness_view import freshness_view
    from dataplatform.tables import all_specs

    return freshness_view(all_specs().values())


def data_dictionary() -> str:
    """Return the page as Markdown: tables, views, endpoints."""
    from dataplatform.raw import all_endpoints
    from dataplatform.tables import all_specs
    from dataplatform.views import declared_views

    tables, views = all_specs(), declared_views("stack")
    lines = [_HEAD, *_contents(tables, views, all_endpoints())]
    lines += ["## Tables", "", _TABLES, ""]
    lines += [line for name in sorted(tables) for line in _table(tables[name])]
    lines += ["## Views", "", _VIEWS, ""]
    types = view_types()
    lines += [line for name in sorted(views) for line in _view(views[name], types)]
    lines += ["## Raw endpoints", "", _RAW, ""]
    lines += [line for endpoint in all_endpoints().values() for line in _endpoint(endpoint)]
    return "\n".join(lines).rstrip() + "\n"


_HEAD: Final = """# Data dictionary

Written by `make docs` from the declarations in `dataplatform/`: edit those, not this page.
Data provided by CoinGecko (<https://www.coingecko.com>).
"""
_TABLES: Final = (
    "Iceberg tables in the namespace `warehouse`. Times are UTC. A blocking check that fails keeps"
    " the new snapshot from readers; another one warns."
)
_VIEWS: Final = (
    "Views in the schema `analytics`, in Trino's SQL: one file each in `dataplatform/views/`. Those in"
    " its folder `federated` read Dagster's own database, and exist where Trino is."
)
_RAW: Final = (
    "What is landed in the bucket `datalake`, byte for byte. The fields are those that tables may"
    " read; a record that breaks its declaration goes to `warehouse.quarantine`."
)


def view_types() -> "Schemas":
    """Return the columns and Trino types of every view, as they follow from its SQL."""
    from dataplatform.lake.view_sql import checked_schemas
    from dataplatform.views import declared_views, table_columns
    from dataplatform.views.federated import DAGSTER_TABLES

    known = {**table_columns(), **DAGSTER_TABLES}
    return checked_schemas(declared_views("stack").values(), known)


def _contents(*names: Iterable[str]) -> Iterator[str]:
    for title, listed in zip(("Tables", "Views", "Raw endpoints"), names, strict=True):
        links = ", ".join(f"[{name}](#{_anchor(title, name)})" for name in sorted(listed))
        yield f"- **{title}**: {links}"
    yield ""


def _anchor(title: str, name: str) -> str:
    schema = {"Tables": "warehouse", "Views": "analytics", "Raw endpoints": "raw"}[title]
    # GitHub drops the dot of a heading from its anchor.
    return f"{schema}{name}"


def _table(spec: "TableSpec") -> Iterator[str]:
    yield from (f"### warehouse.{spec.name}", "", spec.description, "")
    facts = {
        "Keys": _codes(spec.keys),
        "Partitioned by": _codes(spec.partitioning),
        "Sorted by": _codes(spec.sort_order),
        "Read from": _codes(
            [*(f"raw.{e}" for e in spec.endpoints), *(f"warehouse.{t}" for t in spec.upstream)]
        ),
        "Stale after": f"{spec.freshness_hours:g} h without a build",
    }
    yield from (f"- {name}: {value}" for name, value in facts.items() if value)
    yield ""
    yield from _grid(
        ["column", "type", "null", "meaning"], (_column(c, spec) for c in spec.columns)
    )
    rows = [
        (f"`{check.name}`", "yes" if check.blocking else "warns", check.description)
        for check in spec.audited
    ]
    yield from _grid(["check", "blocking", "rule"], rows)


def _column(column: "Column", spec: "TableSpec") -> tuple[str, ...]:
    null = "no" if spec.requires(column) else "yes"
    return (f"`{column.name}`", f"`{column.type}`", null, column.documentation)


def _view(view: "ViewSpec", types: "Schemas") -> Iterator[str]:
    from dataplatform.lake.view_sql import column_docs

    yield from (f"### {view.relation}", "", view.description.strip(), "")
    yield from (f"- Read from: {_codes([str(r) for r in view.references])}", "")
    docs_of = column_docs(view)
    columns = types[view.relation].items()
    yield from _grid(
        ["column", "type", "meaning"],
        ((f"`{name}`", f"`{kind}`", docs_of.get(name, "")) for name, kind in columns),
    )


def _endpoint(endpoint: "Endpoint") -> Iterator[str]:
    yield from (f"### raw.{endpoint.name}", "", endpoint.description, "")
    facts = {
        "Source": f"{endpoint.source}, `{endpoint.path}`",
        "Fetched": _EVERY[endpoint.every] + (", for each coin" if endpoint.per_coin else ""),
        "Parameters": _codes([f"{name}={value}" for name, value in endpoint.params.items()]),
        "Pages of": f"{endpoint.page_size} records" if endpoint.page_size else "",
        "Known and not modelled": _codes(sorted(endpoint.ignored)),
    }
    yield from (f"- {name}: {value}" for name, value in facts.items() if value)
    yield ""
    yield from _grid(["field", "type", "required", "bounds"], map(_field, endpoint.fields))


def _field(field: "Field") -> tuple[str, ...]:
    required = "yes" if field.required else "no"
    return (f"`{field.name}`", f"`{field.type}`", required, field.bounds)


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{' --- |' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"
    yield ""


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
