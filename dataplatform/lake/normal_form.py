"""One text for each meaning of a SELECT, so that a deployed view can be compared with its file.

Trino gives a view back in a layout of its own: every operation in parentheses, joins nested in
parentheses, `6e1` as `6E1`, `0.5` as `DECIMAL '0.5'`, `a || b` as `concat(a, b)`, no comments. The
normal form says each of these in one way and keeps what makes a difference: parentheses stay where
leaving them out would mean something else.
"""

import re
from decimal import Decimal
from typing import Final, TypeVar

import sqlglot
from sqlglot import exp

_Node = TypeVar("_Node", bound=exp.Expr)
_DIALECT: Final = "trino"
_COMPARISON: Final = 4
_PRECEDENCE: Final[dict[type[exp.Expr], int]] = {
    exp.Or: 1,
    exp.And: 2,
    exp.Not: 3,
    exp.Add: 5,
    exp.Sub: 5,
    exp.Mul: 6,
    exp.Div: 6,
    exp.Mod: 6,
    exp.Neg: 7,
}
_UNRELATED: Final = 0
"""The precedence of an operation that the table does not know: always in parentheses."""
_PLAIN_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")


def normal_form(sql: str) -> str:
    """Return a SELECT of Trino SQL in its normal form.

    Raises:
        SqlglotError: it is no SQL.
    """
    tree = sqlglot.parse_one(sql, read=_DIALECT)
    for paren in _from_the_leaves(tree, exp.Paren):
        paren.replace(paren.this)
    for select in _from_the_leaves(tree, exp.Select):
        _lift_joins(select)
    for node in _from_the_leaves(tree, exp.Expr):
        _plain(node)
    for node in _from_the_leaves(tree, exp.Expr):
        if _needs_parentheses(node):
            node.replace(exp.Paren(this=node.copy()))
    return tree.sql(_DIALECT, pretty=True, comments=False)


def _from_the_leaves(tree: exp.Expr, kind: type[_Node]) -> list[_Node]:
    """Return the nodes of a kind, each after those below it, as they are now."""
    return list(tree.find_all(kind))[::-1]


def _lift_joins(select: exp.Select) -> None:
    """Say `FROM ((a JOIN b) JOIN c)` as `FROM a JOIN b JOIN c`."""
    source = select.args.get("from_")
    while source is not None and _is_wrapped_table(source.this):
        wrapped = source.this
        inner = wrapped.this
        joins = [*inner.args.get("joins", ()), *wrapped.args.get("joins", ())]
        inner.set("joins", None)
        source.set("this", inner.pop())
        select.set("joins", [join.copy() for join in [*joins, *select.args.get("joins", ())]])


def _is_wrapped_table(node: exp.Expr) -> bool:
    return (
        isinstance(node, exp.Subquery)
        and not node.alias
        and isinstance(node.this, exp.Table | exp.Subquery)
    )


def _plain(node: exp.Expr) -> None:
    """Say in one way what may be said in several, in place."""
    match node:
        case exp.Identifier():
            name = node.name.lower()
            node.set("this", name)
            node.set("quoted", not _PLAIN_NAME.fullmatch(name))
        case exp.Literal(is_string=False) if "e" in node.name.lower():
            node.set("this", f"{Decimal(node.name).normalize():e}".replace("e+", "e"))
        case exp.Cast() if _is_decimal_literal(node):
            node.replace(exp.Literal.number(node.this.name))
        case exp.DPipe() | exp.Concat():
            node.replace(_concatenated(node))
        case exp.Ordered():
            node.set("desc", bool(node.args.get("desc")))
        case exp.Join(kind="INNER" | "OUTER"):
            node.set("kind", None)


def _concatenated(node: exp.DPipe | exp.Concat) -> exp.Concat:
    """Say `concat(concat(a, b), c)`, which is what Trino makes of `a || b || c`, in one call."""
    flat: list[exp.Expr] = []
    for part in node.expressions or (node.this, node.expression):
        flat.extend(part.expressions if isinstance(part, exp.Concat) else [part])
    return exp.Concat(expressions=[part.copy() for part in flat], safe=False, coalesce=False)


def _is_decimal_literal(node: exp.Cast) -> bool:
    return (
        node.to.this is exp.DType.DECIMAL
        and not node.to.expressions
        and isinstance(node.this, exp.Literal)
    )


def _precedence(node: exp.Expr | None) -> int | None:
    """Return how tightly an operation binds; None for what is no operation."""
    if node is None or isinstance(node, exp.Dot | exp.Paren | exp.Subquery):
        return None
    known = _PRECEDENCE.get(type(node))
    if known is not None or isinstance(node, exp.Func):
        return known
    if isinstance(node, exp.Predicate | exp.Is | exp.In | exp.Between):
        return _COMPARISON
    return _UNRELATED if isinstance(node, exp.Binary | exp.Unary) else None


def _needs_parentheses(node: exp.Expr) -> bool:
    own, outer = _precedence(node), _precedence(node.parent)
    if own is None or outer is None:
        return False
    leftmost = node.arg_key == "this" and own != _COMPARISON and outer != _UNRELATED
    return own < outer or (own == outer and not leftmost) or own == _UNRELATED
