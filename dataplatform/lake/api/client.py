"""A JSON API over HTTP: paced by a shared budget, retried where that helps, silent about keys."""

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, NoReturn
from urllib.parse import unquote, urlsplit

import httpx
import orjson
import tenacity

from dataplatform.lake.api.budget import SharedBudget
from dataplatform.lake.api.budget_store import BudgetUnavailableError
from dataplatform.lake.api.errors import (
    PermanentApiError,
    TransientApiError,
    error_of,
    retry_after_seconds,
    without_userinfo,
)

logger = logging.getLogger(__name__)

TOO_MANY: Final = 429
_OFFLINE = "check the network, or build from the bundled recordings: dp run --origin recorded"


@dataclass(frozen=True)
class Response:
    """One answer: the body as sent (content-coding removed); `request` is free of secrets."""

    body: bytes
    status: int
    headers: Mapping[str, str]
    request: str
    fetched_at: datetime


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds.

    Attributes:
        connect: for a connection.
        read: for the next bytes.
        whole: for one whole answer; a body that drips never lets `read` run out.
        total: for all attempts at one request together; also the longest Retry-After honoured.
        attempts: at most so many.
    """

    connect: float = 10.0
    read: float = 30.0
    whole: float = 120.0
    total: float = 600.0
    attempts: int = 8


@dataclass
class ApiClient:
    """Fetches from one API.

    Args:
        base_url: what every path follows; a user name and password in it are kept out of all texts.
        budget: paces the calls of all processes.
        secret_headers: headers that carry a key; their values are cut out of every message, as is the
            password in `base_url`.
        patience: time limits.
        sleep: waits that many seconds.
    """

    base_url: str = field(repr=False)
    budget: SharedBudget
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        """Open the connection pool; nothing is sent yet.

        Raises:
            PermanentApiError: a key has characters that httpx would refuse, naming the key.
        """
        if not all(re.fullmatch(r"[!-~]+", secret) for secret in self.secret_headers.values()):
            raise PermanentApiError(
                without_userinfo(self.base_url),
                "the API key has characters that no header can carry",
                "set the key again, without blanks and line ends",
            )
        for noisy in ("httpx", "httpcore"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self._http = httpx.Client(
            headers={"accept": "application/json", **self.secret_headers},
            timeout=httpx.Timeout(self.patience.read, connect=self.patience.connect),
            follow_redirects=False,
        )

    def fetch(self, path: str, params: Mapping[str, str] | None = None) -> Response:
        """Return the answer to a GET.

        Args:
            path: below the base URL, its variables filled and quoted.
            params: query parameters.

        Raises:
            PermanentApiError: a person must change something first.
            TransientApiError: it failed at every attempt.
            BudgetError: there is no budget to count it by; it was not sent.
        """
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((TransientApiError, BudgetUnavailableError)),
            stop=tenacity.stop_after_attempt(self.patience.attempts)
            | tenacity.stop_before_delay(self.patience.total),
            wait=self._pause,
            before_sleep=self._report,
            sleep=self.sleep,
            reraise=True,
        )
        return attempts(self._paced, path, params or {})

    def fetch_once(
        self, path: str, params: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Response:
        """Return the answer to one GET that is counted, but neither paced nor retried."""
        self.budget.count()
        return self._send(path, params or {}, timeout)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _paced(self, path: str, params: Mapping[str, str]) -> Response:
        self.budget.acquire()
        try:
            return self._send(path, params, None)
        except TransientApiError as error:
            if TOO_MANY in (error.status, error.code):
                self.budget.slow_down(self._bounded(error.retry_after, default=30.0))
            raise

    def _send(self, path: str, params: Mapping[str, str], timeout: float | None) -> Response:
        request = self._http.build_request(
            "GET",
            self.base_url.rstrip("/") + path,
            params=dict(params),
            timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
        )
        shown = without_userinfo(str(request.url))
        try:
            status, headers, body = self._receive(request, timeout or self.patience.whole)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.budget.uncount()
            self._fail(shown, f"{type(error).__name__}: {error}", _OFFLINE)
        except httpx.TimeoutException as error:
            self._fail(shown, f"no answer in time ({type(error).__name__})", "run again later")
        except httpx.TransportError as error:
            self._fail(shown, f"{type(error).__name__}: {error}", _OFFLINE)
        except httpx.DecodingError:
            self._fail(shown, "the answer arrived damaged", "run again later")
        self._refuse_errors(shown, status, headers, body)
        return Response(body, status, headers, shown, datetime.now(UTC))

    def _receive(self, request: httpx.Request, whole: float) -> tuple[int, dict[str, str], bytes]:
        deadline = time.monotonic() + whole
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer drips", request=request)
        finally:
            response.close()
        return response.status_code, dict(response.headers), bytes(body)

    def _refuse_errors(
        self, shown: str, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        retry_after = retry_after_seconds(headers.get("retry-after"))
        error = error_of(
            status,
            self._clean_bytes(body),
            shown,
            retry_after,
            key_sent=bool(self.secret_headers),
        )
        if error is not None:
            raise error
        if status != httpx.codes.OK:
            self._fail(shown, f"an answer without content (HTTP {status})", "run again later")
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError:
            self._fail(shown, f"the answer is cut off after {len(body)} bytes", "run again later")

    def _fail(self, shown: str, cause: str, remedy: str) -> NoReturn:
        # `from None`: what httpx raised holds the request, and with it the key.
        raise TransientApiError(shown, self._clean(cause), remedy) from None

    @cached_property
    def _secrets(self) -> tuple[str, ...]:
        password = urlsplit(self.base_url).password
        passwords = (password, unquote(password)) if password else ()
        return (*self.secret_headers.values(), *passwords)

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _clean_bytes(self, body: bytes) -> bytes:
        for secret in self._secrets:
            body = body.replace(secret.encode(), b"***")
        return body

    def _bounded(self, seconds: float | None, default: float) -> float:
        return min(default if seconds is None else seconds, self.patience.total)

    def _pause(self, state: tenacity.RetryCallState) -> float:
        error = _error(state)
        if isinstance(error, TransientApiError) and error.retry_after is not None:
            return error.retry_after
        return tenacity.wait_exponential_jitter(initial=1, max=60)(state)

    def _report(self, state: tenacity.RetryCallState) -> None:
        logger.warning(
            "attempt %d failed, next in %.0f s: %s",
            state.attempt_number,
            state.upcoming_sleep,
            _error(state),
        )


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def json_of(response: Response) -> Any:
    """Return the answer's body parsed."""
    return orjson.loads(response.body)
