"""The simulated API holds both sides to the official description; here it is held to that."""

import httpx
import pytest

from dataplatform.lake.api.endpoint import Endpoint
from dataplatform.raw.coingecko import api_endpoints
from dataplatform_tests.coingecko_market import Market
from dataplatform_tests.coingecko_server import CoinGeckoServer, Host, schema_violations


@pytest.mark.parametrize("host", ["demo", "pro"])
@pytest.mark.parametrize("endpoint", api_endpoints().values(), ids=api_endpoints().keys())
def test_both_descriptions_know_what_is_declared(endpoint: Endpoint, host: Host) -> None:
    query = dict(endpoint.params)
    if endpoint.every == "partition":
        query |= {"from": "1795000000", "to": "1795086400"}
    if endpoint.page_size:
        query |= {"per_page": str(endpoint.page_size), "page": "1"}
    with CoinGeckoServer(host=host, now=lambda: 1_795_100_000.0) as server:
        answer = httpx.get(server.url + endpoint.path.replace("{id}", "bitcoin"), params=query)
    assert answer.status_code == 200
    assert server.violations == []


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("/coins/markets", "Missing parameter vs_currency"),
        ("/coins/markets?vs_currency=usd&order=best", "Invalid value for order"),
        ("/coins/list?with_platforms=true", "not in the description"),
        ("/nowhere", "no such path"),
    ],
)
def test_a_wrong_request_is_noted(path: str, wrong: str) -> None:
    with CoinGeckoServer() as server:
        answer = httpx.get(server.url + path)
    assert answer.status_code in (404, 422)
    if answer.status_code == 422 or wrong.startswith("no such"):
        assert wrong in server.violations[0]


def test_a_wrong_answer_is_noted() -> None:
    record = Market().record("bitcoin", 1, 1.8e9, "usd")
    assert schema_violations("demo", "/coins/markets", [record]) == []
    assert schema_violations("demo", "/coins/markets", [record | {"current_price": "much"}])
    del record["name"]
    assert schema_violations("demo", "/coins/markets", [record])


def test_the_same_seed_is_the_same_market() -> None:
    one, same, other = Market(seed=3), Market(seed=3), Market(seed=4)
    assert one.price("bitcoin", 1.8e9) == same.price("bitcoin", 1.8e9)
    assert one.price("bitcoin", 1.8e9) != other.price("bitcoin", 1.8e9)
