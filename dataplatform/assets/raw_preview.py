"""A glance at what landed, as Markdown for the materialization's metadata."""

import gzip
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from dagster import MetadataValue

from dataplatform.lake.endpoint import Endpoint
from dataplatform.lake.landing import Landing
from dataplatform.lake.manifest import RawFile, RawZone

ROWS: Final = 5
COLUMNS: Final = 7
WIDTH: Final = 40
_EXCERPT: Final = 600


def preview(
    endpoint: Endpoint, zone: RawZone, landings: Sequence[Landing]
) -> dict[str, MetadataValue]:
    """Return the entry `preview` for the first file that landed; nothing where none did."""
    files = [file for landing in landings for file in landing.manifest.files]
    if not files or files[0].format in ("parquet", "unknown"):
        return {}
    return {"preview": MetadataValue.md(_markdown(endpoint, zone, files[0]))}


def _markdown(endpoint: Endpoint, zone: RawZone, file: RawFile) -> str:
    stored = zone.store.get(file.key)
    text = gzip.decompress(stored) if file.key.endswith(".gz") else stored
    if file.format != "json":
        return _excerpt(b"\n".join(text.splitlines()[: ROWS + 1]))
    parsed = orjson.loads(text)
    if isinstance(parsed, list) and parsed and isinstance(parsed[0], dict):
        names = [field.name for field in endpoint.fields if field.name in parsed[0]][:COLUMNS]
        return _table(names, parsed[:ROWS])
    return _excerpt(text)


def _table(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(record.get(name)) for name in names] for record in records]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text[:WIDTH].replace("|", "\\|").replace("\n", " ")


def _excerpt(text: bytes) -> str:
    return f"```\n{text[:_EXCERPT].decode(errors='replace')}\n```"
