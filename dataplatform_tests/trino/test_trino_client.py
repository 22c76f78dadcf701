"""Statements on a real Trino: streams, progress, errors with their remedy, sign-in, cancelling."""

import http.server
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from trino.auth import BasicAuthentication, JWTAuthentication

from dataplatform.lake.dialect import QueryError
from dataplatform.lake.trino import errors
from dataplatform.lake.trino.client import Login, TrinoClient, TrinoServer, quoted
from dataplatform_tests.trino.conftest import TrinoLake
from dataplatform_tests.trino.servers import PASSWORD, STRANGER, USER, Servers, free_port, token

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
LONG = "SELECT count(*) FROM tpch.sf1000.lineitem AS a CROSS JOIN tpch.sf1000.lineitem AS b"


def client(servers: Servers, **settings: Any) -> TrinoClient:
    chosen: dict[str, Any] = {
        "url": servers.trino_url,
        "user": "dagster",
        "catalog": "lake",
        **settings,
    }
    return TrinoClient(TrinoServer(**chosen))


def states(servers: Servers, source: str) -> list[tuple[str, str | None]]:
    sql = "SELECT state, error_code FROM system.runtime.queries WHERE source = ?"
    return client(servers).query(sql, [source]).rows


def wait_for(servers: Servers, source: str, wanted: str) -> list[tuple[str, str | None]]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = states(servers, source)
        if any(state == wanted for state, _ in found):
            return found
        time.sleep(0.3)
    raise AssertionError(f"{source} never {wanted}: {found}")


# ---- answers ----


def test_types_become_arrow(trino: TrinoLake) -> None:
    result = trino.client.query(
        "SELECT 'a' AS s, 1.50 AS d, ARRAY[1, NULL] AS l, MAP(ARRAY['k'], ARRAY[2e0]) AS m,"
        " CAST(ROW(1, 'x') AS row(n bigint, t varchar)) AS r, X'00ff' AS b, NULL AS n,"
        " TIMESTAMP '2025-01-01 12:00:00 Europe/Berlin' AS z, REAL '1.5' AS f,"
        " UUID '12151fd2-7586-11e9-8f9e-2a86e4085a59' AS u"
    )
    assert result.rows == [
        (
            "a",
            Decimal("1.50"),
            [1, None],
            [("k", 2.0)],
            {"n": 1, "t": "x"},
            b"\x00\xff",
            None,
            result.rows[0][7],
            1.5,
            "12151fd2-7586-11e9-8f9e-2a86e4085a59",
        )
    ]
    assert result.rows[0][7].isoformat() == "2025-01-01T11:00:00+00:00"
    assert result.arrow.schema.field("d").type == pa.decimal128(3, 2)
    assert result.types[:3] == ("varchar", "decimal(3, 2)", "array(integer)")


def test_an_answer_is_streamed_in_batches(trino: TrinoLake) -> None:
    stream = trino.client.stream("SELECT orderkey FROM tpch.tiny.orders")
    sizes = [batch.num_rows for batch in stream.reader]
    assert sum(sizes) == 15_000
    assert len(sizes) > 1


def test_a_limit_ends_the_statement(servers: Servers) -> None:
    source = f"limited-{uuid4()}"
    asking = client(servers, source=source)
    result = asking.query("SELECT orderkey FROM tpch.sf100.orders", limit=3)
    assert (len(result.rows), result.truncated) == (3, True)
    (state,) = wait_for(servers, source, "FAILED")
    assert state == ("FAILED", "USER_CANCELED")


def test_progress_is_reported_at_the_end(trino: TrinoLake) -> None:
    trino.client.query("SELECT count(*) FROM tpch.tiny.orders")
    last = trino.reports[-1]
    assert (last.state, last.rows) == ("FINISHED", 15_000)
    assert last.splits == last.total_splits > 0
    assert last.query_id in str(last)
    assert "15,000 rows" in str(last)


def test_progress_is_reported_on_the_way(trino: TrinoLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplatform.lake.trino.client._REPORT_EVERY", 100)
    trino.client.query("SELECT count(DISTINCT partkey) FROM tpch.sf1.lineitem")
    assert "RUNNING" in {report.state for report in trino.reports}


def test_source_and_tags_say_who_asks(servers: Servers) -> None:
    source = f"tagged-{uuid4()}"
    asking = client(servers, source=source, client_tags=("dagster/run_id:42",))
    asking.query("SELECT 1 AS x")
    assert states(servers, source) == [("FINISHED", None)]


def test_quoted_names_are_one_identifier(trino: TrinoLake) -> None:
    name = 'a "b"; DROP'
    assert trino.client.query(f"SELECT 1 AS {quoted(name)}").columns == (name,)


# ---- errors ----


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("SELEC 1", errors.TrinoSyntaxError, "line 1, column 1"),
        ("SELECT\n cost FROM tpch.tiny.orders", errors.UnknownColumnError, "line 2, column 2"),
        ("SELECT 1 FROM nothing.here", errors.UnknownRelationError, "nothing.* Remedy"),
        ("SELECT 1 FROM nowhere.a.b", errors.UnknownCatalogError, "nowhere.* Remedy"),
        ("SELECT no_such(1)", QueryError, "no_such"),
        ("SELECT CAST('x' AS bigint)", QueryError, "Cannot cast"),
    ],
)
def test_what_is_wrong_with_a_statement(
    trino: TrinoLake, sql: str, kind: type[QueryError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        trino.client.query(sql)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, errors.TrinoFailedError)


def test_time_and_memory_have_limits(servers: Servers) -> None:
    with pytest.raises(errors.QueryTimeError, match=r"2\.00s.* Remedy"):
        client(servers, query_seconds=2).query(LONG)
    # More than the 300 MB that a statement may take, in one aggregation.
    hungry = "SELECT cardinality(array_agg(comment)) AS n FROM tpch.sf10.lineitem"
    with pytest.raises(errors.QueryMemoryError, match="Remedy"):
        client(servers).query(hungry)


def test_a_stranger_is_denied(servers: Servers) -> None:
    stranger = client(servers, user=STRANGER, catalog="recorded")
    with pytest.raises(errors.AccessDeniedError, match=r"Access Denied.* Remedy"):
        stranger.execute("CREATE SCHEMA mine")


def test_an_answer_that_never_comes_is_given_up(servers: Servers) -> None:
    gone = client(servers, url=f"http://127.0.0.1:{free_port()}", retry_seconds=0.5)
    with pytest.raises(errors.TrinoUnreachableError, match=r"refused.* Remedy: `dp stack up`"):
        gone.query("SELECT 1")


def test_a_postgresql_port_is_no_trino(servers: Servers) -> None:
    other = client(servers, url=f"http://127.0.0.1:{servers.database.port}", retry_seconds=0.5)
    with pytest.raises(errors.TrinoUnreachableError, match="Remedy"):
        other.query("SELECT 1")


# ---- sign-in ----


def secure(servers: Servers, login: Login, **settings: Any) -> TrinoClient:
    ca = servers.root / "trino/etc/ca.pem"
    chosen: dict[str, Any] = {"url": servers.trino_tls_url, "user": USER, "catalog": "lake"}
    chosen["ca_file"] = ca
    return TrinoClient(TrinoServer(**{**chosen, **settings}), lambda: login)


def test_password_and_token_sign_in_over_tls(servers: Servers) -> None:
    ways = [
        Login(BasicAuthentication(USER, PASSWORD), USER),
        Login(JWTAuthentication(token(servers, USER))),
    ]
    for way in ways:
        assert secure(servers, way).query("SELECT current_user AS u").rows == [(USER,)]


def test_what_refuses_the_sign_in_is_told_and_the_secret_is_not(servers: Servers) -> None:
    wrong = "wrong-secret-1"
    tried = {
        "refuses the user": secure(servers, Login(BasicAuthentication(USER, wrong))),
        "refuses": secure(servers, Login(JWTAuthentication(wrong))),
        "certificate is not trusted": secure(
            servers, Login(BasicAuthentication(USER, wrong)), ca_file=None
        ),
        "over TLS only": secure(
            servers, Login(BasicAuthentication(USER, wrong)), url=servers.trino_url
        ),
    }
    for words, asking in tried.items():
        with pytest.raises(errors.TrinoAuthError, match=words) as caught:
            asking.query("SELECT 1")
        assert "Remedy" in str(caught.value)
        chain = f"{caught.value} {caught.value.__cause__} {asking!r}"
        assert wrong not in chain


# ---- trying again ----


class Flaky(http.server.BaseHTTPRequestHandler):
    """A proxy's answer while Trino is away: it takes the statement, and nobody knows what became of it."""

    asked: list[str]
    status: int

    def do_POST(self) -> None:
        self.asked.append(self.path)
        if self.status:
            self.send_response(self.status)
            self.end_headers()
        # Else the connection is cut without an answer.

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(params=[0, 503, 429])
def flaky(request: pytest.FixtureRequest) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Flaky,), {"asked": asked, "status": request.param})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_what_changes_nothing_is_sent_again(
    servers: Servers, flaky: tuple[str, list[str]]
) -> None:
    url, asked = flaky
    asking = client(servers, url=url, retry_seconds=3)
    with pytest.raises(errors.RETRYABLE):
        asking.execute("INSERT INTO t VALUES (1)")
    assert len(asked) == 1
    with pytest.raises(errors.RETRYABLE):
        asking.query("SELECT 1")
    assert len(asked) > 2
    before = len(asked)
    with pytest.raises(errors.RETRYABLE):
        asking.execute("CREATE OR REPLACE VIEW v AS SELECT 1 AS x", repeatable=True)
    assert len(asked) > before + 1
