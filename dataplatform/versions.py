"""The versions of everything that is not a Python package: raise one here and nowhere else."""

from typing import Final

SPARK_VERSION: Final = "3.5.0"
SCALA_VERSION: Final = "2.12"
TRINO_VERSION: Final = "469"
ICEBERG_VERSION: Final = "1.12.0"
SQLITE_JDBC_VERSION: Final = "3.54.1.0"

SPARK_JARS: Final[dict[str, str]] = {
    # Maven coordinate -> SHA-256 of the jar. Iceberg 1.11+ is class version 61: it needs Java 17.
    f"org.apache.iceberg:iceberg-spark-runtime-3.5_{SCALA_VERSION}:{ICEBERG_VERSION}": "8dd8c90e54ed1a20f2461309d047a255ee56382eb7c0a46162b27a4936fd86dc",
    f"org.xerial:sqlite-jdbc:{SQLITE_JDBC_VERSION}": "f8dce420a6016278497f4f0560f65602b9db858de141b541cf91a4644ebe4639",
}

S3_JARS: Final[dict[str, str]] = {
    # Iceberg's S3FileIO for tables, Hadoop's S3A for raw files.
}
