"""A self-hosted lakehouse on Dagster: raw files, Spark-built Iceberg tables, SQL views."""
