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

HADOOP_VERSION: Final = "3.3.4"
"""The one inside pyspark: its S3A must be of the same release."""

S3_JARS: Final[dict[str, str]] = {
    # S3FileIO, by which Iceberg reads and writes tables in S3.
    f"org.apache.iceberg:iceberg-aws-bundle:{ICEBERG_VERSION}": "dd7e49ffa4ac9b215bed846581991259e3aec9bb2fa08d6cec029c46cd66d957",
    # S3A, by which Spark reads raw files, and the 4 MB of the AWS SDK that it loads: the bundle of
    # all services has 281. Of DynamoDB it only wants the class of an exception.
    f"org.apache.hadoop:hadoop-aws:{HADOOP_VERSION}": "53f9ae03c681a30a50aa17524bd9790ab596b28481858e54efd989a826ed3a4a",
    "com.amazonaws:aws-java-sdk-core:1.12.262": "06fed99f929c389e168278c1b111aaf1afb270d07202fbbce92e73d1e4279678",
    "com.amazonaws:aws-java-sdk-s3:1.12.262": "a0cb7580178bc0d4d3558295a5bb890008478da8a6b3241989c71238b0ed3be5",
    "com.amazonaws:aws-java-sdk-dynamodb:1.12.262": "7af4ba06d0d9b3c2ab435089caecd0567810d203aa285f7aa72861f1964d442e",
    "com.amazonaws:jmespath-java:1.12.262": "9001ea993a45d82a2d3086edcbda8a40b4e012d049a70fbf071fd329c0fbd777",
}

# The servers of the profile `stack`, where one machine runs them all. Digests of what comes as a
# wheel, and of the seventy jars of the REST catalog, are in dataplatform/stack/locks/.
TRINO_SERVER_VERSION: Final = "470"
"""Maven Central does not serve 469's server; the SQL and the configuration are valid for both."""
TRINO_SERVER: Final[dict[str, str]] = {
    f"io.trino:trino-server:{TRINO_SERVER_VERSION}@tar.gz": "16618db7c176d6c687f5782b97ec49c4a7beeab8f1f3edbd3f2c7b79d0b014ca",
}
TRINO_JAVA_VERSION: Final = "25.0.2.1"
OPENBAO_VERSION: Final = "2.7.2"
CATALOG_ICEBERG_VERSION: Final = "1.10.1"
"""Of the REST catalog, whose jars are in `stack/locks/catalog-jars.txt`."""
POSTGRES_VERSION: Final = "18"
POSTGRES_WHEEL_VERSION: Final = "0.6.0"
MINIO_VERSION: Final = "v0.0.0-20260212201848-7aac2a2c5b7c"
VERSITYGW_VERSION: Final = "v1.8.0"
"""Another S3 server, for the tests only."""
MC_VERSION: Final = "v0.0.0-20250313080218-cf909e1063a9"
"""MinIO's client, which no server needs: for the tests, and for `dp stack install --mc`."""
GO_VERSION: Final = "1.27.3"
JAVA_COMPILER: Final[dict[str, str]] = {
    "org.eclipse.jdt:ecj:3.40.0": "05cc22a24e7982970f63a405fc6c820bc80b806f27f3c5a6236fc475f8f7152b",
}
