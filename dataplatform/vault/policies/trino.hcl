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
