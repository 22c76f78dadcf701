# Dagster's processes: what a run needs, and nothing that grants more.
path "dataplatform/data/minio/platform" {
  capabilities = ["read"]
}
path "dataplatform/data/postgres/dagster" {
  capabilities = ["read"]
}
path "dataplatform/data/coingecko" {
  capabilities = ["read"]
}
path "database/creds/reader" {
  capabilities = ["read"]
}
path "transit/encrypt/dataplatform" {
  capabilities = ["update"]
}
path "transit/decrypt/dataplatform" {
  capabilities = ["update"]
}
# Leases are renewed and given back by those who know their ids.
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
