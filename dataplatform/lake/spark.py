"""Spark sessions: one JVM in this process, or the one that spark-submit started; one session a lake."""

import os
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from dataplatform.lake.jvm import find_java, spark_jars
from dataplatform.versions import SPARK_JARS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from dataplatform.lake.place import LakePlace

ENGINE_CONF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "spark.sql.extensions": (
            "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        ),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.sources.parallelPartitionDiscovery.threshold": "100000",
        # pandas writes time stamps in ns; refusing them would refuse the file's other columns too.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.ui.showConsoleProgress": "false",
        # The default knows neither OAuth2's `credential` nor `access-key`: the UI and the event log
        # would show what sessions are set up with.
        "spark.redaction.regex": "(?i)secret|password|passwd|token|credential|access[.-]?key",
    }
)
"""What tables need of every Spark, wherever it runs."""


def local_conf(memory: str, jars: Mapping[str, str] = SPARK_JARS) -> dict[str, str]:
    """Return the settings of an embedded Spark.

    Args:
        memory: heap of the JVM, such as `1g`.
        jars: what the lake needs: Maven coordinate → SHA-256.
    """
    return {
        **ENGINE_CONF,
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
        "spark.sql.shuffle.partitions": "2",
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


def start_session(place: "LakePlace", memory: str) -> "SparkSession":
    """Return a session that sees a lake, in this process's only JVM.

    Under spark-submit its configuration holds: master, jars, memory and `ENGINE_CONF` are given
    there. Only the lake is added, whose keys may stand in no manifest.

    Args:
        place: the lake.
        memory: heap of the JVM, where this process has to start one.
    """
    from pyspark.sql import SparkSession

    lake_conf = place.spark_conf()
    if is_submitted():
        conf = _of_context(lake_conf)
    else:
        prepare_environment()
        conf = local_conf(memory, place.spark_jars)
    return lake_session(SparkSession.builder.config(map={**conf}).getOrCreate(), lake_conf)


def _of_context(lake_conf: Mapping[str, str]) -> dict[str, str]:
    """Return a lake's settings as those of a Spark context.

    Spark writes its event log by them, and hides in it only what it knows of its context: each job is
    logged with the settings of its session, and of those of sessions alone every value is shown.
    """
    hadoop = {f"spark.hadoop.{k}": v for k, v in lake_conf.items() if k.startswith("fs.s3a.")}
    return hadoop | {k: v for k, v in lake_conf.items() if k.startswith("spark.")}


def is_submitted() -> bool:
    """Whether spark-submit started this process, and a JVM before it."""
    return "PYSPARK_GATEWAY_PORT" in os.environ
