"""Raw files to typed records in Spark, with what breaks the declaration set apart.

Every field is read as text first and cast after: so the reason can name the field, and one bad
field costs its record, not its file.
"""

import csv
import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from dataplatform.lake.api.endpoint import RECORD_COLUMNS, Endpoint, Field
from dataplatform.lake.manifest import Manifest, RawFile, RawZone

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_FILE_COLUMNS: Final = {
    name: kind for name, kind in RECORD_COLUMNS.items() if name != "record_hash"
}
_FILES_SCHEMA: Final = ", ".join(
    f"{name} {kind}" for name, kind in (_FILE_COLUMNS | {"problem": "string"}).items()
)
_EXCERPT: Final = 2000
"""How many characters of a rejected record are kept: enough to see, small enough to show."""


@dataclass(frozen=True)
class RecordReader:
    """Reads the records of committed slots.

    Args:
        spark: the session.
        zone: the raw zone the manifests came from.
    """

    spark: "SparkSession"
    zone: RawZone

    def parsed(self, endpoint: Endpoint, manifests: Iterable[Manifest]) -> "DataFrame":
        """Return one row a record: typed fields, lineage columns, `record` and `reject_reason`.

        `reject_reason` is empty for a record that fits the declaration.
        """
        from pyspark.sql import functions as F

        chosen = list(manifests)
        raw = self._records(endpoint, chosen).join(F.broadcast(self._files(chosen)), "raw_key")
        text_schema = ", ".join(f"`{field.name}` string" for field in endpoint.fields)
        text = raw.withColumn("text", F.from_json("record", text_schema))
        typed = text.select(
            *_FILE_COLUMNS,
            F.coalesce(F.sha2("record", 256), F.lit("")).alias("record_hash"),
            F.substring("record", 1, _EXCERPT).alias("record"),
            F.col("text"),
            F.col("problem"),
            *[F.expr(_typed(field)).alias(field.name) for field in endpoint.fields],
        )
        reasons = [F.expr(_reason(field)) for field in endpoint.fields]
        rejected = F.coalesce("problem", F.concat_ws("; ", *reasons))
        return typed.withColumn("reject_reason", rejected).drop("text", "problem")

    def _files(self, manifests: list[Manifest]) -> "DataFrame":
        rows: list[dict[str, object]] = [
            {
                "raw_key": file.key,
                "slot_at": manifest.fetched_at,
                "fetched_at": file.fetched_at,
                "origin": manifest.origin,
                "complete": manifest.complete,
                "params": file.params,
                "problem": file.problem,
            }
            for manifest in manifests
            for file in manifest.files
        ]
        return self._inline(rows, _FILES_SCHEMA)

    def _inline(self, rows: list[dict[str, object]], schema: str) -> "DataFrame":
        """Return a small frame from a literal: `createDataFrame` took 0.2 s for each scan of it."""
        return self.spark.sql(
            f"SELECT inline(from_json(:rows, 'array<struct<{_struct(schema)}>>'))",
            args={"rows": orjson.dumps(rows, default=str).decode()},
        )

    def _records(self, endpoint: Endpoint, manifests: list[Manifest]) -> "DataFrame":
        """Return (raw_key, record): the record as a JSON object in text, null where unreadable."""
        by_format: dict[str, list[RawFile]] = {}
        for manifest in manifests:
            for file in manifest.files:
                by_format.setdefault(file.format, []).append(file)
        frames = []
        for name, files in by_format.items():
            frames += self._read(endpoint, name, files)
        if not frames:
            return self._inline([], "raw_key string, record string")
        whole = frames[0]
        for frame in frames[1:]:
            whole = whole.unionByName(frame)
        return whole

    def _read(self, endpoint: Endpoint, name: str, files: list[RawFile]) -> "list[DataFrame]":
        if name == "csv":
            return [self._csv(header, keys) for header, keys in self._headers(files).items()]
        if name == "unknown":
            rows: list[dict[str, object]] = [{"raw_key": file.key} for file in files]
            return [self._inline(rows, "raw_key string, record string")]
        if name == "parquet":
            return [self._parquet(file.key) for file in files]
        lines = "filter(split(body, '\\\\r?\\\\n'), line -> length(trim(line)) > 0)"
        split = lines if name == "jsonl" else endpoint.records_sql
        return [self._bodies([file.key for file in files], split)]

    def _bodies(self, keys: list[str], records_sql: str) -> "DataFrame":
        """Return the records of whole bodies; a body that can't be split is one null record."""
        from pyspark.sql import functions as F

        uris = [self.zone.store.uri(key) for key in keys]
        # As an argument: `text` overrides the option of the same name with its default.
        bodies = self.spark.read.text(uris, wholetext=True)
        with_key = bodies.select(self._key(), F.col("value").alias("body"))
        records = F.expr(f"coalesce({records_sql}, array(CAST(NULL AS string)))")
        return with_key.select("raw_key", F.explode(records).alias("record"))

    def _headers(self, files: list[RawFile]) -> dict[str, list[str]]:
        """Group CSV files by their header line: each group is one read with one schema."""
        groups: dict[str, list[str]] = {}
        for file in files:
            body = self.zone.store.get(file.key)
            text = gzip.decompress(body) if file.key.endswith(".gz") else body
            header = text.split(b"\n", 1)[0].decode("utf-8", "replace").strip("\ufeff\r ")
            groups.setdefault(header, []).append(file.key)
        return groups

    def _csv(self, header: str, keys: list[str]) -> "DataFrame":
        from pyspark.sql import functions as F
        from pyspark.sql.types import StringType, StructType

        schema = StructType()
        for number, name in enumerate(next(csv.reader([header]))):
            schema = schema.add(name.strip(' "') or f"column_{number}", StringType())
        reader = self.spark.read.options(
            header=True, multiLine=True, encoding="UTF-8", quote='"', escape='"'
        )
        rows = reader.schema(schema).csv([self.zone.store.uri(key) for key in keys])
        columns = [F.col(f"`{name}`") for name in schema.fieldNames()]
        return rows.select(self._key(), F.to_json(F.struct(*columns)).alias("record"))

    def _parquet(self, key: str) -> "DataFrame":
        from pyspark.sql import functions as F

        rows = self.spark.read.parquet(self.zone.store.uri(key))
        columns = [F.col(f"`{name}`") for name in rows.columns]
        return rows.select(
            F.lit(key).alias("raw_key"), F.to_json(F.struct(*columns)).alias("record")
        )

    def _key(self) -> "Column":
        """The store key of the file a row came from: its path below the store's root."""
        from pyspark.sql import functions as F

        root = self.zone.store.root_uri.split("://", 1)[1].rstrip("/")
        # Spark encodes the path as a URL; url_decode takes `+` for a blank, which a path does not.
        plain = F.url_decode(F.replace("_metadata.file_path", F.lit("+"), F.lit("%2B")))
        path = F.regexp_replace(plain, r"^[a-z0-9]+:/+", "/")
        return F.substring(path, len("/" + root.lstrip("/")) + 2, 1 << 20).alias("raw_key")


def _typed(field: Field) -> str:
    text = f"text.`{field.name}`"
    if field.type == "string":
        return text
    if field.type in {"int", "bigint"}:
        # 7 comes as 7 or as 7.0; 7.5 is no integer and becomes null, which rejects it.
        number = f"try_cast({text} AS double)"
        return f"CASE WHEN {number} = floor({number}) THEN try_cast({number} AS {field.type}) END"
    if "<" in field.type:
        return f"from_json({text}, '{field.type}')"
    return f"try_cast({text} AS {field.type})"


def _reason(field: Field) -> str:
    """SQL that gives why the field rejects its record, null where it does not."""
    value = f"`{field.name}`"
    text = f"text.`{field.name}`"
    cases = [f"WHEN {text} IS NOT NULL AND {value} IS NULL THEN '{field.name}: not a {field.type}'"]
    if field.required:
        cases.insert(0, f"WHEN {text} IS NULL THEN '{field.name}: missing'")
    if field.type == "double":
        cases.append(
            f"WHEN isnan({value}) OR abs({value}) = double('Infinity')"
            f" THEN '{field.name}: not a finite number'"
        )
    if field.type == "timestamp":
        cases.append(
            f"WHEN year({value}) NOT BETWEEN 1970 AND 2099 THEN '{field.name}: no such time'"
        )
    if field.minimum is not None:
        cases.append(
            f"WHEN {value} < {field.minimum!r} THEN '{field.name}: below {field.minimum:g}'"
        )
    if field.maximum is not None:
        cases.append(
            f"WHEN {value} > {field.maximum!r} THEN '{field.name}: above {field.maximum:g}'"
        )
    if field.pattern is not None:
        pattern = field.pattern.replace("\\", "\\\\").replace("'", "\\'")
        cases.append(f"WHEN NOT {value} RLIKE '^(?:{pattern})$' THEN '{field.name}: malformed'")
    if field.valid is not None:
        cases.append(f"WHEN NOT coalesce({field.valid}, false) THEN '{field.name}: not valid'")
    return "CASE " + " ".join(cases) + " END"


def _struct(schema: str) -> str:
    """Turn `a string, b int` into the `a: string, b: int` of a struct type."""
    columns = (column.strip().split(" ", 1) for column in re.split(r",(?![^<]*>)", schema))
    return ", ".join(f"{name}: {kind}" for name, kind in columns)


def newest_fetch(manifests: Iterable[Manifest]) -> datetime | None:
    """Return when the newest of the manifests was fetched."""
    return max((manifest.fetched_at for manifest in manifests), default=None)


def by_endpoint(manifests: Iterable[Manifest]) -> Mapping[str, list[Manifest]]:
    """Group manifests by their endpoint's name."""
    groups: dict[str, list[Manifest]] = {}
    for manifest in manifests:
        groups.setdefault(manifest.slot.endpoint, []).append(manifest)
    return groups
