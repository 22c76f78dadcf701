import json
import logging
import time
from pathlib import Path

import httpx
import pytest

from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import SqliteStore
from dataplatform.lake.api.client import ApiClient, Patience
from dataplatform.lake.api.errors import PermanentApiError, TransientApiError
from dataplatform_tests.coingecko_server import CoinGeckoServer, Fault
from dataplatform_tests.raw.conftest import Waits

SERVER_ERROR = {"status": 500, "error": "Internal Server Error"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault.error(500, SERVER_ERROR),
        Fault.error(502, {}),
        Fault.error(503, SERVER_ERROR),
        Fault.error(408, {"error": "timeout"}),
        Fault.error(429, {"status": {"error_code": 429, "error_message": "x"}}, retry_after="0"),
        Fault(kind="truncate"),
        Fault(kind="cut_json"),
        Fault(kind="reset"),
        Fault(kind="drip", delay=0.3),
        Fault(kind="late", delay=0.8),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_may_pass_is_tried_again(
    client: ApiClient, server: CoinGeckoServer, fault: Fault, waits: Waits
) -> None:
    server.script(fault)
    answer = client.fetch("/ping")
    assert json.loads(answer.body) == {"gecko_says": "(V3) To the Moon!"}
    assert server.paths() == ["/ping", "/ping"]
    assert len(waits) >= 1


def test_a_body_that_drips_for_ever_is_given_up(client: ApiClient, server: CoinGeckoServer) -> None:
    # Bytes come more often than the read timeout: only the limit for the whole answer ends it.
    server.script(Fault(kind="drip", delay=0.1, path="/coins/list"))
    began = time.monotonic()
    client.fetch("/coins/list")
    assert 0.9 < time.monotonic() - began < 4
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, {"error": {"status": {"error_code": 10012}}}), (404, {"error": "coin not found"})],
)
def test_what_needs_a_person_is_asked_once(
    client: ApiClient, server: CoinGeckoServer, status: int, body: object, waits: Waits
) -> None:
    server.script(Fault.error(status, body))
    with pytest.raises(PermanentApiError):
        client.fetch("/ping")
    assert len(server.seen) == 1
    assert waits == []


def test_retry_after_is_honoured(client: ApiClient, server: CoinGeckoServer, waits: Waits) -> None:
    server.script(Fault.error(503, SERVER_ERROR, retry_after="17"))
    client.fetch("/ping")
    assert waits == [17]


def test_attempts_are_bounded(client: ApiClient, server: CoinGeckoServer, waits: Waits) -> None:
    server.script(*[Fault()] * 10)
    with pytest.raises(TransientApiError, match="HTTP 500"):
        client.fetch("/ping")
    assert len(server.seen) == client.patience.attempts


def test_a_retry_after_beyond_patience_ends_it(
    client: ApiClient, server: CoinGeckoServer, waits: Waits
) -> None:
    server.script(Fault.error(503, SERVER_ERROR, retry_after="5000"))
    with pytest.raises(TransientApiError):
        client.fetch("/ping")
    assert len(server.seen) == 1
    assert waits == []


def test_a_429_slows_the_shared_budget(client: ApiClient, server: CoinGeckoServer) -> None:
    throttled = {"status": {"error_code": 429, "error_message": "x"}}
    server.script(Fault.error(429, throttled, retry_after="0"))
    client.fetch("/ping")
    status = client.budget.status()
    assert status.current_per_minute < 0.6 * status.per_minute


def test_every_attempt_is_counted(client: ApiClient, server: CoinGeckoServer) -> None:
    server.script(Fault(), Fault(kind="reset"))
    client.fetch("/ping")
    assert client.budget.status().calls_this_month == 3 == len(server.seen)


def test_nobody_listens(tmp_path: Path, waits: Waits) -> None:
    budget = SharedBudget(SqliteStore(tmp_path / "b.sqlite"), "x", 600_000)
    nowhere = ApiClient("http://127.0.0.1:1/api", budget, {}, Patience(attempts=2), sleep=waits)
    with pytest.raises(TransientApiError, match=r"ConnectError.*→.*recordings"):
        nowhere.fetch("/ping")
    with pytest.raises(TransientApiError, match="ConnectError"):
        nowhere.fetch_once("/ping")
    assert budget.status().calls_this_month == 0, "the API has seen none of them"


KEY = "CG-verysecretkey123"


def keyed(url: str, tmp_path: Path, waits: Waits) -> ApiClient:
    budget = SharedBudget(SqliteStore(tmp_path / "b.sqlite"), "x", 600_000)
    patience = Patience(read=0.3, attempts=2)
    return ApiClient(url, budget, {"x-cg-demo-api-key": KEY}, patience, sleep=waits)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.error(401, {"error": f"the key {KEY} is not known"}),
        Fault.error(500, {"error": f"failed for {KEY}"}),
        Fault(kind="reset"),
        Fault(kind="truncate"),
        Fault(kind="late", delay=0.6),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_the_key_is_in_no_message_and_no_log(
    server: CoinGeckoServer,
    tmp_path: Path,
    waits: Waits,
    fault: Fault,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    client = keyed(server.url, tmp_path, waits)
    server.script(fault, fault)
    with pytest.raises((PermanentApiError, TransientApiError)) as caught:
        client.fetch("/ping")
    assert server.seen[0].headers["x-cg-demo-api-key"] == KEY
    shown = [str(caught.value), repr(caught.value), repr(caught.value.__cause__), repr(client)]
    assert KEY not in " ".join(shown) + caplog.text


def test_a_password_in_the_address_is_not_shown(
    server: CoinGeckoServer, tmp_path: Path, waits: Waits
) -> None:
    url = server.url.replace("http://", "http://someone:hunter2@")
    answer = keyed(url, tmp_path, waits).fetch("/ping")
    assert "hunter2" not in answer.request
    assert answer.request == server.url + "/ping"


def test_the_key_is_cut_out_of_what_the_transport_says(
    server: CoinGeckoServer, tmp_path: Path, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> httpx.Response:
        raise httpx.ProxyError(f"the proxy does not like {KEY}")

    monkeypatch.setattr(httpx.Client, "send", refuse)
    with pytest.raises(TransientApiError, match=r"does not like \*\*\*"):
        keyed(server.url, tmp_path, waits).fetch("/ping")


@pytest.mark.parametrize("key", ["CG-two words", "CG-line\nend", "CG-\x01", "CG-ü", ""])
def test_a_key_that_no_header_can_carry_is_refused_without_naming_it(
    server: CoinGeckoServer, tmp_path: Path, key: str
) -> None:
    budget = SharedBudget(SqliteStore(tmp_path / "b.sqlite"), "x", 600_000)
    with pytest.raises(PermanentApiError, match="set the key again") as caught:
        ApiClient(server.url, budget, {"x-cg-demo-api-key": key})
    assert "CG-" not in str(caught.value)
