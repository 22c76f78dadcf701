"""How an API endpoint is declared: everything else about it derives from this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Every = Literal["hour", "day", "partition"]

RECORD_COLUMNS: Final[Mapping[str, str]] = {
    "raw_key": "string",
    "slot_at": "timestamp",
    "fetched_at": "timestamp",
    "origin": "string",
    "complete": "boolean",
    "params": "map<string,string>",
    "record_hash": "string",
}
"""What every record carries beside its fields, with Spark SQL types: where it comes from."""


@dataclass(frozen=True)
class Field:
    """One field of a record, as the source documents it.

    Args:
        name: the JSON name.
        type: a Spark SQL type; a record whose value does not fit goes to quarantine.
        required: null or absent sends the record to quarantine.
        minimum: smallest sane value; smaller sends the record to quarantine.
        maximum: largest sane value, likewise.
        pattern: regular expression that a string must match whole, likewise.
        valid: SQL over the field that must be true, likewise.
    """

    name: str
    type: str = "string"
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    valid: str | None = None

    @property
    def bounds(self) -> str:
        """The smallest and largest value and the pattern, for people; empty where there is none."""
        bounds = [
            *([f"≥ {self.minimum:g}"] if self.minimum is not None else []),
            *([f"≤ {self.maximum:g}"] if self.maximum is not None else []),
            *([f"matches `{self.pattern}`"] if self.pattern else []),
        ]
        return ", ".join(bounds)


def epoch_ms(name: str) -> Field:
    """Return a required time in milliseconds since 1970, before the year 2100."""
    return Field(name, "double", required=True, minimum=0.0, maximum=4_102_444_799_999.0)


def price(name: str, *, required: bool = False) -> Field:
    """Return a field for the price of one coin, in any currency.

    1e12 is 10 million times bitcoin's price of 2025 in USD; a figure beyond it is an error.
    """
    return Field(name, "double", required, minimum=0.0, maximum=1e12)


def money(name: str) -> Field:
    """Return a field for a market's value or volume, in any currency."""
    return Field(name, "double", minimum=0.0, maximum=1e18)


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of a source.

    Args:
        name: the asset's and the folder's name.
        description: what it holds, in a sentence or two.
        path: below the API's base URL; `{id}` is filled for each configured coin.
        every: the slot: one fetch an hour, a day, or a daily partition.
        fields: the declared record.
        records_sql: Spark SQL over the column `body` (and `params`) that gives the records as
            `array<string>`, each a JSON object.
        params: query parameters sent with each request.
        page_size: `per_page`; pages are read until one is short. None: not paged.
        ignored: fields known to exist and deliberately not modelled: no drift.
        envelope: names at the top of a body that is an object around its records; a body that is
            an array, or a map of records by id, has none.
        source: the top folder in the bucket `datalake`.
    """

    name: str
    description: str
    path: str
    every: Every
    fields: tuple[Field, ...]
    records_sql: str = "from_json(body, 'array<string>')"
    params: Mapping[str, str] = field(default_factory=dict)
    page_size: int | None = None
    ignored: frozenset[str] = frozenset()
    envelope: frozenset[str] = frozenset()
    source: str = "coingecko"

    @property
    def per_coin(self) -> bool:
        """Whether one request a configured coin is sent."""
        return "{id}" in self.path
