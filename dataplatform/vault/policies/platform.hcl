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
# By which Trino is asked, where it wants a password or a token.
path "dataplatform/data/catalog/platform" {
  capabilities = ["read"]
}
path "dataplatform/data/trino/platform" {
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
# Logins of the reader are renewed and given back at once by those who know their ids: the end of a
# token ends its leases too, but later.
path "sys/leases/renew" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id"  = ["database/creds/reader/*"]
    "increment" = []
  }
}
path "sys/leases/revoke" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id" = ["database/creds/reader/*"]
    "sync"     = []
  }
}
