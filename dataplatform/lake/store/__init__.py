"""The object store: a folder, or a server that speaks S3."""
