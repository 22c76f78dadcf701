# The rotation job: writes what the others read. The administrators' secrets it only reads.
path "dataplatform/data/minio/root" {
  capabilities = ["read"]
}
path "dataplatform/data/minio/kms" {
  capabilities = ["read"]
}
path "dataplatform/data/postgres/superuser" {
  capabilities = ["read"]
}
path "dataplatform/data/minio/platform" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/minio/trino" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/minio/catalog" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/minio/inbox" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/postgres/dagster" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/postgres/catalog" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/postgres/trino" {
  capabilities = ["create", "read", "update"]
}
path "dataplatform/data/coingecko" {
  capabilities = ["create", "read", "update"]
}
# What is about to become the current secret.
path "dataplatform/data/rotation/*" {
  capabilities = ["create", "read", "update"]
}
# Which version is the last.
path "dataplatform/metadata/rotation/*" {
  capabilities = ["read"]
}
# And when a secret was rotated; not how many versions are kept, nor for how long.
path "dataplatform/metadata/minio/platform" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/minio/trino" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/minio/catalog" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/minio/inbox" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/postgres/dagster" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/postgres/catalog" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/postgres/trino" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
path "dataplatform/metadata/coingecko" {
  capabilities = ["read", "update"]
  allowed_parameters = {
    "custom_metadata" = []
  }
}
