"""Trino's types in Arrow, and rows of Trino's client as Arrow batches."""

import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from sqlglot import exp

from dataplatform.lake.view_sql import DIALECT

_MICROSECONDS: Final = 6
_LENGTH: Final = re.compile(r"\bvarchar\(\d+\)")
_PRECISION: Final = re.compile(r"\btimestamp\([0-5]\)")
_PLAIN: Final[dict[exp.DType, pa.DataType]] = {
    exp.DType.BOOLEAN: pa.bool_(),
    exp.DType.TINYINT: pa.int8(),
    exp.DType.SMALLINT: pa.int16(),
    exp.DType.INT: pa.int32(),
    exp.DType.BIGINT: pa.int64(),
    exp.DType.FLOAT: pa.float32(),
    exp.DType.DOUBLE: pa.float64(),
    exp.DType.DATE: pa.date32(),
    exp.DType.VARBINARY: pa.binary(),
    exp.DType.NULL: pa.null(),
    exp.DType.UNKNOWN: pa.null(),
}


def spoken(kind: str) -> str:
    """Return a result's type as the lake's tables name it: no length of text, microseconds.

    Trino gives the literal 'ohlc' the type varchar(4) and DATE + time the precision that was written;
    what is stored is varchar and timestamp(6).
    """
    return _PRECISION.sub("timestamp(6)", _LENGTH.sub("varchar", kind.lower()))


def arrow_type(kind: str) -> pa.DataType:
    """Return the Arrow type that holds a Trino type's values; text for those Arrow has none for."""
    if kind == "unknown":
        return pa.null()
    return _arrow(exp.DataType.build(kind, dialect=DIALECT, udt=True))


def _arrow(kind: exp.Expr) -> pa.DataType:
    inner = kind.expressions
    match kind.this:
        case exp.DType.DECIMAL:
            return pa.decimal128(*(int(part.this.name) for part in inner))
        case exp.DType.TIMESTAMP | exp.DType.TIMESTAMPTZ:
            zone = "UTC" if kind.this is exp.DType.TIMESTAMPTZ else None
            return pa.timestamp("us", zone)
        case exp.DType.ARRAY:
            return pa.list_(_arrow(inner[0]))
        case exp.DType.MAP:
            return pa.map_(_arrow(inner[0]), _arrow(inner[1]))
        case exp.DType.STRUCT:
            return pa.struct([_member(number, part) for number, part in enumerate(inner)])
    return _PLAIN.get(kind.this, pa.string())


def _member(number: int, part: exp.Expr) -> pa.Field:
    if isinstance(part, exp.ColumnDef) and part.kind:
        return pa.field(part.name, _arrow(part.kind))
    return pa.field(f"field{number}", _arrow(part))


def to_arrow(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of Trino's client as one batch."""
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array([_value(value, field.type) for value in column], field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)


def _value(value: Any, kind: pa.DataType) -> Any:
    """Return a value as pyarrow takes it: rows by name, maps as pairs, the rest as it is."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {kind[n].name: _value(part, kind[n].type) for n, part in enumerate(value)}
    if pa.types.is_map(kind):
        return [(_value(k, kind.key_type), _value(v, kind.item_type)) for k, v in value.items()]
    if pa.types.is_list(kind):
        return [_value(part, kind.value_type) for part in value]
    return value if not pa.types.is_string(kind) else str(value)
