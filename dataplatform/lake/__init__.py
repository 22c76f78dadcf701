"""What raw files, tables and views are made of: plain Python and Spark SQL, no Dagster."""
