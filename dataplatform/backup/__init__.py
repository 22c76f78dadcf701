"""A backup of what the servers hold: Iceberg's catalog, Dagster, Vault, and the lake's objects."""
