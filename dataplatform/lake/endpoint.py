"""How an API endpoint is declared: everything else about it derives from this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Every = Literal["hour", "day", "partition"]


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
