"""From which columns a table's columns come, read from the Spark SQL of its transformation.

The transformation runs with inputs that hold no rows, only where each column comes from; its SQL is
parsed and followed, and no Spark is needed. sqlglot's own lineage stops at Spark's generators and
structs (`inline`, `LATERAL VIEW`, `collect_list(struct(…))`), on which the larger tables rest; where
it gets through, a test holds this to it.

Import it inside functions: sqlglot takes 0.3 s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from itertools import islice
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from dataplatform.lake.api.endpoint import RECORD_COLUMNS, Endpoint
from dataplatform.lake.spec import NAMESPACE, TableSpec
from dataplatform.lake.state import ALL_DAYS
from dataplatform.lake.views import Relation

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

RAW_SCHEMA: Final = "raw"
"""The schema that stands for endpoints in a lineage."""

Source = tuple[Relation, str]


class LineageUnknownError(ValueError):
    """A transformation that can't be followed: its table is shown without column lineage."""


@dataclass(frozen=True)
class Origins:
    """The columns that a value comes from; by field where it is a struct, or an array of them."""

    direct: frozenset[Source] = frozenset()
    fields: "Mapping[str, Origins]" = field(default_factory=dict)

    def of_field(self, name: str) -> "Origins":
        """Return the origins of one field; where fields are not told apart, those of the whole."""
        return self.fields.get(name, Origins(self.direct))

    @property
    def all(self) -> frozenset[Source]:
        """The origins of the whole value."""
        return self.direct.union(*(origins.all for origins in self.fields.values()))


Columns = dict[str, Origins]
NOTHING: Final = Origins()
Bound = Mapping[str, Origins]
_UNBOUND: Final[Bound] = {}


def merged(many: Iterable[Origins]) -> Origins:
    """Return the origins of a value that is made of several."""
    found = list(many)
    names = dict.fromkeys(name for origins in found for name in origins.fields)
    fields = {name: merged(o.fields[name] for o in found if name in o.fields) for name in names}
    return Origins(frozenset().union(*(origins.direct for origins in found)), fields)


def table_lineage(
    spec: TableSpec, specs: Mapping[str, TableSpec], endpoints: Mapping[str, Endpoint]
) -> dict[str, tuple[Source, ...]]:
    """Return for each column of a table the columns of endpoints and tables that it comes from.

    Columns that only filter, join or sort are not among them, nor is the table's own earlier state.

    Args:
        spec: the table.
        specs: every declared table by name.
        endpoints: every declared endpoint by name.

    Raises:
        LineageUnknownError: the transformation uses what can't be followed.
    """
    try:
        frame = cast("_Frame", spec.transform(_Inputs(spec, specs, endpoints)))
    except LineageUnknownError:
        raise
    except Exception as error:
        # Somebody's Python that met our stand-ins: a lineage less, and no reason to fail a build.
        raise LineageUnknownError(f"{spec.name}: {type(error).__name__}: {error}") from error
    missing = [column.name for column in spec.columns if column.name not in frame.columns]
    if missing:
        raise LineageUnknownError(f"{spec.name}: the SQL gives no column {', '.join(missing)}")
    return {c.name: tuple(sorted(frame.columns[c.name].all)) for c in spec.columns}


@dataclass(frozen=True)
class _Frame:
    """Stands for a Spark DataFrame of no rows."""

    columns: Columns

    def first(self) -> None:
        """Return the first row: there is none."""

    def unionByName(self, other: "_Frame") -> "_Frame":  # noqa: N802  Spark's name
        return _Frame(_side_by_side([self.columns, other.columns]))

    def __getattr__(self, name: str) -> NoReturn:
        raise LineageUnknownError(f"DataFrame.{name} can't be followed: write it as SQL")


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a transformation whose SQL is followed and not run (see `spec.Inputs`)."""

    spec: TableSpec
    specs: Mapping[str, TableSpec]
    endpoints: Mapping[str, Endpoint]

    def sql(self, query: str, **values: Any) -> "DataFrame":
        names = {name for _, name, _, _ in Formatter().parse(query) if name}
        given = {name: values[name] if name in values else self._frame(name) for name in names}
        frames = {name: one.columns for name, one in given.items() if isinstance(one, _Frame)}
        written = {name: name if name in frames else _literal(one) for name, one in given.items()}
        try:
            parsed = sqlglot.parse_one(query.format_map(written), read="spark")
            return _as_dataframe(_query(parsed, frames))
        except (SqlglotError, LookupError, ValueError, AttributeError) as error:
            raise LineageUnknownError(f"{self.spec.name}: {error}") from error

    def _frame(self, name: str) -> "DataFrame":
        if name == "self":
            return _as_dataframe({column.name: NOTHING for column in self.spec.columns})
        return self.records(name) if name in self.spec.endpoints else self.table(name)

    def records(self, endpoint: str) -> "DataFrame":
        names = [*(one.name for one in self.endpoints[endpoint].fields), *RECORD_COLUMNS]
        return _as_dataframe(_columns(Relation(RAW_SCHEMA, endpoint), names))

    def rejects(self, endpoint: str) -> "DataFrame":
        relation = Relation(RAW_SCHEMA, endpoint)
        whole = Origins(frozenset((relation, one.name) for one in self.endpoints[endpoint].fields))
        kept = _columns(relation, ("raw_key", "record_hash", "fetched_at", "origin"))
        return _as_dataframe(kept | {"record": whole, "reject_reason": whole})

    def table(self, name: str) -> "DataFrame":
        names = [column.name for column in self.specs[name].columns]
        return _as_dataframe(_columns(Relation(NAMESPACE, name), names))

    def changed(self, name: str) -> tuple[str, str]:  # noqa: ARG002  of the protocol
        return ALL_DAYS


def _as_dataframe(columns: Columns) -> "DataFrame":
    return cast("DataFrame", _Frame(columns))


def _columns(relation: Relation, names: Iterable[str]) -> Columns:
    return {name: Origins(frozenset({(relation, name)})) for name in names}


def _literal(value: object) -> str:
    return exp.Literal.string(value).sql("spark") if isinstance(value, str) else repr(value)


def _side_by_side(parts: list[Columns]) -> Columns:
    """Return the columns of several relations; of equal names the origins of all."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: merged(part[name] for part in parts if name in part) for name in names}


def _query(node: exp.Expr, relations: Mapping[str, Columns]) -> Columns:
    """Return the output columns of a query over named relations."""
    for cte in node.args["with_"].expressions if node.args.get("with_") else ():
        relations = {**relations, cte.alias: _query(cte.this, relations)}
    if isinstance(node, exp.Subquery):
        return _query(node.this, relations)
    if isinstance(node, exp.SetOperation):
        left, right = _query(node.left, relations), _query(node.right, relations)
        pairs = zip(left.items(), right.values(), strict=True)
        return {name: merged([one, other]) for (name, one), other in pairs}
    if isinstance(node, exp.Select):
        return _Select(node, relations).output()
    raise LineageUnknownError(f"{node.key} can't be followed")


class _Select:
    """One SELECT: what its names mean, and what its expressions come from."""

    def __init__(self, node: exp.Select, relations: Mapping[str, Columns]) -> None:
        self._node, self._relations = node, relations
        self._sources: dict[str, Columns] = {}
        joined = [
            clause.this
            for clause in (node.args.get("from_"), *(node.args.get("joins") or ()))
            if clause
        ]
        for number, item in enumerate(joined):
            self._sources[item.alias_or_name or f"_{number}"] = self._relation(item)
        for lateral in node.args.get("laterals") or ():
            self._sources[lateral.alias] = self._generated(lateral)

    def _relation(self, item: exp.Expr) -> Columns:
        if not isinstance(item, exp.Table):
            return _query(item, self._relations)
        if item.name not in self._relations:
            raise LineageUnknownError(f"the relation {item.name} is not known")
        return self._relations[item.name]

    def _generated(self, lateral: exp.Lateral) -> Columns:
        """Return the columns of a LATERAL VIEW."""
        call, names = lateral.this, [column.name for column in lateral.args["alias"].columns]
        if isinstance(call, exp.Stack):
            values = [self._of(value) for value in call.expressions]
            every = len(names)
            return {n: merged(islice(values, at, None, every)) for at, n in enumerate(names)}
        value = self._of(call.this)
        if isinstance(call, exp.Posexplode):
            return {names[0]: NOTHING} | dict.fromkeys(names[1:], value)
        return dict.fromkeys(names, value)

    def output(self) -> Columns:
        found: Columns = {}
        for number, item in enumerate(self._node.expressions):
            if item.is_star:
                chosen = self._sources.values()
                if isinstance(item, exp.Column) and item.table:
                    chosen = [self._sources[item.table]]
                found |= _side_by_side(list(chosen))
            elif isinstance(item, exp.Inline):
                found |= self._of(item.this).fields
            else:
                named = isinstance(item, exp.Alias | exp.Column)
                found[item.alias_or_name if named else f"_{number}"] = self._of(item)
        return found

    @singledispatchmethod
    def _of(self, node: exp.Expr, bound: Bound = _UNBOUND) -> Origins:
        """Return what an expression comes from: in general, what its parts come from.

        Args:
            node: the expression.
            bound: what the parameters of the lambdas around it stand for.
        """
        return merged(self._of(part, bound) for part in node.iter_expressions())

    @_of.register
    def _column(self, node: exp.Column, bound: Bound = _UNBOUND) -> Origins:  # noqa: ARG002
        if node.table in self._sources:
            return self._sources[node.table][node.name]
        if node.table:
            return self._named(node.table).of_field(node.name)
        return self._named(node.name)

    def _named(self, name: str) -> Origins:
        known = [columns[name] for columns in self._sources.values() if name in columns]
        if not known:
            raise LineageUnknownError(f"the column {name} is not known")
        return merged(known)

    @_of.register
    def _parameter(self, node: exp.Identifier, bound: Bound = _UNBOUND) -> Origins:
        return bound.get(node.name, NOTHING)

    @_of.register
    def _field(self, node: exp.Dot, bound: Bound = _UNBOUND) -> Origins:
        return self._of(node.this, bound).of_field(node.expression.name)

    @_of.register
    def _struct(self, node: exp.Struct, bound: Bound = _UNBOUND) -> Origins:
        return Origins(
            fields={one.name: self._of(one.expression, bound) for one in node.expressions}
        )

    @_of.register
    def _element(self, node: exp.Bracket | exp.ArrayFilter, bound: Bound = _UNBOUND) -> Origins:
        """Which element, and on what condition, is not what the value comes from."""
        return self._of(node.this, bound)

    @_of.register
    def _length(self, node: exp.ArraySize, bound: Bound = _UNBOUND) -> Origins:  # noqa: ARG002
        """Grids are numbered by their length: it says nothing of their values."""
        return NOTHING

    @_of.register
    def _each(self, node: exp.Transform, bound: Bound = _UNBOUND) -> Origins:
        element, *index = (one.name for one in node.expression.expressions)
        inner = {element: self._of(node.this, bound), **dict.fromkeys(index, NOTHING)}
        return self._of(node.expression.this, {**bound, **inner})

    @_of.register
    def _window(self, node: exp.Window, bound: Bound = _UNBOUND) -> Origins:
        """A rank comes from what it ranks by; any other value from the function's argument."""
        value = self._of(node.this, bound)
        return value if value.all else merged(self._of(p, bound) for p in node.iter_expressions())

    @_of.register
    def _choice(self, node: exp.If, bound: Bound = _UNBOUND) -> Origins:
        """A condition that only blanks a value filters it; another one chooses it."""
        chosen = [part for key in ("true", "false") if (part := node.args.get(key))]
        blanks = any(isinstance(part, exp.Null) for part in chosen)
        return merged(
            self._of(part, bound) for part in (chosen if blanks else [node.this, *chosen])
        )

    @_of.register
    def _scalar(self, node: exp.Subquery, bound: Bound = _UNBOUND) -> Origins:  # noqa: ARG002
        return next(iter(_query(node, self._relations).values()))
