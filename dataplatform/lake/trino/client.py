"""Statements on a Trino server: streaming, progress, time limits, cancelling, and safe retries.

Built on Trino's DBAPI client; without Dagster. What the client raises leaves here as the errors of
`trino_errors`.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
from requests import Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential
from trino import exceptions as client
from trino.auth import Authentication
from trino.dbapi import Connection, Cursor
from urllib3 import Retry

from dataplatform.lake.sql_engine import QueryResult, ResultStream
from dataplatform.lake.trino.errors import RETRYABLE, understood
from dataplatform.lake.trino.types import arrow_type, spoken, to_arrow

BATCH_ROWS: Final = 10_000
_CONNECT_SECONDS: Final = 10.0
_READS: Final = re.compile(
    r"\s*(select|with|values|table|show|desc|describe|explain(?!\s+analyze))\b", re.IGNORECASE
)
"""What is as good asked twice; EXPLAIN ANALYZE runs what it explains."""
_REPORT_EVERY: Final = 10_000
"""Milliseconds of a statement's run between two reports of its progress."""


@dataclass(frozen=True)
class Login:
    """How to sign in.

    Args:
        authentication: what holds the password or token; None where Trino asks for none.
        user: as whom; None, the server's own.
    """

    authentication: Authentication | None = field(default=None, repr=False)
    user: str | None = None


Authenticate = Callable[[], Login]


@dataclass(frozen=True)
class TrinoServer:
    """Which Trino, as whom, and how long to wait.

    Args:
        url: `http://…` or `https://…`, without user and password.
        user: the user whose rights hold.
        catalog: where names without a catalog are looked up.
        source: what Trino's page calls the caller.
        client_tags: what else it shows, such as the run's id.
        ca_file: the authority that signed the server's certificate; None, the system's own.
        request_seconds: how long one HTTP request may take.
        query_seconds: how long one statement may take, its queueing included.
        retry_seconds: how long a statement that changes nothing is tried again.
    """

    url: str
    user: str
    catalog: str
    source: str = "dataplatform"
    client_tags: tuple[str, ...] = ()
    ca_file: Path | None = None
    request_seconds: float = 60.0
    query_seconds: float = 900.0
    retry_seconds: float = 30.0


@dataclass(frozen=True)
class Progress:
    """How far a statement is: its state, splits, and what it has read and holds.

    Args:
        query_id: Trino's id of it.
        state: QUEUED, PLANNING, RUNNING, FINISHED, …
        splits: pieces of work that are done.
        total_splits: all that are known yet.
        rows: rows read.
        bytes: bytes read.
        peak_memory: the most memory that it held, in bytes.
        elapsed_ms: since it was sent.
    """

    query_id: str
    state: str
    splits: int
    total_splits: int
    rows: int
    bytes: int
    peak_memory: int
    elapsed_ms: int

    @classmethod
    def of(cls, stats: Mapping[str, Any]) -> "Progress":
        """Read what Trino's client keeps of a statement."""
        return cls(
            query_id=str(stats.get("queryId", "")),
            state=str(stats.get("state", "")),
            splits=int(stats.get("completedSplits", 0)),
            total_splits=int(stats.get("totalSplits", 0)),
            rows=int(stats.get("processedRows", 0)),
            bytes=int(stats.get("processedBytes", 0)),
            peak_memory=int(stats.get("peakMemoryBytes", 0)),
            elapsed_ms=int(stats.get("elapsedTimeMillis", 0)),
        )

    def __str__(self) -> str:
        return (
            f"{self.query_id} {self.state}: {self.splits} of {self.total_splits} splits,"
            f" {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB read,"
            f" peak memory {self.peak_memory / 1e6:,.1f} MB, {self.elapsed_ms / 1e3:.1f} s"
        )


def quoted(name: str) -> str:
    """Return an identifier in double quotes, those inside doubled."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _silence(progress: Progress) -> None:
    del progress


@dataclass
class TrinoClient:
    """Runs statements on one server.

    Args:
        server: which, as whom.
        authenticate: reads the secret and returns how to sign in; asked at the first statement.
        report: is told the progress of each statement: at its end, and now and then before.
    """

    server: TrinoServer
    authenticate: Authenticate = field(default=Login, repr=False)
    report: Callable[[Progress], None] = field(default=_silence, repr=False)

    @cached_property
    def where(self) -> str:
        """The server's address, without user and password."""
        parts = urlsplit(self.server.url)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    @cached_property
    def _session(self) -> Session:
        """Requests that fetch an answer's next page may be repeated; those that send one, never."""
        again = Retry(
            total=5,
            connect=0,
            other=0,
            backoff_factor=0.2,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=("GET", "DELETE"),
            raise_on_status=False,
        )
        session = Session()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Verifying(self.server.ca_file, again))
        return session

    @cached_property
    def _connection(self) -> Connection:
        login = self.authenticate()
        with _trino_errors(self.where):
            return Connection(
                self.server.url,
                user=login.user or self.server.user,
                source=self.server.source,
                catalog=self.server.catalog,
                session_properties={"query_max_run_time": f"{self.server.query_seconds:g}s"},
                auth=login.authentication,
                max_attempts=1,
                request_timeout=(_CONNECT_SECONDS, self.server.request_seconds),
                http_session=self._session,
                client_tags=list(self.server.client_tags),
                legacy_prepared_statements=False,
                timezone="UTC",
            )

    def stream(self, sql: str, params: Sequence[Any] | None = None) -> ResultStream:
        """Answer a SELECT batch by batch; tried again until its first rows are there.

        A statement that may change something is sent once.

        What is not read to its end is cancelled when the stream is closed or forgotten.

        Raises:
            QueryError: it is refused, wrong, too large or too slow, or Trino is not there.
        """
        send = self._patiently if _READS.match(sql) else self._started
        cursor = send(sql, params)
        kinds = [str(column.type_code) for column in cursor.description or ()]
        names = [str(column.name) for column in cursor.description or ()]
        fields = [pa.field(name, arrow_type(kind)) for name, kind in zip(names, kinds, strict=True)]
        schema = pa.schema(fields)
        batches = self._batches(cursor, schema)
        next(batches)  # From here on its end, whichever it is, ends the statement.
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        return ResultStream(reader, tuple(spoken(kind) for kind in kinds), batches.close)

    def query(
        self, sql: str, params: Sequence[Any] | None = None, limit: int | None = None
    ) -> QueryResult:
        """Answer a SELECT with up to `limit` rows; errors as for `stream`."""
        return self.stream(sql, params).read(limit)

    def execute(self, sql: str, *, repeatable: bool = False) -> None:
        """Run a statement that changes something.

        Args:
            sql: the statement.
            repeatable: doing it twice is as good as once, such as CREATE OR REPLACE VIEW. Any other
                statement is sent once: an answer that was lost says nothing about what was done.

        Raises:
            QueryError: as for `stream`.
        """
        cursor = self._patiently(sql, None) if repeatable else self._started(sql, None)
        with self._cancelling(cursor):
            cursor.fetchall()
        self.report(Progress.of(cursor.stats or {}))

    def _patiently(self, sql: str, params: Sequence[Any] | None) -> Cursor:
        attempts = Retrying(
            retry=retry_if_exception_type(RETRYABLE),
            stop=stop_after_delay(self.server.retry_seconds),
            wait=wait_random_exponential(multiplier=0.5, max=5),
            reraise=True,
        )
        return attempts(self._started, sql, params)

    def _started(self, sql: str, params: Sequence[Any] | None) -> Cursor:
        """Send a statement and wait for its first rows."""
        cursor = self._connection.cursor(stats_callback=_Reporter(self.report))
        with self._cancelling(cursor):
            cursor.execute(sql, list(params) if params else None)
        return cursor

    def _batches(self, cursor: Cursor, schema: pa.Schema) -> Generator[pa.RecordBatch]:
        """Yield an empty batch, by which it is begun, and then the rows."""
        with self._cancelling(cursor):
            yield pa.RecordBatch.from_pylist([], schema)
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield to_arrow(rows, schema)
        self.report(Progress.of(cursor.stats or {}))

    @contextmanager
    def _cancelling(self, cursor: Cursor) -> Generator[None]:
        """End the statement on the server when its reader ends early, for whatever reason.

        Dagster interrupts a cancelled run by an exception that is no `Exception`, as Ctrl-C is.
        """
        try:
            with _trino_errors(self.where):
                yield
        except BaseException:
            with suppress(client.Error, client.HttpError, RequestException):
                cursor.cancel()
            raise

    def close(self) -> None:
        """Close the connections."""
        if "_session" in self.__dict__:
            self._session.close()

    @cached_property
    def version(self) -> str:
        """Trino's version; asking for it shows whether Trino answers.

        Raises:
            QueryError: it does not; the message says why.
        """
        return str(self.query("SELECT node_version FROM system.runtime.nodes").rows[0][0])


class _Verifying(HTTPAdapter):
    """Trusts the authority that is named: requests would prefer REQUESTS_CA_BUNDLE's."""

    def __init__(self, ca_file: Path | None, retries: Retry) -> None:
        super().__init__(max_retries=retries)
        self._ca_file = ca_file

    def send(self, *args: Any, **options: Any) -> Response:
        """Send a request; see `HTTPAdapter.send`."""
        if self._ca_file is not None:
            options["verify"] = str(self._ca_file)
        return super().send(*args, **options)


@contextmanager
def _trino_errors(where: str) -> Generator[None]:
    try:
        yield
    except (client.Error, client.HttpError, RequestException) as error:
        raise understood(error, where) from error


class _Reporter:
    """Tells the progress once in `_REPORT_EVERY` rather than at each page."""

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report = report
        self._next = _REPORT_EVERY

    def __call__(self, stats: dict[str, Any]) -> None:
        now = Progress.of(stats)
        if now.elapsed_ms >= self._next:
            self._next = now.elapsed_ms + _REPORT_EVERY
            self._report(now)
