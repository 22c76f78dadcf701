"""A glance at what landed, as Markdown for the materialization's metadata."""

import gzip
from collections.abc import Sequence
from typing import Final

import orjson
from dagster import MetadataValue

from dataplatform.assets.plots import markdown_table
from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.lake.landing import Landing
from dataplatform.lake.manifest import RawFile, RawZone

ROWS: Final = 5
COLUMNS: Final = 7
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
        rows = [[_as_sent(record.get(name)) for name in names] for record in parsed[:ROWS]]
        return markdown_table(names, rows)
    return _excerpt(text)


def _as_sent(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _excerpt(text: bytes) -> str:
    return f"```\n{text[:_EXCERPT].decode(errors='replace')}\n```"
