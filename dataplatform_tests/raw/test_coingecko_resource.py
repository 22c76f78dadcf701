import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from dataplatform.lake.api.errors import PermanentApiError
from dataplatform.profiles import Settings
from dataplatform.resources.coingecko import TIERS, CoinGeckoResource
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault

KEY = "CG-verysecretkey123"
PASSWORD = "horse battery staple"


@pytest.fixture
def pro() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer(host="pro", key=KEY) as running:
        yield running
        assert running.violations == []


def resource(tmp_path: Path, url: str | None, **fields: Any) -> CoinGeckoResource:
    return CoinGeckoResource(base_url=url, state_folder=str(tmp_path), **fields)


@pytest.mark.parametrize(
    ("tier", "host", "header"),
    [
        ("keyless", "https://api.coingecko.com/api/v3", None),
        ("demo", "https://api.coingecko.com/api/v3", "x-cg-demo-api-key"),
        ("pro", "https://pro-api.coingecko.com/api/v3", "x-cg-pro-api-key"),
    ],
)
def test_host_and_header_follow_the_tier(
    tmp_path: Path, tier: str, host: str, header: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    client = resource(tmp_path, None, tier=tier).client
    assert client.base_url == host
    assert client.secret_headers == ({header: KEY} if header else {})


def test_the_tier_is_demo_where_there_is_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resource(tmp_path, None).tier_in_force == "keyless"
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    assert resource(tmp_path, None).tier_in_force == "demo"


def test_an_unknown_tier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keyless, demo or pro"):
        _ = resource(tmp_path, None, tier="gold").rules


def test_settings_become_fields_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    monkeypatch.setenv("DATAPLATFORM_COINS", "bitcoin, monero")
    made = CoinGeckoResource.from_settings(Settings())
    assert made.coins == ["bitcoin", "monero"]
    assert KEY not in repr(made) + made.model_dump_json()


def test_a_proxy_gets_its_password_and_dagster_does_not(
    tmp_path: Path, server: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = server.url.replace("://", f"://me:{quote(PASSWORD)}@")
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_BASE_URL", whole)
    monkeypatch.setenv("DATAPLATFORM_HOME", str(tmp_path))
    made = CoinGeckoResource.from_settings(Settings())
    assert made.base_url == server.url
    server.script(Fault.error(401, {"error": f"{PASSWORD} or {quote(PASSWORD)}?"}))
    told = made.ping().detail
    told += made.ping().detail
    sent = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert {seen.headers["authorization"] for seen in server.seen} == {f"Basic {sent}"}
    for text in (told, repr(made.client), repr(Settings()), repr(made), made.model_dump_json()):
        assert PASSWORD not in text
        assert quote(PASSWORD) not in text
    # Somebody else's proxy gets nobody's password.
    assert resource(tmp_path, "http://127.0.0.1:1").client.base_url == "http://127.0.0.1:1"


@pytest.mark.parametrize("address", ["http://me:pa%20ss@proxy", "http://me:pa/ss@proxy"])
def test_a_password_in_the_field_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValidationError, match="DATAPLATFORM_COINGECKO_BASE_URL") as caught:
        CoinGeckoResource(base_url=address)
    assert "ss@" not in str(caught.value)
    assert "ss@" not in repr(caught.value)


def test_limits_of_a_pro_key_come_from_the_api_once_an_hour_for_all(
    tmp_path: Path, pro: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    pro.rate_per_minute = 30_000
    for _ in range(2):
        resource(tmp_path, pro.url, tier="pro").fetch("/ping")
    assert pro.paths() == ["/key", "/ping", "/ping"]
    budget = resource(tmp_path, pro.url, tier="pro").budget()
    assert budget.per_minute == 30_000
    # /key said 499,999 after itself; two more calls were counted here.
    assert budget.remaining == 500_000 - 1 - 2


def test_a_configured_rate_is_left_alone(
    tmp_path: Path, pro: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    resource(tmp_path, pro.url, tier="pro", calls_per_minute=60_000).fetch("/ping")
    assert pro.paths() == ["/ping"]


def test_demo_counts_against_its_month(
    tmp_path: Path, server: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    made = resource(tmp_path, server.url, tier="demo", calls_per_minute=60_000)
    made.fetch("/ping")
    assert made.budget().remaining == 10_000 - 1
    assert made.key_usage() is None


def test_tiers_have_budgets_of_their_own(
    tmp_path: Path, server: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    resource(tmp_path, server.url, tier="demo", calls_per_minute=60_000).fetch("/ping")
    assert resource(tmp_path, server.url, tier="keyless").budget().calls_this_month == 0
    assert resource(tmp_path, server.url, tier="keyless").budget().per_minute == 5
    assert TIERS["demo"].calls_per_minute == 30


@pytest.mark.parametrize(
    ("host", "tier", "code"),
    [("demo", "pro", 10010), ("pro", "demo", 10011), ("pro", "pro", 10002)],
)
def test_keys_for_the_other_host_are_explained(
    tmp_path: Path, host: Any, tier: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY if code != 10002 else "CG-other")
    with CoinGeckoServer(host=host, key=KEY) as server:
        made = resource(tmp_path, server.url, tier=tier, calls_per_minute=60_000)
        with pytest.raises(PermanentApiError) as caught:
            made.fetch("/ping")
    assert caught.value.code == code
    assert len(server.seen) == 1


@pytest.mark.parametrize("tier", ["demo", "pro"])
@pytest.mark.parametrize("key", [None, ""])
def test_a_tier_without_its_key_asks_nobody(
    tmp_path: Path,
    server: CoinGeckoServer,
    tier: str,
    key: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if key is not None:
        monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", key)
    told = resource(tmp_path, server.url, tier=tier).ping()
    assert told.refused
    assert "this tier needs a key" in told.detail
    assert "set DATAPLATFORM_COINGECKO_API_KEY, or" in told.detail
    assert server.seen == []


def test_ping_tells_an_api_from_a_silence(tmp_path: Path, server: CoinGeckoServer) -> None:
    made = resource(tmp_path, server.url)
    assert made.ping().reachable
    server.script(Fault.error(429, {"status": {"error_code": 429, "error_message": "x"}}))
    assert made.ping().reachable
    server.script(Fault(status=403, body=b"<html>this proxy forbids it</html>"))
    assert not made.ping().reachable
    server.script(Fault(status=200, body=b'{"welcome":"to the hotel"}'))
    assert not made.ping().reachable
    nobody = resource(tmp_path, "http://127.0.0.1:1").ping()
    assert not nobody.reachable
    assert "ConnectError" in nobody.detail
    assert len(server.seen) == 4


def test_a_bad_key_is_no_silence(
    tmp_path: Path, server: CoinGeckoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", "CG-two words")
    told = resource(tmp_path, server.url).ping()
    assert told.reachable
    assert "set the key again" in told.detail
    monkeypatch.setenv("DATAPLATFORM_COINGECKO_API_KEY", KEY)
    server.script(Fault.error(401, {"error": "invalid key"}))
    assert resource(tmp_path, server.url).ping().reachable
