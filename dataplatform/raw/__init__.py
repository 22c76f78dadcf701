"""Raw files in the bucket `datalake`: one `Endpoint` declaration an API endpoint, and the inbox."""
