"""The Spark session of the local profile: one JVM in this process, one session a lake."""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dataplatform.lake.jvm import find_java, spark_jars
from dataplatform.versions import SPARK_JARS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def local_conf(memory: str, jars: Mapping[str, str] = SPARK_JARS) -> dict[str, str]:
    """Return the settings of an embedded Spark.

    Args:
        memory: heap of the JVM, such as `1g`.
        jars: what the lake needs: Maven coordinate → SHA-256.
    """
    return {
        "spark.app.name": "dataplatform",
        "spark.master": "local[*]",
        "spark.driver.memory": memory,
        # On the class path rather than spark.jars, which copies 60 MB at every start.
        "spark.driver.extraClassPath": ":".join(str(jar) for jar in spark_jars(jars)),
        # 171,000 rows took 14.6 s with these flags, 20.4 s without.
        # The code cache would be 48 MB; after some 90 builds it was full, and compiling ended for good.
        "spark.driver.extraJavaOptions": (
            "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC -Xshare:auto"
        ),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.extensions": (
            "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        ),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
        # pandas writes time stamps in ns; refusing them would refuse the file's other columns too.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.log.level": "ERROR",
    }


def prepare_environment() -> None:
    """Point pyspark at a usable Java before its first import of the gateway."""
    os.environ["JAVA_HOME"] = str(find_java())
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # Where `python3` is another version than this one, Python functions in Spark would not load.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def lake_session(spark: "SparkSession", lake_conf: Mapping[str, str]) -> "SparkSession":
    """Return a session of `spark`'s JVM that sees the lake of `lake_conf` and no other."""
    session = spark.newSession()
    for name, value in lake_conf.items():
        session.conf.set(name, value)
    return session
