"""Which machine stands behind each name: the settings, read from the environment.

Nothing here asks the network or makes a folder; a path is a plain value until a resource uses it.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dataplatform.lake.manifest import Origin

Profile = Literal["local", "stack", "cluster"]
Tier = Literal["keyless", "demo", "pro"]
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
        coingecko_api_key: the key; it travels in a header only and is never logged.
        coingecko_base_url: another address of the API, for a test or a proxy, whose user and password
            may stand in it.
        coingecko_calls_per_minute: the budget; unset, the tier's default.
        spark_memory: heap of the Spark driver in the local profile.
        vault_addr: Vault's address.
        vault_auth: token, approle, kubernetes or userpass.
        vault_role_id: AppRole's role id, the Kubernetes role or the user's name.
        vault_credential_file: holds the secret id, the password, the token or the JWT; mode 0600.
        vault_rotation_credential_file: the same for the role `rotation`, which rotates the others.
        vault_ca_file: the certificate authority of Vault's TLS.
    """

    model_config = SettingsConfigDict(env_prefix="DATAPLATFORM_", env_file=".env", extra="ignore")

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
    vault_addr: str | None = None
    vault_auth: VaultAuth = "approle"
    vault_role_id: str | None = None
    vault_credential_file: Path | None = None
    vault_rotation_credential_file: Path | None = None
    vault_ca_file: Path | None = None

    @field_validator("coins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(coin.strip() for coin in value.split(",") if coin.strip())
        return value

    @property
    def tier(self) -> Tier:
        """The API tier in force."""
        return self.coingecko_tier or ("demo" if self.coingecko_api_key else "keyless")


class LocalLake:
    """The folders of the embedded lakes, one an origin: live and recorded data never mix."""

    def __init__(self, home: Path, origin: Origin | None = None) -> None:
        """Describe the lakes below `home`; nothing is read or made yet."""
        self.home = home
        self._origin = origin

    @cached_property
    def origin(self) -> Origin:
        """The origin asked for, else the one that `dp run` used last, else live."""
        if self._origin is not None:
            return self._origin
        return "recorded" if self.remembered == "recorded" else "live"

    @property
    def remembered(self) -> str | None:
        """The origin that `dp run` used last; None before the first."""
        return self._memory.read_text().strip() if self._memory.exists() else None

    @property
    def holds_data(self) -> bool:
        """Whether a raw file or a table is in the lake in force."""
        folders = (self.datalake, self.warehouse)
        return any(path.is_file() for folder in folders for path in folder.rglob("*"))

    @property
    def _memory(self) -> Path:
        return self.home / "origin"

    def remember(self) -> None:
        """Make this origin the one that later commands use."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._memory.write_text(self.origin)

    @property
    def root(self) -> Path:
        """The folder of the lake in force."""
        return self.home.resolve() / self.origin

    @property
    def datalake(self) -> Path:
        """The bucket `datalake`: raw files."""
        return self.root / "datalake"

    @property
    def warehouse(self) -> Path:
        """The bucket `warehouse`: Iceberg tables."""
        return self.root / "warehouse"

    @property
    def catalog_db(self) -> Path:
        """The Iceberg catalog's SQLite file."""
        return self.root / "catalog.db"

    @property
    def views(self) -> Path:
        """The folder of deployed view definitions."""
        return self.root / "views"
