"""A local server that speaks CoinGecko's official OpenAPI, with faults by script.

Requests are held to the description (paths, required parameters, enumerations, no parameter it does
not name) and every regular answer is validated against the response schema of its path. What a
client does wrong is answered as the API would and noted in `violations`.

    with CoinGeckoServer() as server:
        server.script(Fault(status=429, headers={"retry-after": "1"}), Fault.truncated())
        ...  # DATAPLATFORM_COINGECKO_BASE_URL=server.url
"""

import argparse
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from jsonschema import Draft7Validator
from jsonschema.protocols import Validator

from dataplatform_tests.coingecko_market import DAY, Market

FIXTURES = Path(__file__).parent / "fixtures" / "coingecko_oas"
Host = Literal["demo", "pro"]
Answer = tuple[int, Any, Mapping[str, str]]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, once, with the next request whose path contains `path`.

    `kind`: `answer` sends status, headers and body; `truncate` cuts the regular body in the middle,
    keeping its Content-Length; `cut_json` cuts it and corrects the length; `reset` resets the
    connection; `drip` sends the regular body byte by byte, `delay` seconds apart; `late` sends it
    after `delay` seconds; `call` runs `action`, then answers regularly.
    """

    status: int = 500
    body: bytes = b'{"status":500,"error":"Internal Server Error"}'
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["answer", "truncate", "cut_json", "reset", "drip", "late", "call"] = "answer"
    path: str = ""
    delay: float = 0.05
    action: Callable[[], None] | None = None

    @classmethod
    def error(cls, status: int, body: object, **headers: str) -> Self:
        """Return an answer with a JSON body; `retry_after` becomes Retry-After."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(body).encode(), named)


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    at: float
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class CoinGeckoServer:
    """The server; a context manager that listens on a free port of 127.0.0.1.

    Args:
        market: what it answers from.
        host: which description it speaks.
        key: the key it wants; None, it wants none.
        now: the server's time, Unix seconds.
        port: 0, any free one.
    """

    def __init__(
        self,
        market: Market | None = None,
        host: Host = "demo",
        key: str | None = None,
        now: Callable[[], float] = time.time,
        port: int = 0,
    ) -> None:
        self.market = market or Market()
        self.host: Host = host
        self.key = key
        self.now = now
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.rate_per_minute = 500
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._port = port

    @property
    def url(self) -> str:
        """The base URL, as a client is configured with it, while the server listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/api/v3"

    def script(self, *faults: Fault) -> None:
        """Add faults; each happens once, in this order among those that fit a request."""
        with self._lock:
            self._faults.extend(faults)

    def paths(self) -> list[str]:
        """Return the paths asked for, in order."""
        return [seen.path for seen in self.seen]

    def __enter__(self) -> Self:
        # Not before: who only asks for its answers has no socket to close.
        self._http = _Http(self, self._port)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def take_fault(self, path: str) -> Fault | None:
        """Return and forget the first fault that fits `path`."""
        with self._lock:
            for fault in self._faults:
                if fault.path in path:
                    self._faults.remove(fault)
                    return fault
        return None

    def answer(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Return status, body and headers of the regular answer."""
        refused = self._refuse_key(headers)
        if refused is not None:
            return refused
        template, variables = _match(self.host, path)
        if template is None:
            self.violations.append(f"no such path: {path}")
            return 404, {"error": "Not Found"}, {}
        wrong = _check_query(self.host, template, query)
        if wrong:
            self.violations.append(f"{path}: {wrong}")
            return 422, {"error": wrong}, {}
        status, body, extra = self._regular(template, variables, query)
        if status == 200:
            self.violations.extend(schema_violations(self.host, template, body))
        return status, body, extra

    def _refuse_key(self, headers: Mapping[str, str]) -> Answer | None:
        """Refuse as the documentation says: the wrong header for a host has a code of its own."""
        own, other = "x-cg-demo-api-key", "x-cg-pro-api-key"
        if self.host == "pro":
            own, other = other, own
        if other in headers:
            return _coded(400, 10010 if self.host == "demo" else 10011)
        if self.key is None or headers.get(own) == self.key:
            return None
        return _coded(401, 10002)

    def _regular(self, template: str, variables: Mapping[str, str], q: Mapping[str, str]) -> Answer:
        market, now = self.market, self.now()
        coin, currency = variables.get("id", ""), q.get("vs_currency", "usd")
        if coin and coin not in market.ids():
            return 404, {"error": "coin not found"}, {}
        if template == "/coins/markets":
            return _page(self._records(currency, now), q)
        if template == "/exchanges":
            return _page(market.exchanges(), q)
        if template == "/coins/{id}/market_chart/range":
            return self._chart(coin, currency, float(q["from"]), float(q["to"]))
        plain: dict[str, Callable[[], Any]] = {
            "/ping": lambda: {"gecko_says": "(V3) To the Moon!"},
            "/key": self._key_usage,
            "/coins/list": lambda: market.listing(q.get("include_platform") == "true"),
            "/coins/categories": lambda: market.categories(now),
            "/global": lambda: market.totals(now),
            "/coins/{id}/ohlc": lambda: market.candles(coin, currency, int(q["days"]), now),
        }
        if template in plain:
            return 200, plain[template](), {}
        return 200, _answer(self.host, template)["example"], {}

    def _records(self, currency: str, now: float) -> list[dict[str, Any]]:
        ids = enumerate(self.market.ids(), start=1)
        return [self.market.record(coin, rank, now, currency) for rank, coin in ids]

    def _chart(self, coin: str, currency: str, start: float, end: float) -> Answer:
        if self.host == "demo" and start < self.now() - 366 * DAY:
            return _coded(401, 10012)
        return 200, self.market.chart(coin, currency, start, end, self.now()), {}

    def _key_usage(self) -> dict[str, Any]:
        used = len(self.seen)
        return {
            "plan": "Analyst",
            "rate_limit_request_per_minute": self.rate_per_minute,
            "monthly_call_credit": 500_000,
            "current_total_monthly_calls": used,
            "current_remaining_monthly_calls": 500_000 - used,
            "api_key_rate_limit_request_per_minute": self.rate_per_minute,
            "api_key_monthly_call_credit": 500_000,
            "api_key_current_total_monthly_calls": used,
        }


def _coded(status: int, code: int) -> Answer:
    error = {"error_code": code, "error_message": f"message of {code}"}
    return status, {"error": {"status": {"timestamp": "2026-11-20T00:00:00Z", **error}}}, {}


def _page(records: list[dict[str, Any]], query: Mapping[str, str]) -> Answer:
    size, page = int(query.get("per_page", "100")), int(query.get("page", "1"))
    headers = {"total": str(len(records)), "per-page": str(size)}
    return 200, records[(page - 1) * size : page * size], headers


@cache
def _description(host: Host) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{host}-api.json").read_text())


def _match(host: Host, path: str) -> tuple[str | None, dict[str, str]]:
    for template in sorted(_description(host)["paths"], key=lambda t: t.count("{")):
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
        found = re.fullmatch(pattern, path)
        if found:
            return template, {name: unquote(value) for name, value in found.groupdict().items()}
    return None, {}


def _check_query(host: Host, template: str, query: Mapping[str, str]) -> str | None:
    declared = _description(host)["paths"][template]["get"].get("parameters", [])
    known = {p["name"]: p for p in declared if p["in"] == "query"}
    for name, parameter in known.items():
        if parameter.get("required") and name not in query:
            return f"Missing parameter {name}"
        allowed = parameter["schema"].get("enum")
        if allowed and name in query and query[name] not in allowed:
            return f"Invalid value for {name}"
    unknown = set(query) - set(known)
    return f"parameters not in the description: {sorted(unknown)}" if unknown else None


def schema_violations(host: Host, template: str, body: Any) -> list[str]:
    """Return where `body` breaks the response schema of `template`, one line each."""
    found = _validator(host, template).iter_errors(body)
    return [f"{template} {error.json_path}: {error.message[:200]}" for error in found]


def _answer(host: Host, template: str) -> dict[str, Any]:
    """Return schema and example of what is answered; a path that is not simulated has only this."""
    answer = _description(host)["paths"][template]["get"]["responses"]["200"]
    return answer["content"]["application/json"]


@cache
def _validator(host: Host, template: str) -> Validator:
    description = _description(host)
    schema = _answer(host, template)["schema"]
    # `allOf`: draft 7 ignores what stands beside a `$ref`.
    whole = {"allOf": [_nullable(schema)], "components": _nullable(description["components"])}
    return Draft7Validator(whole)


def _nullable(schema: Any) -> Any:
    """Rewrite OpenAPI 3.0's `nullable` as JSON schema's type `null`."""
    if isinstance(schema, list):
        return [_nullable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _nullable(value) for name, value in schema.items() if name != "example"}
    if schema.get("nullable") is not True:
        return inner
    return {"anyOf": [inner, {"type": "null"}]}


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: CoinGeckoServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.owner = owner


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def owner(self) -> CoinGeckoServer:
        return cast("_Http", self.server).owner

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, query = url.path.removeprefix("/api/v3"), dict(parse_qsl(url.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.owner.seen.append(Seen(time.time(), path, query, headers))
        fault = self.owner.take_fault(path)
        if fault is not None and fault.kind == "call" and fault.action is not None:
            fault.action()
        if fault is not None and fault.kind == "answer":
            self._send(fault.status, fault.body, fault.headers)
            return
        status, body, extra = self.owner.answer(path, query, headers)
        self._spoil(fault, status, json.dumps(body).encode(), extra)

    def _spoil(
        self, fault: Fault | None, status: int, body: bytes, extra: Mapping[str, str]
    ) -> None:
        kind = fault.kind if fault else None
        if kind == "reset":
            self._reset()
        elif kind == "truncate":
            self._send(status, body, extra, sent=body[: len(body) // 2])
        elif kind == "cut_json":
            self._send(status, body[: len(body) // 2], extra)
        elif kind == "drip" and fault:
            self._send(status, body, extra, sent=b"")
            self._drip(body, fault.delay)
        else:
            time.sleep(fault.delay if fault and kind == "late" else 0)
            # A client that did not wait is gone by now.
            with suppress(ConnectionError):
                self._send(status, body, extra)

    def _send(
        self, status: int, body: bytes, extra: Mapping[str, str], sent: bytes | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        for name, value in extra.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if sent is None else sent)
        self.close_connection = self.close_connection or sent is not None

    def _drip(self, body: bytes, delay: float) -> None:
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(delay)
        except OSError:
            return  # The client had enough.

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RD)
        self.rfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the tests read `seen`."""


def main() -> None:
    """Serve until the process is ended: `python -m dataplatform_tests.coingecko_server`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--coins", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    server = CoinGeckoServer(Market(asked.coins, asked.seed), port=asked.port)
    with server:
        threading.Event().wait()


if __name__ == "__main__":
    main()
