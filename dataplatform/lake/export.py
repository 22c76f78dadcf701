"""Write an answer to a file, batch by batch: CSV, JSON or Parquet."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

import orjson
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from dataplatform.lake.sql_engine import ResultStream

FileFormat = Literal["csv", "json", "parquet"]
SUFFIXES: Final[dict[str, FileFormat]] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}


def export_file(stream: "ResultStream", path: Path, file_format: FileFormat) -> int:
    """Write all rows to `path`, all of them or nothing; return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.partial")
    try:
        with written.open("wb") as sink:
            rows = export(stream, sink, file_format)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return rows


def export(stream: "ResultStream", sink: BinaryIO, file_format: FileFormat) -> int:
    """Write all rows to an open file; return how many there were.

    CSV has a header, nulls as empty fields and lists as JSON; JSON is one array of objects. Of columns
    with the same name the later ones are numbered: coin_id, coin_id_1.
    """
    writers: dict[FileFormat, Callable[[pa.RecordBatchReader, BinaryIO], int]] = {
        "csv": _write_csv,
        "json": _write_json,
        "parquet": _write_parquet,
    }
    return writers[file_format](_told_apart(stream.reader), sink)


def _told_apart(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    names = _distinct(reader.schema.names)
    if names == reader.schema.names:
        return reader
    schema = pa.schema([field.with_name(n) for field, n in zip(reader.schema, names, strict=True)])
    batches = (pa.record_batch(batch.columns, schema=schema) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _distinct(names: list[str]) -> list[str]:
    """Number the names that come again, past the numbers that other columns have."""
    taken = set(names)
    found: list[str] = []
    for name in names:
        free = name
        if name in found:
            free = next(f"{name}_{n}" for n in count(1) if f"{name}_{n}" not in taken)
        taken.add(free)
        found.append(free)
    return found


def _write_csv(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    from pyarrow.csv import CSVWriter

    schema = pa.schema([_flat(field) for field in reader.schema])
    rows = 0
    with CSVWriter(sink, schema) as writer:
        for batch in reader:
            columns = [_flattened(column) for column in batch.columns]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            rows += batch.num_rows
    return rows


def _flat(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if pa.types.is_nested(field.type) else field


def _flattened(column: pa.Array) -> pa.Array:
    if not pa.types.is_nested(column.type):
        return column
    texts = [None if value is None else _json(value).decode() for value in column.to_pylist()]
    return pa.array(texts, pa.string())


def _write_json(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    rows = 0
    sink.write(b"[")
    for batch in reader:
        for row in batch.to_pylist():
            sink.write(b"\n" if rows == 0 else b",\n")
            sink.write(_json(row))
            rows += 1
    sink.write(b"\n]\n")
    return rows


def _json(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z)


def _write_parquet(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    from pyarrow.parquet import ParquetWriter

    rows = 0
    with ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
