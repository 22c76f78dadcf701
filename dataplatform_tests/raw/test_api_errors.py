from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dataplatform.lake.api.errors import (
    NotFoundError,
    PermanentApiError,
    TransientApiError,
    error_of,
    retry_after_seconds,
)


def nested(code: int) -> bytes:
    return b'{"error":{"status":{"error_code":%d,"error_message":"said so"}}}' % code


def flat(code: int) -> bytes:
    return b'{"status":{"error_code":%d,"error_message":"said so"}}' % code


@pytest.mark.parametrize("shape", [nested, flat])
@pytest.mark.parametrize(
    ("status", "code", "cause", "remedy"),
    [
        (401, 10002, "no API key", "DATAPLATFORM_COINGECKO_API_KEY"),
        (403, 10005, "not in the key's plan", "larger plan"),
        (400, 10010, "pro key was sent to the demo host", "TIER=pro"),
        (400, 10011, "demo key was sent to the pro host", "TIER=demo"),
        (401, 10012, "days older than 365", "last 365 days"),
        (403, 1020, "firewall", "another network"),
    ],
)
def test_each_code_is_permanent_and_says_cause_and_remedy(
    shape: Callable[[int], bytes], status: int, code: int, cause: str, remedy: str
) -> None:
    error = error_of(status, shape(code), "GET /x")
    assert isinstance(error, PermanentApiError)
    assert error.code == code
    assert cause in error.cause
    assert remedy in error.remedy
    for part in ("GET /x", error.cause, error.remedy):
        assert part in str(error)


def test_a_wrong_key_is_told_from_none() -> None:
    wrong = error_of(401, nested(10002), "GET /x", key_sent=True)
    none = error_of(401, nested(10002), "GET /x")
    assert wrong is not None
    assert none is not None
    assert "the key was refused" in wrong.cause
    assert "no API key was sent" in none.cause
    for error in (wrong, none):
        assert "DATAPLATFORM_COINGECKO_API_KEY" in error.remedy
        assert "keyless" not in error.remedy


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b'{"status":500,"error":"Internal Server Error"}'),
        (502, b"<html>Bad Gateway</html>"),
        (503, b""),
        (408, b'{"error":"timeout"}'),
        (429, b'{"status":{"error_code":429,"error_message":"You\'ve exceeded the Rate Limit"}}'),
        (429, b"Throttled"),
        # The CDN has been seen to answer a 429's body with status 200.
        (200, b'{"status":{"error_code":429,"error_message":"slow down"}}'),
    ],
)
def test_what_may_pass_is_transient(status: int, body: bytes) -> None:
    error = error_of(status, body, "GET /x", retry_after=7)
    assert isinstance(error, TransientApiError)
    assert error.retry_after == 7


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b'{"error":"coin not found"}', NotFoundError),
        (422, b'{"error":"Missing parameter vs_currency"}', PermanentApiError),
        (401, b"", PermanentApiError),
        (403, b"<html><b>error code: 1020</b></html>", PermanentApiError),
        (418, b"", PermanentApiError),
        (200, b'{"error":"coin not found"}', PermanentApiError),
    ],
)
def test_what_needs_a_person_is_permanent(
    status: int, body: bytes, kind: type[PermanentApiError]
) -> None:
    error = error_of(status, body, "GET /x")
    assert isinstance(error, kind)
    assert error.remedy


def test_the_apis_own_words_are_kept() -> None:
    error = error_of(422, b'{"error":"Missing parameter vs_currency"}', "GET /x")
    assert "Missing parameter vs_currency" in str(error)


@pytest.mark.parametrize(
    "body", [b"[]", b'{"data":{}}', b'{"prices":[],"market_caps":[]}', b'[{"error":"a coin"}]']
)
def test_a_regular_answer_is_no_error(body: bytes) -> None:
    assert error_of(200, body, "GET /x") is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("60", 60),
        ("1.5", 1.5),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 20 Nov 2026 11:00:00 GMT", 0),
        ("soon", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    assert retry_after_seconds(header, now) == seconds
