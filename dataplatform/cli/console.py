"""How `dp` speaks: answers on stdout, everything else on stderr, errors as one line."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ATTRIBUTION: Final = "Data provided by CoinGecko"
_P = ParamSpec("_P")
_R = TypeVar("_R")


class UserError(Exception):
    """Something the user can mend; the message says what is wrong and what to do."""


def out() -> "Console":
    """Return the console for answers: plain text where stdout is no terminal or NO_COLOR is set."""
    from rich.console import Console

    console = Console()
    # In a pipe rich would cut tables at 80 columns; a reader such as grep wants whole lines.
    return console if console.is_terminal else Console(width=_PIPE_WIDTH)


_PIPE_WIDTH: Final = 240


def err() -> "Console":
    """Return the console for notes and errors."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False)


def fail(message: str) -> NoReturn:
    """Say what is wrong and end with exit code 1."""
    from rich.markup import escape

    err().print(f"[bold red]Error:[/] {escape(message)}")
    raise typer.Exit(1)


def user_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn what the user can mend into one line and exit code 1, without a traceback."""

    @functools.wraps(command)
    def _guarded(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        from dataplatform.lake.api.budget_store import BudgetError
        from dataplatform.lake.dialect import QueryError
        from dataplatform.lake.place import NotConfiguredError
        from dataplatform.lake.secrets import SecretError
        from dataplatform.lake.store.errors import ObjectStoreError

        lake = (QueryError, NotConfiguredError, ObjectStoreError)
        known = (UserError, BudgetError, SecretError, *lake)
        try:
            return command(*args, **kwargs)
        except known as error:
            fail(str(error))
        except OSError as error:
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}.")

    return _guarded


def grid(
    columns: Sequence[str], numbers: Sequence[bool] | None = None, *, named: bool = False
) -> "Table":
    """Return an empty table.

    Args:
        columns: their headings.
        numbers: which of them are aligned right.
        named: the first column holds names, which stay whole where the terminal is narrow.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        right = bool(numbers and numbers[index])
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=named and not index
        )
    return table


def add_row(table: "Table", values: Iterable[object]) -> None:
    """Add a row of values as they are: what looks like rich's markup, such as [UTC], stays."""
    from rich.text import Text

    table.add_row(*(Text(text(value)) for value in values))


@dataclass(frozen=True)
class Heading:
    """A column of a listing.

    Attributes:
        name: its heading.
        right: whether it is aligned right, as numbers are.
        from_width: the narrowest terminal, in columns, that shows it.
    """

    name: str
    right: bool = False
    from_width: int = 0


def show_lines(headings: Sequence[Heading], rows: Iterable[Sequence[object]]) -> None:
    """Print a listing with one line a row at any width; the last column is cut with an ellipsis."""
    from rich.text import Text

    screen = out()
    shown = [n for n, heading in enumerate(headings) if screen.width >= heading.from_width]
    kept = [headings[n] for n in shown]
    table = grid([heading.name for heading in kept], [heading.right for heading in kept])
    table.padding = (0, 1, 0, 0)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        cells = (text(row[n]) for n in shown)
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    screen.print(table)


def add_answer(table: "Table", values: Iterable[object]) -> None:
    """Add a row of an answer: a null is a dim dash, to tell it from an empty text."""
    from rich.text import Text

    table.add_row(*(Text("–", "dim") if v is None else Text(text(v)) for v in values))


def text(value: object) -> str:
    """Return a value as one cell shows it: null is empty, what is nested has Trino's form."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= _WHOLE else f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, date):
        return value.isoformat()
    return _nested(value) if isinstance(value, list | dict) else str(value)


def _nested(value: list[Any] | dict[str, Any]) -> str:
    """Return an array as `[1, null]`, a row as `{a=1}`, and so a map, which comes as its pairs."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if isinstance(value, dict) or (pairs and all(isinstance(pair, tuple) for pair in pairs)):
        return "{" + ", ".join(f"{_item(key)}={_item(one)}" for key, one in pairs) + "}"
    return "[" + ", ".join(map(_item, pairs)) + "]"


def _item(value: object) -> str:
    return "null" if value is None else text(value)


def minute(value: date | datetime | None) -> str:
    """Return a day or a time without its seconds; None is empty."""
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else text(value)


_WHOLE: Final = 1000.0
"""From here on a number shows two decimals and thousands; below, six significant digits."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it is not one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004  1 KiB
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
