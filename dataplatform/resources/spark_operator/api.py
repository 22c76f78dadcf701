"""Requests to the Kubernetes API server: which are repeated, and what a refusal means.

The official client signs in and speaks HTTP; here its answers become JSON or a typed error.
"""

import json
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from kubernetes import client, config
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from . import errors
from .errors import KubernetesApiError

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
RBAC_PAGE: Final = "`Permissions` in docs/spark-operator.md has the whole role and its binding"

_OWN_FAULTS: Final = frozenset({429, 500, 502, 503, 504})
_TRANSIENT: Final = (errors.ApiServerUnreachableError, errors.WebhookUnavailableError)


@dataclass(frozen=True)
class Target:
    """What a request is about, for its address and for its error.

    Attributes:
        verb: of RBAC: create, get, list, watch, delete.
        resource: of RBAC, such as `pods/log`.
        namespace: where it is.
        name: of the object; None for a collection.
        group: the API group and version; `v1` for the core.
        tail: what follows in the address, such as the path that a proxy hands on.
        about: the object's name where the address has none, as for one that is created.
    """

    verb: str
    resource: str
    namespace: str
    name: str | None = None
    group: str = "v1"
    tail: str = ""
    about: str | None = None

    @property
    def called(self) -> str | None:
        """The object's name."""
        return self.name or self.about

    @property
    def path(self) -> str:
        """The address below the API server's."""
        root = "/api/v1" if self.group == "v1" else f"/apis/{self.group}"
        resource, _, sub = self.resource.partition("/")
        parts = [root, "namespaces", self.namespace, resource, self.name, sub, self.tail]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        """Return how errors name it."""
        return f"{self.namespace}/{self.called}" if self.called else f"namespace {self.namespace}"


class Stop:
    """Ends what reads from the API server in another thread, at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._response: urllib3.BaseHTTPResponse | None = None

    def set(self) -> None:
        """End the present stream and begin none any more."""
        self._event.set()
        with self._lock:
            if self._response is not None:
                _shut(self._response)

    def is_set(self) -> bool:
        """Return whether it is over."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is over; returns whether it is."""
        return self._event.wait(seconds)

    @contextmanager
    def ending(self, response: urllib3.BaseHTTPResponse) -> Generator[None]:
        """Let `set` end `response` within the block."""
        with self._lock:
            self._response = response
            if self.is_set():
                _shut(response)
        try:
            yield
        finally:
            with self._lock:
                self._response = None


def _shut(response: urllib3.BaseHTTPResponse) -> None:
    try:
        response.shutdown()
    except (OSError, RuntimeError, ValueError):
        # The connection ended by itself meanwhile; there is nothing left to end.
        return


class KubernetesApi:
    """One API server.

    Args:
        api: the official client, signed in.
        patience: seconds for which a request is repeated while the server does not answer.
    """

    def __init__(self, api: client.ApiClient, patience: float = 300) -> None:
        self.api = api
        self.patience = patience

    @property
    def host(self) -> str:
        """The server's address."""
        return self.api.configuration.host

    def request(
        self,
        method: str,
        target: Target,
        query: Mapping[str, str] | None = None,
        body: object = None,
        patience: float | None = None,
    ) -> Any:
        """Return the JSON that the server answers.

        Args:
            method: of HTTP.
            target: what it is about.
            query: of the address.
            body: sent as JSON.
            patience: seconds, instead of the API's own; 0, the request is not repeated.

        Raises:
            KubernetesApiError: the kind of refusal.
        """
        limit = self.patience if patience is None else patience
        for attempt in Retrying(
            retry=retry_if_exception_type(_TRANSIENT),
            stop=stop_after_delay(limit),
            wait=wait_exponential_jitter(multiplier=0.2, max=10, jitter=0.5),
            reraise=True,
        ):
            with attempt:
                response = self._call(method, target, query or {}, body, READ_SECONDS)
                return _json(response.data, target)
        raise AssertionError("tenacity returns or raises")

    def text(self, target: Target, query: Mapping[str, str], read: float = READ_SECONDS) -> str:
        """Return what the server answers to one GET as text; it is not repeated."""
        response = self._call("GET", target, query, None, read)
        return response.data.decode("utf-8", "replace")

    @contextmanager
    def stream(
        self, target: Target, query: Mapping[str, str], read: float, stop: Stop
    ) -> Generator[Iterator[str]]:
        """Open an answer that goes on, and give its lines as they come.

        Args:
            target: what it is about.
            query: of the address.
            read: seconds without a byte after which it counts as dropped.
            stop: ends it.

        Raises:
            ApiServerUnreachableError: it was dropped.
            KubernetesApiError: it was refused.
        """
        response = self._call("GET", target, query, None, read)
        try:
            with stop.ending(response):
                yield _lines(response, target)
        finally:
            response.close()

    def _call(
        self, method: str, target: Target, query: Mapping[str, str], body: object, read: float
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self.api.call_api(
                target.path,
                method,
                query_params=list(query.items()),
                header_params={"Accept": "application/json, */*"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(CONNECT_SECONDS, read),
            )
        except client.ApiException as error:
            raise explain(error, target) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _unreachable(target, error) from error


def connect(
    kubeconfig: str | None = None,
    context: str | None = None,
    in_cluster: bool | None = None,
    patience: float = 300,
) -> KubernetesApi:
    """Sign in to an API server.

    Args:
        kubeconfig: a file; None, the one that kubectl would use.
        context: one of the file; None, its current one.
        in_cluster: with the pod's service account; None, where this runs in a pod and no file is
            named.
        patience: as in `KubernetesApi`.

    Raises:
        UnauthorizedError: there is no usable configuration.
    """
    settings = client.Configuration()
    # Requests are repeated here, where the reason is known.
    settings.retries = 0
    try:
        if in_cluster or (in_cluster is None and kubeconfig is None and _in_pod()):
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(kubeconfig, context, settings)
    except (config.ConfigException, OSError) as error:
        raise errors.UnauthorizedError(
            "Kubernetes",
            f"{kubeconfig or 'the usual kubeconfig'} does not say how to reach the API server: {error}",
            "name a kubeconfig and its context, or run in a pod with a service account",
        ) from error
    return KubernetesApi(client.ApiClient(settings), patience)


def _in_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _lines(response: urllib3.BaseHTTPResponse, target: Target) -> Iterator[str]:
    """Yield lines without their ends; the last one even where its end is missing."""
    rest = b""
    try:
        for chunk in response.stream(2**16, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace")
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _unreachable(target, error) from error
    if rest:
        yield rest.decode("utf-8", "replace")


def _json(data: bytes, target: Target) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise _unreachable(target, error) from error


def _unreachable(target: Target, error: Exception) -> KubernetesApiError:
    return errors.ApiServerUnreachableError(
        str(target),
        f"the API server did not answer to {target.verb} {target.resource}:"
        f" {type(error).__name__}: {_reason(error)}",
        "look whether the API server is up and its address in the kubeconfig is right; the"
        " application, if there is one, goes on meanwhile",
    )


def _reason(error: Exception) -> object:
    return getattr(error, "reason", None) or error


def explain(error: client.ApiException, target: Target) -> KubernetesApiError:
    """Return the typed error of a refusal.

    Args:
        error: what the official client raised.
        target: what the request was about.
    """
    status = int(error.status or 0)
    body = _body(error)
    message = str(body.get("message") or error.reason or "no reason given")
    explained = _by_text(status, message, target) or _by_status(status, message, body, target)
    explained.status = status
    return explained


def _body(error: client.ApiException) -> dict[str, Any]:
    text = error.body
    if text is None:
        return {}
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except ValueError:
        return {"message": text.strip()}
    return body if isinstance(body, dict) else {}


def _by_text(status: int, message: str, target: Target) -> KubernetesApiError | None:
    """Explain what only the message tells: the status is the same for several causes."""
    return classify(str(target), message) or (
        _namespace_missing(target, message) if _is_namespace(status, message) else None
    )


def classify(what: str, message: str) -> KubernetesApiError | None:
    """Return the error of an admission's refusal by its text, or None where it is none.

    The operator hands the texts on when `spark-submit` is refused the driver's pod.
    """
    if "exceeded quota" in message or "failed to validate resource quota" in message:
        return errors.QuotaExceededError(
            what,
            f"the namespace's quota has no room: {message}",
            "wait until other applications have ended, ask for fewer or smaller executors, or raise"
            " the ResourceQuota",
        )
    if "failed calling webhook" in message:
        return errors.WebhookUnavailableError(
            what,
            f"an admission webhook did not answer: {message}",
            "look at the pods of the webhook's service; spark-operator's is spark-operator-webhook",
        )
    if _is_denial(message):
        return errors.WebhookDeniedError(
            what,
            f"an admission check refused it: {message}",
            "change the specification as the message says, or the policy",
        )
    return None


def _is_denial(message: str) -> bool:
    webhook = "admission webhook" in message and "denied the request" in message
    return webhook or "violates PodSecurity" in message or "ValidatingAdmissionPolicy" in message


def _is_namespace(status: int, message: str) -> bool:
    terminating = "because it is being terminated" in message
    return (status == 404 and message.startswith("namespaces ")) or terminating  # noqa: PLR2004


def _namespace_missing(target: Target, message: str) -> KubernetesApiError:
    return errors.NamespaceNotFoundError(
        f"namespace {target.namespace}",
        message,
        f"create it, and let the operator watch it (the chart's value `spark.jobNamespaces` has to"
        f" name {target.namespace})",
    )


def _by_status(
    status: int, message: str, body: Mapping[str, Any], target: Target
) -> KubernetesApiError:
    what = str(target)
    if status in _OWN_FAULTS or status == 0:
        return errors.ApiServerUnreachableError(
            what,
            f"the API server answered {target.verb} {target.resource} with {status}: {message}",
            "look at the API server's and etcd's health; the application goes on meanwhile",
        )
    kinds = {401: _unauthorized, 403: _forbidden, 404: _missing, 409: _conflict}
    invalid = {400, 405, 413, 422}
    if status in kinds:
        return kinds[status](what, message, body, target)
    if status in invalid:
        return errors.InvalidApplicationError(
            what,
            f"the API server does not accept the specification: {message}",
            "correct the fields it names; the CRD may be of another version of the operator",
        )
    return KubernetesApiError(
        what, f"{target.verb} {target.resource}: {status}: {message}", "see the message"
    )


def _unauthorized(
    what: str, message: str, _body: Mapping[str, Any], _target: Target
) -> KubernetesApiError:
    return errors.UnauthorizedError(
        what,
        f"the API server does not accept the credentials: {message}",
        "renew the kubeconfig's token or certificate, or look whether the pod's service account"
        " still exists",
    )


def _forbidden(
    what: str, message: str, _body: Mapping[str, Any], target: Target
) -> KubernetesApiError:
    group = "" if target.group == "v1" else target.group.split("/")[0]
    rule = f'{{apiGroups: ["{group}"], resources: ["{target.resource}"], verbs: ["{target.verb}"]}}'
    return errors.ForbiddenError(
        what,
        f"the verb {target.verb} on {target.resource} is missing: {message}",
        f"add the rule {rule} to a Role in {target.namespace} that is bound to the service account"
        f" of the Dagster pods; {RBAC_PAGE}",
    )


def _missing(
    what: str, message: str, body: Mapping[str, Any], target: Target
) -> KubernetesApiError:
    # A kind that the server does not know has no Status in JSON, only "404 page not found".
    if target.group != "v1" and not body.get("details"):
        return errors.OperatorNotInstalledError(
            what,
            f"the API server knows no {target.resource} of {target.group}: {message}",
            "install the Spark Operator with its CRDs: helm install spark-operator"
            " spark-operator/spark-operator --version 2.5.2",
        )
    return errors.ApplicationNotFoundError(
        what, message, "look who deleted it; the next attempt submits a new one"
    )


def _conflict(
    what: str, message: str, body: Mapping[str, Any], target: Target
) -> KubernetesApiError:
    if body.get("reason") == "AlreadyExists":
        return errors.ApplicationExistsError(
            what,
            message,
            f"delete it (kubectl delete sparkapp {target.called} -n {target.namespace}) or use another"
            " name; names that the library gives are unique",
        )
    return KubernetesApiError(
        what, f"409: {message}", "try again: the object was changed meanwhile"
    )


class Clock:
    """Seconds since a start, by a clock that no time synchronisation sets.

    Args:
        limit: seconds until it is over; None, never.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds until it is over; infinite where it never is."""
        return float("inf") if self.limit is None else max(0.0, self.limit - self.seconds)

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.left <= 0
