"""One place for versions: what is pinned elsewhere says the same."""

import tomllib
from importlib.metadata import version
from pathlib import Path

from dataplatform.stack.install import catalog_jars
from dataplatform.versions import (
    CATALOG_ICEBERG_VERSION,
    ICEBERG_VERSION,
    SPARK_JARS,
    SPARK_VERSION,
)

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def test_pyspark_is_pinned_to_the_version_of_spark() -> None:
    assert f"pyspark=={SPARK_VERSION}" in PROJECT["dependencies"]
    assert version("pyspark") == SPARK_VERSION


def test_iceberg_runtime_is_the_one_for_this_spark() -> None:
    minor = ".".join(SPARK_VERSION.split(".")[:2])
    runtimes = [jar for jar in SPARK_JARS if ":iceberg-spark-runtime-" in jar]
    assert [
        jar.split(":")[1].startswith(f"iceberg-spark-runtime-{minor}_") for jar in runtimes
    ] == [True]
    assert runtimes[0].endswith(f":{ICEBERG_VERSION}")


def test_the_rest_catalogs_jars_are_of_the_version_that_status_names() -> None:
    assert f"org.apache.iceberg:iceberg-core:{CATALOG_ICEBERG_VERSION}" in catalog_jars()
