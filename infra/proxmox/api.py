"""A session with a Proxmox host: verified TLS, typed errors, retries, tasks to their end.

proxmoxer 2.3 by itself times out after 5 s, never retries, takes an unreadable answer for data and a
failed task for a finished one; what it has, authentication and encoding, is used.
"""

import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import requests
from proxmoxer.backends.https import Backend, JsonSerializer
from proxmoxer.core import ProxmoxResource, ResourceException
from requests.adapters import HTTPAdapter
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from infra.proxmox.errors import (
    AlreadyError,
    CertificateError,
    LockTimeoutError,
    ProxmoxError,
    TaskBusyError,
    TaskTimeoutError,
    UnreachableError,
    UnreadableAnswerError,
    error_from_answer,
    error_from_text,
)

Parameters = Mapping[str, str | int]
API_VERSION: Final = (8, 4)
"""The first version of Proxmox VE that has all that is used: content type `import`, SDN with NAT."""
_LOG_LINES: Final = 15
_LOG_LIMIT: Final = 500


@dataclass(frozen=True)
class Token:
    """An API token.

    Attributes:
        name: `USER@REALM!NAME`.
        secret: its value.
    """

    name: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        user, _, token = self.name.partition("!")
        if not ("@" in user and token and self.secret):
            raise ProxmoxError(
                "API token",
                "DATAPLATFORM_PROXMOX_TOKEN_ID is not of the form USER@REALM!NAME, or has no secret",
                "pveum user token add USER@REALM NAME (docs/infra.md#the-token)",
            )


@dataclass(frozen=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        timeout: for an answer; creating a machine on a busy host takes more than 5 s to be accepted.
        attempts: of a request that failed for a moment.
        first_wait: between the first two attempts; it doubles.
        longest_wait: between two attempts.
        poll: between two looks at a task, at first; it doubles up to `longest_poll`.
        longest_poll: between two looks at a task.
        task: for a task to end.
    """

    timeout: float = 60
    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 10
    poll: float = 0.2
    longest_poll: float = 3
    task: float = 1800


@dataclass(frozen=True)
class Task:
    """How a task ended.

    Attributes:
        upid: its name on the host; empty where nothing was left to do.
        warnings: what it warned of.
    """

    upid: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """Where the API is and how it is known.

    Attributes:
        address: host name or address.
        port: of the API.
        fingerprint: SHA-256 of the certificate; None: authorities decide.
        authority: file of an authority's certificate; None: those that requests knows.
    """

    address: str
    port: int = 8006
    fingerprint: str | None = None
    authority: str | None = None


class Api:
    """The API of one host, to be used by several threads.

    Args:
        endpoint: where it is.
        token: who asks.
        patience: how long is waited.
        adapter: makes what sends requests; None: the one that the endpoint asks for.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        token: Token,
        patience: Patience | None = None,
        adapter: Callable[[Endpoint], HTTPAdapter] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._token = token
        self._patience = patience or Patience()
        self._adapter = adapter or adapter_for
        self._sessions: list[requests.Session] = []
        self._idle: list[ProxmoxResource] = []
        self._counting = threading.Lock()
        self.stopped = threading.Event()
        """Set to end waiting for tasks early; they go on."""
        self.calls = 0
        """Requests sent so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in self._sessions:
            session.close()

    def get(self, path: str, **parameters: str | int) -> Any:
        """Return what a path holds; tried again where it fails for a moment."""
        return self._retrying(lambda _: self._send("GET", path, parameters), _is_transient)

    def change(self, method: str, path: str, parameters: Parameters) -> Any:
        """Change something at once; "already so" after a lost answer is done.

        Args:
            method: POST, PUT or DELETE.
            path: what is changed.
            parameters: of the call.

        Raises:
            ProxmoxError: the host did not do it.
        """
        return self._retrying(
            lambda attempt: self._again(attempt, method, path, parameters), _is_transient
        )

    def task(self, method: str, path: str, parameters: Parameters, kind: str, of: str) -> Task:
        """Have a task done and wait for its end.

        Where the answer got lost, the task that may run already is looked for and awaited: it is
        never started twice. The wait itself only ever looks.

        Args:
            method: POST, PUT or DELETE.
            path: what starts it.
            parameters: of the call.
            kind: Proxmox's name of such tasks, such as `qmcreate`.
            of: what it works on: a VMID, or a storage.

        Raises:
            ProxmoxError: it was not started, failed, or did not end in time.
        """

        def start(attempt: int) -> Any:
            running = self._running(path, kind, of) if attempt > 1 else None
            return running or self._again(attempt, method, path, parameters)

        def run() -> Task:
            upid = self._retrying(start, _is_transient)
            if not isinstance(upid, str) or not upid.startswith("UPID:"):
                return Task()
            return self.wait(upid)

        # A task that ended on a lock did nothing: only then it is started anew.
        return self._retrying(lambda _: run(), lambda error: isinstance(error, TaskBusyError))

    def _running(self, path: str, kind: str, of: str) -> str | None:
        """Return the UPID of such a task that runs now, if any."""
        if not path.startswith("nodes/"):
            return None  # What is started for the whole cluster may be started twice.
        node = path.split("/")[1]
        for task in self.get(f"nodes/{node}/tasks", source="active", typefilter=kind):
            if (task["type"], task.get("id")) == (kind, of) and "endtime" not in task:
                return str(task["upid"])
        return None

    def wait(self, upid: str) -> Task:
        """Wait until a task ended well.

        Raises:
            ProxmoxError: it failed; the message holds its exit status and the end of its log.
        """
        node = upid.split(":")[1]
        deadline, pause = time.monotonic() + self._patience.task, self._patience.poll
        while True:
            status = self.get(f"nodes/{node}/tasks/{upid}/status")
            if status.get("status") == "stopped":
                return self._ended(node, upid, str(status.get("exitstatus", "")))
            if time.monotonic() > deadline:
                cause = (
                    f"the task {upid} has not ended after {self._patience.task:.0f} s and goes on"
                )
                raise TaskTimeoutError(
                    _kind(upid), cause, "watch it in the host's UI, then run again"
                )
            if self.stopped.wait(pause):
                raise TaskTimeoutError(
                    _kind(upid), "no longer awaited; it goes on", "run again later"
                )
            pause = min(pause * 2, self._patience.longest_poll)

    def _ended(self, node: str, upid: str, exit_status: str) -> Task:
        if exit_status == "OK":
            return Task(upid)
        lines = self._log(node, upid)
        if exit_status.startswith("WARNINGS"):
            return Task(upid, tuple(line for line in lines if "WARN" in line) or (exit_status,))
        # The exit status may be cut short; the log has the reason in full.
        error = error_from_text(_kind(upid), exit_status or "it ended without a status")
        if isinstance(error, LockTimeoutError):
            error = TaskBusyError(error.subject, error.cause, error.remedy)
        tail = "\n  ".join(lines[-_LOG_LINES:])
        if tail:
            error.args = (f"{error}\n  {tail}",)
        raise error

    def _log(self, node: str, upid: str) -> list[str]:
        try:
            lines = self.get(f"nodes/{node}/tasks/{upid}/log", limit=_LOG_LIMIT)
        except ProxmoxError:
            return []  # The failure itself is what has to be told.
        return [str(line.get("t", "")) for line in lines if line.get("t")]

    def _again(self, attempt: int, method: str, path: str, parameters: Parameters) -> Any:
        """Send a change; on a retry, "already so" means that the first try got through."""
        try:
            return self._send(method, path, parameters)
        except AlreadyError:
            if attempt == 1:
                raise
            return None

    def _retrying(self, send: Callable[[int], Any], again: Callable[[BaseException], bool]) -> Any:
        patience = self._patience
        retrying = Retrying(
            stop=stop_after_attempt(patience.attempts),
            wait=wait_exponential(patience.first_wait, patience.longest_wait)
            + wait_random(0, patience.first_wait),
            retry=retry_if_exception(again),
            reraise=True,
        )
        for attempt in retrying:
            with attempt:
                return send(attempt.retry_state.attempt_number)
        raise AssertionError("tenacity ends by a result or an error")  # pragma: no cover

    def _send(self, method: str, path: str, parameters: Parameters) -> Any:
        with self._counting:
            self.calls += 1
        subject = f"{method} {path}"
        try:
            with self._session() as session:
                resource = session(path)
                call = {"GET": resource.get, "POST": resource.post, "PUT": resource.put}
                return call.get(method, resource.delete)(**parameters)
        except ResourceException as error:
            raise _answered(subject, error) from None
        except requests.exceptions.SSLError as error:
            raise self._untrusted(subject, error) from None
        except requests.exceptions.Timeout:
            cause = f"{self._endpoint.address} did not answer within {self._patience.timeout:.0f} s"
            raise UnreachableError(subject, cause, self._reach()) from None
        except requests.exceptions.RequestException as error:
            cause = (
                f"no connection to {self._endpoint.address}:{self._endpoint.port} ({_short(error)})"
            )
            raise UnreachableError(subject, cause, self._reach()) from None

    def _reach(self) -> str:
        return (
            "check host.address and api_port, and that this machine may reach them: the host's firewall"
            " may leave only SSH open (docs/infra.md#reaching-the-api)"
        )

    def _untrusted(self, subject: str, error: Exception) -> CertificateError:
        if self._endpoint.fingerprint:
            cause = "the certificate has another fingerprint than host.fingerprint"
        else:
            cause = f"no known authority signed the certificate ({_short(error)})"
        remedy = (
            "compare it on the host itself: `pvenode cert info`, and set host.fingerprint to that of"
            " pve-ssl.pem (docs/infra.md#the-certificate)"
        )
        return CertificateError(subject, cause, remedy)

    @contextmanager
    def _session(self) -> Generator[ProxmoxResource]:
        """Lend a session, as those of requests are not for several threads at once."""
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._new_session()
        yield session
        # After an error it is not lent again: what is left of an answer may be in its way.
        self._idle.append(session)

    def _new_session(self) -> ProxmoxResource:
        endpoint = self._endpoint
        if endpoint.authority and not Path(endpoint.authority).is_file():
            cause = f"host.authority names {endpoint.authority}, which is no file"
            raise CertificateError(
                endpoint.address, cause, "name the authority's certificate in PEM"
            )
        user, _, name = self._token.name.partition("!")
        backend = Backend(
            endpoint.address,
            user=user,
            token_name=name,
            token_value=self._token.secret,
            port=endpoint.port,
            # A pinned fingerprint replaces the authorities; urllib3 then checks it on connecting.
            verify_ssl=False if endpoint.fingerprint else endpoint.authority or True,
            timeout=self._patience.timeout,
        )
        session = backend.get_session()
        session.mount("https://", self._adapter(endpoint))
        with self._counting:
            self._sessions.append(session)
        return ProxmoxResource(
            base_url=backend.get_base_url(), session=session, serializer=_Answers()
        )


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ProxmoxError) and error.transient


class _Answers(JsonSerializer):
    """Proxmox's answers; proxmoxer's own takes what is no JSON for data."""

    def loads(self, response: requests.Response) -> Any:
        try:
            return json.loads(response.content)["data"]
        except (ValueError, KeyError, TypeError):
            raise UnreadableAnswerError(
                response.request.path_url,
                f"the answer is not of Proxmox's API ({response.content[:60]!r})",
                "see whether host.address and api_port lead to pveproxy or to something before it",
            ) from None

    def loads_errors(self, response: requests.Response) -> Any:
        try:
            return json.loads(response.content).get("errors")
        except (ValueError, AttributeError):
            return None


class PinnedAdapter(HTTPAdapter):
    """Trusts the one certificate with this fingerprint."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Hand urllib3 the fingerprint, which it checks before a request is sent."""
        super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, **options)


def adapter_for(endpoint: Endpoint) -> HTTPAdapter:
    """Return what sends requests: one that pins the fingerprint, where there is one."""
    return PinnedAdapter(endpoint.fingerprint) if endpoint.fingerprint else HTTPAdapter()


def _answered(subject: str, error: ResourceException) -> ProxmoxError:
    fields = error.errors if isinstance(error.errors, dict) else None
    return error_from_answer(subject, int(error.status_code), str(error.content), fields)


def _kind(upid: str) -> str:
    parts = upid.split(":")
    kind, of = (parts[5], parts[6]) if len(parts) > 6 else (upid, "")  # noqa: PLR2004  UPID:node:pid:pstart:start:type:id
    return f"task {kind} {of}".strip()


def _short(error: Exception) -> str:
    """Return the innermost reason of a requests error, without urllib3's objects around it."""
    reason = error
    for _ in range(5):
        inner = getattr(reason, "reason", None) or (reason.args[0] if reason.args else None)
        if not isinstance(inner, BaseException):
            break
        reason = inner
    return str(reason).rsplit("> ", 1)[-1].rsplit(": ", 1)[-1][:120] or type(reason).__name__
