# The Iceberg REST catalog: its database and its keys to the store.
path "dataplatform/data/minio/catalog" {
  capabilities = ["read"]
}
path "dataplatform/data/postgres/catalog" {
  capabilities = ["read"]
}
