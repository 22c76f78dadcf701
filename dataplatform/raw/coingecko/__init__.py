"""CoinGecko's endpoints: one module each, found by name.

Field types and bounds follow the official OpenAPI; the oddities were measured in real answers:
numbers come as ints and floats mixed, `roi` is null or an object, ranks and supplies may be null.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from dataplatform.lake.api.endpoint import Endpoint


@cache
def api_endpoints() -> dict[str, Endpoint]:
    """Return every declared endpoint of the API by name, in alphabetical order.

    Raises:
        ValueError: a module declares an endpoint under another name than its own.
    """
    declared = {}
    for module in sorted(iter_modules(__path__), key=lambda found: found.name):
        endpoint: Endpoint = import_module(f"{__name__}.{module.name}").endpoint
        # `global` can't name a module that is imported: it is a word of Python.
        if endpoint.name != module.name.removesuffix("_"):
            raise ValueError(f"{module.name}.py declares the endpoint {endpoint.name}")
        declared[endpoint.name] = endpoint
    return declared
