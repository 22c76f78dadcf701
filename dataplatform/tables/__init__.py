"""The warehouse's tables: one module each, found by name, ordered by what they read."""

from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pkgutil import iter_modules

from dataplatform.lake.spec import TableSpec


@cache
def all_specs() -> dict[str, TableSpec]:
    """Return every declared table by name, each after the tables that it reads.

    Raises:
        ValueError: a module declares a table under another name than its own.
        graphlib.CycleError: tables read each other in a circle.
    """
    declared = {}
    for module in sorted(iter_modules(__path__), key=lambda found: found.name):
        spec: TableSpec = import_module(f"{__name__}.{module.name}").spec
        if spec.name != module.name:
            raise ValueError(f"{module.name}.py declares the table {spec.name}")
        declared[spec.name] = spec
    order = TopologicalSorter({name: spec.upstream for name, spec in declared.items()})
    return {name: declared[name] for name in order.static_order()}
