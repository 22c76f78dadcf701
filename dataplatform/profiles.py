"""Which machine stands behind each name: the settings, read from the environment.

Nothing here asks the network or makes a folder; a path is a plain value until a resource uses it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dataplatform.addresses import CatalogAddress, PostgresAddress, ServerAddress
from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import LakePlace, LakeServers, LocalLake, ServerLake

Profile = Literal["local", "stack", "cluster"]
Tier = Literal["keyless", "demo", "pro"]
TrinoAuth = Literal["none", "password", "jwt"]
CatalogAuth = Literal["none", "oauth2"]
VaultAuth = Literal["token", "approle", "kubernetes", "userpass"]

ORIGIN_TAG: Final = "dataplatform/origin"
"""The run tag that says which lake a run works on."""

DEFAULT_COINS = (
    "bitcoin",
    "ethereum",
    "tether",
    "solana",
    "ripple",
    "binancecoin",
    "cardano",
    "chainlink",
    "litecoin",
    "polkadot",
)


class Settings(BaseSettings):
    """Everything a user may set, each as `DATAPLATFORM_<NAME>` or in a `.env` file.

    Attributes:
        profile: local (embedded), stack (real servers, one machine) or cluster (Kubernetes).
        origin: live or recorded; unset, the lake that `dp run` used last, else live.
        home: where the local profile keeps its state.
        coins: CoinGecko ids whose history is fetched, comma-separated in the environment.
        vs_currency: the currency of prices.
        markets_pages: read at most this many pages of /coins/markets; unset, until the end.
        coingecko_tier: keyless, demo or pro; unset, demo where there is a key, else keyless.
        coingecko_api_key: the key on `local`; it travels in a header only and is never logged. On
            servers it is the secret `coingecko` in Vault.
        coingecko_base_url: another address of the API, for a test or a proxy, whose user and password
            may stand in it.
        coingecko_calls_per_minute: the budget; unset, the tier's default.
        spark_memory: heap of a Spark driver in this process.
        s3_endpoint: the object store, such as `http://127.0.0.1:9000`.
        s3_region: what the store calls its region; MinIO takes any.
        catalog_uri: the Iceberg REST catalog; `{origin}` stands for live or recorded.
        catalog_auth: none, or oauth2 with the secret `catalog/platform`.
        trino_url: Trino's coordinator.
        trino_user: as whom it is asked; with `password`, the secret says.
        trino_auth: how to sign in: none, password or jwt; the secret is `trino/platform`.
        trino_ca_file: the authority that signed its certificate; unset, the system's.
        postgres_url: PostgreSQL, without user, password and database; `?sslmode=verify-full` and
            other options of libpq may follow.
        vault_addr: Vault, which holds the secrets of all profiles but local.
        vault_auth: how to log in to it.
        vault_role_id: the AppRole, the Kubernetes role or the user name to log in as.
        vault_credential_file: the file with the secret id, the token, the JWT or the password.
        vault_rotation_credential_file: the same for the role `rotation`, which changes the others'.
        vault_ca_file: the authority that signed Vault's certificate; unset, the system's.
        step_pod_jobs: on the profile cluster, jobs whose every step gets a pod of its own,
            comma-separated; the others run in the one of their run.
        secrets_dir: where secrets are mounted as files, one a value; set, Vault is not asked. So it
            is in the pods of Spark, which have no login to Vault.

    On the profile stack, what is unset from `s3_endpoint` on is what `dp stack up` started.
    """

    model_config = SettingsConfigDict(
        env_prefix="DATAPLATFORM_",
        env_file=".env",
        extra="ignore",
        # A value that is refused may hold a password.
        hide_input_in_errors=True,
    )

    profile: Profile = "local"
    origin: Origin | None = None
    home: Path = Path(".dataplatform")
    coins: Annotated[tuple[str, ...], NoDecode] = DEFAULT_COINS
    vs_currency: str = "usd"
    markets_pages: Annotated[int, Field(ge=1)] | None = None
    coingecko_tier: Tier | None = None
    coingecko_api_key: SecretStr | None = None
    coingecko_base_url: Annotated[str | None, Field(repr=False)] = None
    coingecko_calls_per_minute: Annotated[float, Field(gt=0)] | None = None
    spark_memory: str = "1g"
    s3_endpoint: ServerAddress | None = None
    s3_region: str = "us-east-1"
    catalog_uri: CatalogAddress | None = None
    catalog_auth: CatalogAuth = "none"
    trino_url: ServerAddress | None = None
    trino_user: str = "dataplatform"
    trino_auth: TrinoAuth = "none"
    trino_ca_file: Path | None = None
    postgres_url: PostgresAddress | None = None
    vault_addr: ServerAddress | None = None
    vault_auth: VaultAuth = "approle"
    vault_role_id: str | None = None
    vault_credential_file: Path | None = None
    vault_rotation_credential_file: Path | None = None
    vault_ca_file: Path | None = None
    step_pod_jobs: Annotated[tuple[str, ...], NoDecode] = ()
    secrets_dir: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add, after all others, the addresses of the servers that `dp stack up` started."""
        stack = StackEndpoints(settings_cls)
        return init_settings, env_settings, dotenv_settings, file_secret_settings, stack

    @field_validator("coins", "step_pod_jobs", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @property
    def state(self) -> Path:
        """Where this profile keeps its state; the local one's may be older than the others."""
        return self.home if self.profile == "local" else self.home / self.profile


class StackEndpoints(PydanticBaseSettingsSource):
    """The addresses that `dp stack up` wrote down, for the profile stack."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing for a single field: the file is read as one."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return what the file says, where the profile is stack and the file is there."""
        if self.current_state.get("profile") != "stack":
            return {}
        home = Path(self.current_state.get("home") or Settings.model_fields["home"].default)
        file = home / "stack" / ENDPOINTS
        return json.loads(file.read_text()) if file.exists() else {}


ENDPOINTS: Final = "endpoints.json"


def lake_place(settings: Settings, origin: Origin | None = None) -> LakePlace:
    """Return the lake that the settings name; nothing is opened yet.

    Args:
        settings: profile, home and addresses.
        origin: live or recorded; None, what the settings say, else the one used last.
    """
    chosen = origin or settings.origin
    if settings.profile == "local":
        return LocalLake(settings.home, chosen)
    return ServerLake(settings.state, chosen, lambda: _servers(settings))


def _servers(settings: Settings) -> LakeServers:
    from dataplatform.resources.servers import find_servers

    return find_servers(settings)
