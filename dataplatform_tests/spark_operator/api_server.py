"""An API server of SparkApplications and pods, for faults that a real one can't be made to have.

It speaks the API's JSON over HTTP: create, get, list with labels, watch with field selector, resource
versions and bookmarks, delete. It drops watches, forgets versions (410), refuses and falls silent when
it is told to. What it must not be wrong about is held to a real API server in `test_cluster.py`.
"""

import json
import re
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from kubernetes import client

from dataplatform.resources.spark_operator.api import KubernetesApi

Json = dict[str, Any]
APPS = "sparkapplications"
_PATH = re.compile(
    r"^(?:/api/v1|/apis/sparkoperator\.k8s\.io/v1beta2)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?(?:/(?P<tail>.*))?$"
)


@dataclass
class Fault:
    """An answer instead of the right one, for requests that match."""

    method: str
    resource: str
    status: int
    body: str
    times: int = 1


@dataclass
class Log:
    """What a pod has written: lines with their timestamps; it may be cut off in between."""

    lines: list[str] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    ended: bool = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever asked has gone."""


class ApiServer:
    """The state of one API server, and what it is told to do wrong."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 100
        self.objects: dict[tuple[str, str], Json] = {}
        self.history: list[tuple[int, str, str, Json]] = []
        self.oldest = 0
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.logs: dict[str, Log] = {}
        self.pages: dict[str, str] = {}
        self.prunes_templates = False
        self.silent = False
        self.drop = 0
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"state": self}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def api(self, patience: float = 5) -> KubernetesApi:
        settings = client.Configuration()
        settings.host = self.url
        settings.retries = 0
        return KubernetesApi(client.ApiClient(settings), patience)

    def fail(
        self, method: str, resource: str, status: int, body: str | Json, times: int = 1
    ) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.faults.append(Fault(method, resource, status, text, times))

    def drop_watches(self) -> None:
        """Cut off all watches that are open."""
        with self.changed:
            self.drop += 1
            self.changed.notify_all()

    def forget(self) -> None:
        """Compact: watches from a version before now are answered with 410."""
        with self.changed:
            self.version += 1
            self.oldest = self.version

    def put(self, resource: str, content: Json, kind: str = "MODIFIED") -> Json:
        """Store an object as it is, telling the watches."""
        with self.changed:
            self.version += 1
            content["metadata"]["resourceVersion"] = str(self.version)
            self.objects[resource, content["metadata"]["name"]] = content
            self.history.append((self.version, resource, kind, deepcopy(content)))
            self.changed.notify_all()
        return content

    def set_status(self, name: str, status: Json | None) -> None:
        content = deepcopy(self.objects[APPS, name])
        if status:
            content["status"] = status
        self.put(APPS, content)

    def add_pod(self, name: str, app: str, status: Json, role: str = "driver") -> None:
        labels = {"sparkoperator.k8s.io/app-name": app, "spark-role": role}
        container = "spark-kubernetes-driver" if role == "driver" else "spark-kubernetes-executor"
        spec = {"containers": [{"name": container}]}
        metadata = {"name": name, "uid": str(uuid4()), "labels": labels}
        self.put("pods", {"metadata": metadata, "spec": spec, "status": status})

    def add_event(
        self,
        pod: Json,
        reason: str,
        message: str = "",
        age: float = 0,
        scheduler: bool = False,
        lasting: float = 0,
    ) -> None:
        """Store an event of a pod as the kubelet words it, or as the scheduler does.

        Args:
            pod: that it is about.
            reason: Kubernetes' word.
            message: Kubernetes' sentence.
            age: seconds since it was told last.
            scheduler: whether it is the scheduler's.
            lasting: seconds between the first time and the last.
        """
        at = datetime.now(UTC) - timedelta(seconds=age)
        second, micro = at.strftime("%Y-%m-%dT%H:%M:%SZ"), at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        first = (at - timedelta(seconds=lasting)).strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {key: pod["metadata"][key] for key in ("name", "uid")} | {"kind": "Pod"}
        times = {"firstTimestamp": first, "lastTimestamp": second, "eventTime": None}
        if scheduler:
            times = {"firstTimestamp": None, "lastTimestamp": None, "eventTime": micro}
        normal = reason in ("Scheduled", "Pulling", "Pulled")
        event = {
            "metadata": {"name": f"event-{uuid4().hex}", "creationTimestamp": first},
            "involvedObject": about,
            "type": "Normal" if normal else "Warning",
            "reason": reason,
            "message": message,
        }
        self.put("events", event | times)

    def delete(self, resource: str, name: str) -> Json | None:
        with self.changed:
            content = self.objects.pop((resource, name), None)
            if content:
                self.version += 1
                content["metadata"]["resourceVersion"] = str(self.version)
                self.history.append((self.version, resource, "DELETED", content))
                self.changed.notify_all()
        return content

    def names(self, resource: str = APPS) -> list[str]:
        return [name for kind, name in self.objects if kind == resource]

    def fault(self, method: str, resource: str) -> Fault | None:
        for each in self.faults:
            if (each.method, each.resource) == (method, resource) and each.times > 0:
                each.times -= 1
                return each
        return None


@contextmanager
def running() -> Generator[ApiServer]:
    state = ApiServer()
    thread = threading.Thread(target=state.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.drop_watches()
        state.server.shutdown()
        state.server.server_close()
        thread.join()


def status(code: int, reason: str, message: str, details: Json | None = None) -> Json:
    """Return a Status as the API server words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
    return body | {"message": message, "reason": reason, "details": details or {}, "code": code}


class _Handler(BaseHTTPRequestHandler):
    state: ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET", _get)

    def do_POST(self) -> None:
        self._answer("POST", _post)

    def do_DELETE(self) -> None:
        self._answer("DELETE", _delete)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, method: str, answer: Any) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        found = _PATH.match(url.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.state.silent or not found:
            self.close_connection = True
            return
        path = found.groupdict()
        resource = "/".join(filter(None, [path["resource"], path["sub"]]))
        self.state.requests.append(f"{method} {self.path}")
        kind = "WATCH" if query.get("watch") else method
        fault = self.state.fault(kind, resource)
        if fault:
            self.send(fault.status, fault.body)
        else:
            answer(self.state, self, path, query, body)

    def send(self, code: int, body: Json | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """End the connection in the midst of a chunk, as a lost network does."""
        self.wfile.write(b"40\r\n{")
        self.wfile.flush()
        self.close_connection = True


def _get(
    state: ApiServer, to: Any, path: Json, query: Mapping[str, str], _body: Json | None
) -> None:
    resource, name = path["resource"], path["name"]
    if path["sub"] == "log":
        _log(state.logs.get(name), to, query)
    elif path["sub"] == "proxy":
        page = state.pages.get(path["tail"])
        to.send(200, page) if page else to.send(503, status(503, "ServiceUnavailable", "no UI"))
    elif query.get("watch"):
        _watch(state, to, resource, query)
    elif name:
        content = state.objects.get((resource, name))
        to.send(200, content) if content else to.send(404, _missing(resource, name))
    else:
        items = [each for (kind, _), each in state.objects.items() if kind == resource]
        chosen = [
            each
            for each in items
            if _matches(each, query.get("labelSelector", ""))
            and _has_fields(each, query.get("fieldSelector", ""))
        ]
        to.send(200, {"items": chosen, "metadata": {"resourceVersion": str(state.version)}})


def _matches(content: Json, selector: str) -> bool:
    labels = content["metadata"].get("labels", {})
    for term in filter(None, selector.split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _has_fields(content: Json, selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        path, _, value = term.partition("=")
        found: Any = content
        for key in path.split("."):
            found = found[key]
        if found != value:
            return False
    return True


def _post(state: ApiServer, to: Any, path: Json, _query: object, body: Json | None) -> None:
    content = body or {}
    name = content["metadata"]["name"]
    if (path["resource"], name) in state.objects:
        message = f'sparkapplications.sparkoperator.k8s.io "{name}" already exists'
        to.send(409, status(409, "AlreadyExists", message, {"name": name, "kind": APPS}))
        return
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    content["metadata"] |= {"uid": str(uuid4()), "creationTimestamp": now}
    content["metadata"]["namespace"] = path["namespace"]
    for role in ("driver", "executor") if state.prunes_templates else ():
        content["spec"][role].pop("template", None)
    to.send(201, state.put(path["resource"], content, "ADDED"))


def _delete(state: ApiServer, to: Any, path: Json, _query: object, _body: object) -> None:
    resource, name = path["resource"], path["name"]
    content = state.objects.get((resource, name))
    if content is None:
        to.send(404, _missing(resource, name))
        return
    finalizers = content["metadata"].get("finalizers")
    if not finalizers:
        state.delete(resource, name)
        for (kind, pod), each in list(state.objects.items()):
            if kind == "pods" and _matches(each, f"sparkoperator.k8s.io/app-name={name}"):
                state.delete(kind, pod)
    to.send(200, {"kind": "Status", "status": "Success"})


def _missing(resource: str, name: str) -> Json:
    message = f'{resource} "{name}" not found'
    return status(404, "NotFound", message, {"name": name, "kind": resource})


def _watch(state: ApiServer, to: Any, resource: str, query: Mapping[str, str]) -> None:
    since, drop = int(query["resourceVersion"]), state.drop
    name = query["fieldSelector"].removeprefix("metadata.name=")
    to.begin()
    if since < state.oldest:
        expired = status(410, "Expired", f"too old resource version: {since} ({state.oldest})")
        to.chunk(json.dumps({"type": "ERROR", "object": expired}) + "\n")
        to.chunk("")
        return
    while True:
        with state.changed:
            news = [each for each in state.history if each[0] > since and each[1] == resource]
            if not news and state.drop == drop:
                state.changed.wait(0.5)
                news = [each for each in state.history if each[0] > since and each[1] == resource]
            dropped = state.drop != drop
        for version, _, kind, content in news:
            since = version
            if content["metadata"]["name"] == name:
                to.chunk(json.dumps({"type": kind, "object": content}) + "\n")
        if dropped:
            to.cut()
            return


def _log(log: Log | None, to: Any, query: Mapping[str, str]) -> None:
    if log is None:
        to.send(404, _missing("pods", "driver"))
        return
    if "tailLines" in query:
        lines = [line.partition(" ")[2] for line in log.lines[-int(query["tailLines"]) :]]
        to.send(200, "\n".join(lines) + "\n")
        return
    # The server compares whole seconds only.
    since = query.get("sinceTime", "")[:19]
    lines = [line for line in log.lines if line[:19] >= since]
    to.begin()
    if log.cut_after:
        end = log.cut_after.pop(0)
        if end:
            to.chunk("".join(f"{line}\n" for line in lines[:end]))
        to.cut()
        return
    to.chunk("".join(f"{line}\n" for line in lines))
    to.chunk("")
