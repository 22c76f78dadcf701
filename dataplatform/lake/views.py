"""How a view is declared: a `.sql` file, and what can be read from its text without a SQL parser.

Importing sqlglot takes 0.3 s, a fifth of `import dagster`, so the code location loads without it:
names, descriptions and references come from scanning the text. What needs the parser is in
`dataplatform.lake.view_sql`, and a test holds the scan to what the parser finds.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

from dataplatform.lake.plot import PLOT_LIMIT, Plot, PlotKind
from dataplatform.lake.spec import NAMESPACE, TableSpec

VIEW_SCHEMA: Final = "analytics"

_KINDS: Final[dict[str, PlotKind]] = {"bar": "bar", "line": "line", "heatmap": "heatmap"}
_HEADER: Final = re.compile(r"(?:[ \t]*--[^\n]*\n|[ \t]*\n)*")
_NOT_CODE: Final = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'", re.DOTALL)
_REFERENCE: Final = re.compile(
    rf'\b"?({NAMESPACE}|{VIEW_SCHEMA})"?\s*\.\s*"?([a-z_][a-z0-9_]*)"?', re.IGNORECASE
)


class ViewError(ValueError):
    """A view's file breaks a rule; the message names the file's view, the rule and the remedy."""


class Relation(NamedTuple):
    """A table or a view, by schema and name."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


Schemas = Mapping[Relation, Mapping[str, str]]
"""Relation → column → Trino type."""


@dataclass(frozen=True)
class ViewSpec:
    """One view of the schema `analytics`.

    Args:
        name: the view's and the file's name.
        description: Markdown; the file's leading comment without its directives.
        text: the whole file.
        order: ORDER BY items for previews; empty where there are none.
        plot: what to draw of it.
    """

    name: str
    description: str
    text: str
    order: str = ""
    plot: Plot | None = None

    @property
    def relation(self) -> Relation:
        """The view's place in the lake."""
        return Relation(VIEW_SCHEMA, self.name)

    @property
    def sql(self) -> str:
        """The SELECT, without the leading comment."""
        return self.text[_header_end(self.text) :].strip().removesuffix(";").rstrip() + "\n"

    @cached_property
    def references(self) -> tuple[Relation, ...]:
        """The tables and views that it reads, sorted."""
        found = _REFERENCE.findall(_NOT_CODE.sub(" ", self.text))
        return tuple(sorted({Relation(schema.lower(), name.lower()) for schema, name in found}))

    @property
    def code_version(self) -> str:
        """A hash of the SELECT, the same for any comments and layout."""
        code = " ".join(_without_comments(self.sql).split())
        return hashlib.sha256(code.encode()).hexdigest()[:16]


def _header_end(text: str) -> int:
    match = _HEADER.match(text)
    return match.end() if match else 0


def _without_comments(sql: str) -> str:
    return _NOT_CODE.sub(lambda m: m[0] if m[0].startswith("'") else " ", sql)


def parse_view(name: str, text: str) -> ViewSpec:
    """Read a view from its file's text.

    Raises:
        ViewError: there is no description, or a directive can't be read.
    """
    header = text[: _header_end(text)]
    lines = [line.strip().removeprefix("--").removeprefix(" ") for line in header.splitlines()]
    directives = dict(re.findall(r"^(order|plot):\s*(.*?)\s*$", "\n".join(lines), re.MULTILINE))
    prose = [line for line in lines if not re.match(r"(order|plot):", line)]
    description = "\n".join(prose).strip()
    if not description:
        raise ViewError(
            f"{name}.sql has no description. Remedy: begin it with a `-- …` comment that says"
            " what a row is."
        )
    plot = _parse_plot(name, directives["plot"]) if "plot" in directives else None
    return ViewSpec(name, description, text, directives.get("order", ""), plot)


def _parse_plot(name: str, directive: str) -> Plot:
    match = re.fullmatch(r"(bar|line|heatmap)((?:\s+(?:x|y|value|limit)=\S+)+)", directive)
    options = dict(word.split("=", 1) for word in match[2].split()) if match else {}
    if match is None or not {"x", "y"} <= options.keys():
        raise ViewError(
            f"{name}.sql: `plot: {directive}` can't be read. Remedy: write for example"
            " `-- plot: bar x=coin_id y=price_usd limit=20` (bar, line or heatmap)."
        )
    limit = int(options.get("limit", PLOT_LIMIT))
    return Plot(
        _KINDS[match[1]], options["x"], tuple(options["y"].split(",")), options.get("value"), limit
    )


def load_views(folder: Path) -> dict[str, ViewSpec]:
    """Read every `.sql` file of `folder`, each view after the views that it reads.

    Raises:
        ViewError: a file has no description, or views read each other in a circle.
    """
    views = {
        path.stem: parse_view(path.stem, path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.sql"))
    }
    return {name: views[name] for name in _in_order(views)}


def _in_order(views: Mapping[str, ViewSpec]) -> list[str]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, view in views.items():
        upstream = (r.name for r in view.references if r.schema == VIEW_SCHEMA)
        sorter.add(name, *(other for other in upstream if other in views))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        raise ViewError(
            f"Views read each other in a circle: {' → '.join(error.args[1])}."
        ) from None


_TRINO_TYPES: Final = {
    "string": "varchar",
    "int": "integer",
    "timestamp": "timestamp(6) with time zone",
    "array<string>": "array(varchar)",
}


def relation_schemas(specs: Iterable[TableSpec]) -> Schemas:
    """Return the declared columns of tables with their Trino types."""
    return {
        Relation(NAMESPACE, spec.name): {
            column.name: _TRINO_TYPES.get(column.type, column.type) for column in spec.columns
        }
        for spec in specs
    }
