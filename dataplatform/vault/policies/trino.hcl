# Trino: its own keys to the store and to PostgreSQL, and what only it knows.
path "dataplatform/data/minio/trino" {
  capabilities = ["read"]
}
path "dataplatform/data/postgres/trino" {
  capabilities = ["read"]
}
path "dataplatform/data/trino/*" {
  capabilities = ["read"]
}
# By which others sign in to it: of a password it needs the hash only.
path "dataplatform/data/trino/platform" {
  capabilities = ["deny"]
}
