"""Raw files in the bucket `datalake`: what CoinGecko answers, and what is dropped in the inbox."""

from functools import cache

from dataplatform.lake.api.endpoint import Endpoint


@cache
def all_endpoints() -> dict[str, Endpoint]:
    """Return everything that lands raw files, by name: the API's endpoints, then the inbox."""
    # Imported here: both are part of this package.
    from dataplatform.raw.coingecko import api_endpoints
    from dataplatform.raw.inbox import inbox

    return {**api_endpoints(), inbox.name: inbox}
