"""CoinGecko as a resource: tier, budget and what to ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import ConfigurableResource
from pydantic import ConfigDict, Field, field_validator

from dataplatform.lake.api.errors import without_userinfo
from dataplatform.profiles import DEFAULT_COINS, Settings, Tier, lake_place

if TYPE_CHECKING:
    from dataplatform.lake.api.budget import BudgetStatus, SharedBudget
    from dataplatform.lake.api.client import ApiClient, Response

RELEARN_SECONDS: Final = 3600.0
"""How long what `/key` said about a pro key's limits is taken as true."""
PING_SECONDS: Final = 5.0


@dataclass(frozen=True)
class TierRules:
    """What one tier of the API is: host, header of the key, and limits before any adaptation."""

    base_url: str
    header: str | None
    calls_per_minute: float
    calls_per_month: int | None


# Keyless is shared by everybody behind one address: others measured 20 of 20 calls answered at one
# every 20 s, 11 of 20 at one every 10 s. Demo: sources differ, 30 to 100. Pro: `/key` says.
TIERS: Final[Mapping[Tier, TierRules]] = {
    "keyless": TierRules("https://api.coingecko.com/api/v3", None, 5, None),
    "demo": TierRules("https://api.coingecko.com/api/v3", "x-cg-demo-api-key", 30, 10_000),
    "pro": TierRules("https://pro-api.coingecko.com/api/v3", "x-cg-pro-api-key", 250, None),
}


@dataclass(frozen=True)
class KeyUsage:
    """What the API says about a pro key."""

    plan: str
    calls_per_minute: float
    calls_per_month: int
    used: int
    remaining: int


@dataclass(frozen=True)
class Reachability:
    """Whether the API answers from here; `detail` says why not, or what is wrong with the key.

    `refused`: it answers, and no other request will fare better before a person mends something.
    """

    reachable: bool
    detail: str
    refused: bool = False


class CoinGeckoResource(ConfigurableResource):
    """The CoinGecko API.

    Secrets are no fields: Dagster keeps a resource's fields in its database. The key is read from
    `DATAPLATFORM_COINGECKO_API_KEY` (or `.env`), on servers from Vault, when the first request is
    made, and so are a proxy's user and password, from `DATAPLATFORM_COINGECKO_BASE_URL`.

    Attributes:
        tier: keyless, demo or pro; None, demo where there is a key, else keyless.
        base_url: another address of the API, for a test or a proxy, without user and password.
        calls_per_minute: the budget; None, the tier's own.
        profile: local, stack or cluster: where the budget that all processes share is kept.
        state_folder: the folder of its file, on `local`.
        coins: ids whose history is fetched.
        vs_currency: the currency of prices.
        markets_pages: read at most this many pages of /coins/markets; None, until the end.
        read_timeout: seconds to wait for the next bytes of an answer.
        total_timeout: seconds for all attempts at one request together.
    """

    # What is refused is not repeated in the refusal.
    model_config = ConfigDict(hide_input_in_errors=True)

    # Dagster's config knows no Literal.
    tier: str | None = None
    base_url: str | None = None
    calls_per_minute: float | None = None
    profile: str = "local"
    state_folder: str = ".dataplatform"
    coins: list[str] = Field(default_factory=lambda: list(DEFAULT_COINS))
    vs_currency: str = "usd"
    markets_pages: int | None = None
    read_timeout: float = 30.0
    total_timeout: float = 600.0

    @field_validator("base_url")
    @classmethod
    def _refuse_secrets(cls, value: str | None) -> str | None:
        if value is not None and "@" in value:
            raise ValueError(
                "Dagster would store the user and password in this address. Remedy: give both in"
                " DATAPLATFORM_COINGECKO_BASE_URL only, their / and @ percent-encoded."
            )
        return value

    @classmethod
    def from_settings(cls, settings: Settings) -> "CoinGeckoResource":
        """Describe the API as the settings say; what is secret stays there."""
        address = settings.coingecko_base_url
        return cls(
            tier=settings.coingecko_tier,
            base_url=without_userinfo(address) if address else None,
            calls_per_minute=settings.coingecko_calls_per_minute,
            profile=settings.profile,
            state_folder=str(settings.home),
            coins=list(settings.coins),
            vs_currency=settings.vs_currency,
            markets_pages=settings.markets_pages,
        )

    @cached_property
    def tier_in_force(self) -> Tier:
        """The tier asked for, else what the presence of a key says.

        Raises:
            SecretError: on servers, Vault does not say whether there is one.
        """
        if self.tier is None:
            return "demo" if _api_key(Settings()) else "keyless"
        if self.tier not in ("keyless", "demo", "pro"):
            raise ValueError(f"the tier is keyless, demo or pro, not {self.tier!r}")
        return self.tier

    @property
    def rules(self) -> TierRules:
        """Host, header and limits of the tier in force."""
        return TIERS[self.tier_in_force]

    @cached_property
    def client(self) -> "ApiClient":
        """The HTTP client, made when first used.

        Raises:
            PermanentApiError: the tier's key is missing, or no header can carry it.
        """
        from dataplatform.lake.api.client import ApiClient, Patience

        patience = Patience(read=self.read_timeout, total=self.total_timeout)
        return ApiClient(self._address, self._shared_budget, self._secret_headers(), patience)

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> "Response":
        """Return the answer to a GET; see `ApiClient.fetch`."""
        self._learn_limits()
        return self.client.fetch(path, params)

    def ping(self) -> Reachability:
        """Ask whether the API is there: one short try, not paced, not retried.

        Raises:
            BudgetError: the try can't be counted, so it says nothing about the API.
        """
        from dataplatform.lake.api.client import json_of
        from dataplatform.lake.api.errors import ApiError, PermanentApiError

        try:
            answer = json_of(self.client.fetch_once("/ping", timeout=PING_SECONDS))
        except ApiError as error:
            # The API's own refusal comes from the API, and a key that can't even be sent says
            # nothing about the network; a proxy's page or a silence does.
            permanent = isinstance(error, PermanentApiError)
            key_is_bad = permanent and error.status is None
            spoke = key_is_bad or error.code is not None or error.status in (401, 429)
            return Reachability(spoke, str(error), refused=spoke and permanent)
        there = isinstance(answer, dict) and "gecko_says" in answer
        return Reachability(
            there, f"{without_userinfo(self._address)} answers" + ("" if there else " strangely")
        )

    def key_usage(self) -> KeyUsage | None:
        """Return what the API says about a pro key; None for other tiers, which have no `/key`."""
        from dataplatform.lake.api.client import json_of

        if self.tier_in_force != "pro":
            return None
        return _key_usage(json_of(self.client.fetch("/key")))

    def budget(self) -> "BudgetStatus":
        """Return the calls used this minute and month, the limits, and what is left.

        Raises:
            BudgetError: on servers, PostgreSQL is away, or not set up for it.
        """
        return self._shared_budget.status()

    @cached_property
    def _address(self) -> str:
        """The API's address, with what the settings' one holds beyond the field."""
        whole = Settings().coingecko_base_url
        if whole and without_userinfo(whole) == self.base_url:
            return whole
        return self.base_url or self.rules.base_url

    @cached_property
    def _shared_budget(self) -> "SharedBudget":
        from urllib.parse import urlsplit

        from dataplatform.lake.api.budget import SharedBudget

        home = Path(self.state_folder)
        place = lake_place(Settings.model_validate({"profile": self.profile, "home": home}))
        return SharedBudget(
            place.budget_store(),
            f"{self.tier_in_force}@{urlsplit(self._address).hostname}",
            self.calls_per_minute or self.rules.calls_per_minute,
            self.rules.calls_per_month,
        )

    def _secret_headers(self) -> dict[str, str]:
        from dataplatform.lake.api.errors import PermanentApiError

        if self.rules.header is None:
            return {}
        settings = Settings()
        key = _api_key(settings)
        if not key:
            own = "put it into Vault at `coingecko`"
            own = "set DATAPLATFORM_COINGECKO_API_KEY" if settings.profile == "local" else own
            raise PermanentApiError(
                f"CoinGecko API ({self.tier_in_force})",
                "this tier needs a key, and none is set",
                f"{own}, or DATAPLATFORM_COINGECKO_TIER=keyless",
            )
        return {self.rules.header: key.strip()}

    def _learn_limits(self) -> None:
        """Ask `/key` once an hour, whichever process comes first; a set rate is left alone."""
        wanted = self.tier_in_force == "pro" and self.calls_per_minute is None
        if wanted and not self._shared_budget.learned_within(RELEARN_SECONDS):
            usage = self.key_usage()
            if usage is not None:
                self._shared_budget.learn(usage.calls_per_minute, usage.remaining)


def _api_key(settings: Settings) -> str | None:
    """Return the key: the environment's in the profile local, elsewhere Vault's."""
    if settings.profile == "local":
        key = settings.coingecko_api_key
        return key.get_secret_value() if key else None
    from dataplatform.lake.secrets import SecretNotFoundError
    from dataplatform.resources.vault import open_secrets

    try:
        return open_secrets(settings).read("coingecko")["api_key"]
    except SecretNotFoundError:
        return None


def _key_usage(answer: Mapping[str, Any]) -> KeyUsage:
    # A key may be held below its plan; the smaller figure binds.
    plan_rate = float(answer["rate_limit_request_per_minute"])
    key_rate = float(answer.get("api_key_rate_limit_request_per_minute") or plan_rate)
    return KeyUsage(
        plan=str(answer["plan"]),
        calls_per_minute=min(plan_rate, key_rate),
        calls_per_month=int(answer["monthly_call_credit"]),
        used=int(answer["current_total_monthly_calls"]),
        remaining=int(answer["current_remaining_monthly_calls"]),
    )
