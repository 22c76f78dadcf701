"""Asks Trino something that takes for ever, in a run of Dagster or plainly; ended by a signal."""

import sys

from dagster import AssetExecutionContext, asset, materialize

from dataplatform.lake.trino.client import TrinoClient, TrinoServer
from dataplatform.resources.trino import TrinoResource

LONG = "SELECT count(*) FROM tpch.sf1000.lineitem AS a CROSS JOIN tpch.sf1000.lineitem AS b"


@asset
def endless(context: AssetExecutionContext, trino: TrinoResource) -> None:
    trino.query(LONG)


if __name__ == "__main__":
    way, url, source = sys.argv[1:]
    if way == "dagster":
        resource = TrinoResource(url=url, catalog="lake", source=source)
        materialize([endless], resources={"trino": resource})
    else:
        TrinoClient(TrinoServer(url, "dagster", "lake", source)).query(LONG)
