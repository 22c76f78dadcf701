"""How much a build will read, from metadata alone, and how many executors that is worth."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dataplatform.lake.inspect import footprint
from dataplatform.lake.schema import load_table
from dataplatform.lake.spec import TableSpec

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

    from dataplatform.lake.plan import Lake, Plan


def plans(lake: "Lake", specs: Mapping[str, TableSpec], names: Collection[str]) -> "list[Plan]":
    """Return what each of the named tables has to read now, in dependency order.

    Tables that are built before them in the same run are seen as they are now: what reads one that
    will change is not known to be needed yet.
    """
    return [lake.plan(spec) for name, spec in specs.items() if name in names]


def build_bytes(
    catalog: "Catalog", specs: Mapping[str, TableSpec], planned: "Sequence[Plan]"
) -> int:
    """Return the bytes that a build reads at most, as they are stored.

    These are the new raw files, and the tables that change or may change in turn, with those that
    they read.

    Args:
        catalog: the lake's.
        specs: every declared table by name, in dependency order.
        planned: the plans of all that is to be built.
    """
    files = {file.key: file.size for plan in planned for m in plan.manifests for file in m.files}
    changing = {plan.spec.name for plan in planned if plan.is_needed}
    for plan in planned:
        if changing.intersection(plan.spec.upstream):
            changing.add(plan.spec.name)
    read = changing.union(*(specs[name].upstream for name in changing))
    return sum(files.values()) + table_bytes(catalog, read)


def table_bytes(catalog: "Catalog", names: Iterable[str]) -> int:
    """Return the bytes that the named tables have, as far as they are built."""
    tables = (load_table(catalog, name) for name in names)
    return sum(footprint(table).size for table in tables if table is not None)


def executors_for(size: int, *, each: int, most: int) -> int:
    """Return how many executors so many bytes are worth: a power of two, or `most`.

    In such steps a retry of the same work asks for the same number, though some is done meanwhile.

    Args:
        size: bytes to read.
        each: bytes that one executor is worth.
        most: never more.
    """
    wanted = -(-size // each)
    return min(most, 1 << max(0, wanted - 1).bit_length())
