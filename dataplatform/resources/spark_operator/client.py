"""Create, read, list, watch and delete SparkApplications."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from . import errors
from .api import Clock, KubernetesApi, Stop, Target, connect
from .ownership import NONCE_ANNOTATION
from .spec import API_VERSION, UI_PORT, Manifest
from .states import ApplicationState, Deadlines

PLURAL: Final = "sparkapplications"
APP_NAME_LABEL: Final = "sparkoperator.k8s.io/app-name"
"""What the operator puts on driver and executors."""

WATCH_SECONDS: Final = 45
"""A watch is opened anew so often: a connection that died silently is noticed by then."""
_MARGIN: Final = 15
_GONE: Final = 410
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0


@dataclass(frozen=True)
class Application:
    """A SparkApplication as the API server has it."""

    manifest: Manifest

    @property
    def name(self) -> str:
        """Its name."""
        return self.manifest["metadata"]["name"]

    @property
    def namespace(self) -> str:
        """Where it is."""
        return self.manifest["metadata"]["namespace"]

    @property
    def uid(self) -> str:
        """What tells it from another of the same name."""
        return self.manifest["metadata"]["uid"]

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.manifest["metadata"].get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""
        return self.manifest["metadata"].get("annotations") or {}

    @property
    def created_at(self) -> str:
        """When it was created, in RFC 3339."""
        return self.manifest["metadata"]["creationTimestamp"]

    @property
    def is_deleting(self) -> bool:
        """Whether its deletion has begun."""
        return "deletionTimestamp" in self.manifest["metadata"]

    @property
    def status(self) -> Mapping[str, Any]:
        """What the operator has written; empty before it has."""
        return self.manifest.get("status") or {}

    @property
    def state(self) -> ApplicationState:
        """The state of its machine."""
        return ApplicationState.parse((self.status.get("applicationState") or {}).get("state"))

    @property
    def error_message(self) -> str:
        """The operator's reason of a failure; empty where there is none."""
        return (self.status.get("applicationState") or {}).get("errorMessage") or ""

    @property
    def driver_pod(self) -> str:
        """The name of the driver's pod."""
        return (self.status.get("driverInfo") or {}).get("podName") or f"{self.name}-driver"

    @property
    def ui_port(self) -> int:
        """The port of the driver's UI: as Spark was told, or as the operator found it."""
        conf = self.manifest["spec"].get("sparkConf") or {}
        found = (self.status.get("driverInfo") or {}).get("webUIPort")
        return int(conf.get("spark.ui.port") or found or UI_PORT)

    @property
    def spark_id(self) -> str | None:
        """Spark's own id, such as `spark-70ef…`."""
        return self.status.get("sparkApplicationId")

    @property
    def attempts(self) -> int:
        """How often the operator has started it."""
        return self.status.get("executionAttempts") or 0

    @property
    def submission(self) -> str:
        """What tells one driver of it from the next; empty before there is one."""
        return self.status.get("submissionID") or (str(self.attempts) if self.attempts else "")

    @property
    def executors(self) -> Mapping[str, str]:
        """The state of each executor by the name of its pod."""
        return self.status.get("executorState") or {}


class SparkApplicationClient:
    """The SparkApplications of one namespace.

    Args:
        api: the API server.
        namespace: where the applications are.
        deadlines: `unreachable` and `deletion` are used here.
        propagation: how their pods are deleted: `Foreground`, the application goes after its
            driver; `Background`, before.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        deadlines: Deadlines | None = None,
        propagation: str = "Foreground",
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.deadlines = deadlines or Deadlines()
        self.propagation = propagation

    @classmethod
    def connect(
        cls,
        namespace: str,
        kubeconfig: str | None = None,
        context: str | None = None,
        in_cluster: bool | None = None,
        deadlines: Deadlines | None = None,
    ) -> "SparkApplicationClient":
        """Sign in to an API server; arguments as in `api.connect`."""
        times = deadlines or Deadlines()
        api = connect(kubeconfig, context, in_cluster, times.unreachable)
        return cls(api, namespace, times)

    def create(self, manifest: Manifest) -> Application:
        """Submit an application.

        A request whose answer got lost may have been fulfilled: an annotation tells then whether
        the application that exists is this one.

        Raises:
            ApplicationExistsError: another one has its name.
            QuotaExceededError: the namespace's quota has no room.
            WebhookDeniedError: an admission webhook or policy refused it.
            InvalidApplicationError: the CRD's schema does not accept it.
            OperatorNotInstalledError: there is no such CRD.
            OperatorTooOldError: the CRD is one without pod templates.
            KubernetesApiError: any other refusal; see `errors`.
        """
        ours = deepcopy(manifest)
        nonce = secrets.token_hex(8)
        ours["metadata"].setdefault("annotations", {})[NONCE_ANNOTATION] = nonce
        name = ours["metadata"]["name"]
        target = Target("create", PLURAL, self.namespace, group=API_VERSION, about=name)
        try:
            made = Application(self.api.request("POST", target, body=ours))
            self._refuse_pruned(manifest, made)
            return made
        except errors.ApplicationExistsError:
            existing = self.get(name)
            if existing.annotations.get(NONCE_ANNOTATION) != nonce:
                raise
            return existing

    def get(self, name: str, patience: float | None = None) -> Application:
        """Read an application.

        Args:
            name: its name.
            patience: seconds for an API server that does not answer; None, the usual.

        Raises:
            ApplicationNotFoundError: there is none of that name.
            KubernetesApiError: any other refusal.
        """
        target = self._target("get", name)
        return Application(self.api.request("GET", target, patience=patience))

    def find(self, selector: str = "", patience: float | None = None) -> list[Application]:
        """Return the applications with these labels, oldest first.

        Args:
            selector: of labels; empty, all.
            patience: seconds for an API server that does not answer; None, the usual.

        Raises:
            KubernetesApiError: the kind of refusal.
        """
        query = {"labelSelector": selector} if selector else {}
        answer = self.api.request("GET", self._target("list"), query, patience=patience)
        found = [Application(item) for item in answer["items"]]
        return sorted(found, key=lambda application: application.created_at)

    def pods(self, name: str, patience: float | None = None) -> list[Manifest]:
        """Return the pods of an application: its driver and executors.

        Raises:
            KubernetesApiError: the kind of refusal.
        """
        query = {"labelSelector": f"{APP_NAME_LABEL}={name}"}
        target = Target("list", "pods", self.namespace)
        return self.api.request("GET", target, query, patience=patience)["items"]

    def delete(self, name: str, wait: float | None = None) -> None:
        """Delete an application with its pods, and wait until all are gone.

        One that is gone already is fine.

        Args:
            name: its name.
            wait: seconds; None, the deadline `deletion`; 0, nothing is waited for.

        Raises:
            DeletionTimeoutError: the application or a pod is still there.
            KubernetesApiError: the deletion was refused.
        """
        clock = Clock(self.deadlines.deletion if wait is None else wait)
        query = {"propagationPolicy": self.propagation}
        try:
            target = self._target("delete", name)
            self.api.request("DELETE", target, query, patience=max(clock.left, 1.0))
        except errors.ApplicationNotFoundError:
            # Its pods may still be ending.
            pass
        if wait != 0:
            self._wait_until_gone(name, clock)

    def watch(self, name: str, stop: Stop | None = None) -> Iterator[Application]:
        """Yield an application as it is, and after each change, until `stop`.

        A watch that is dropped goes on where it was; when the API server has forgotten that point
        (410 Gone), the application is read anew. States may be skipped then, never the last.

        Args:
            name: its name.
            stop: ends it from another thread.

        Raises:
            ApplicationNotFoundError: it was deleted, or replaced by another of the same name.
            ApiServerUnreachableError: for longer than the deadline `unreachable`.
            KubernetesApiError: any other refusal.
        """
        yield from _Watch(self, name, stop or Stop()).changes()

    def _refuse_pruned(self, asked: Manifest, made: Application) -> None:
        """Delete an application whose templates an old CRD has dropped, without a word of its own."""
        kept = made.manifest["spec"]
        roles = [
            role for role in ("driver", "executor") if "template" in asked["spec"].get(role, {})
        ]
        dropped = [role for role in roles if "template" not in kept.get(role, {})]
        if dropped:
            self.delete(made.name, wait=0)
            raise errors.OperatorTooOldError(
                f"{self.namespace}/{made.name}",
                f"the API server dropped {' and '.join(f'spec.{role}.template' for role in dropped)}:"
                " the CRD is older than the operator 2.1",
                "raise the operator to 2.4 or later together with its CRDs, which `helm upgrade` leaves"
                " as they are unless `hook.upgradeCrd=true` is set",
            )

    def _wait_until_gone(self, name: str, clock: Clock) -> None:
        pause = _FIRST_PAUSE
        while left := self._left(name, max(clock.left, 1.0)):
            if clock.is_over:
                error = errors.DeletionTimeoutError(
                    f"{self.namespace}/{name}",
                    f"{', '.join(left)} still there {clock.seconds:.0f} s after its deletion",
                    f"look at its finalizers and at the node of its pods: kubectl get sparkapp,pods"
                    f" -n {self.namespace} -l {APP_NAME_LABEL}={name}; a reaper deletes it later",
                )
                error.left = tuple(left)
                raise error
            time.sleep(min(pause, clock.left))
            pause = min(pause * 1.5, 2.0)

    def _left(self, name: str, patience: float) -> list[str]:
        left = [f"pod {pod['metadata']['name']}" for pod in self.pods(name, patience)]
        try:
            self.get(name, patience)
        except errors.ApplicationNotFoundError:
            return left
        return [f"application {name}", *left]

    def _target(self, verb: str, name: str | None = None) -> Target:
        return Target(verb, PLURAL, self.namespace, name, API_VERSION)


class _Watch:
    """One application, followed over dropped connections."""

    def __init__(self, client: SparkApplicationClient, name: str, stop: Stop) -> None:
        self.client = client
        self.name = name
        self.stop = stop
        self.uid: str | None = None
        self.version: str | None = None
        self.silent: Clock | None = None
        self.pause = _FIRST_PAUSE

    def changes(self) -> Iterator[Application]:
        while not self.stop.is_set():
            try:
                if self.version is None:
                    yield self._seen(self.client.get(self.name, patience=0))
                yield from self._events()
                # Something between here and the API server may end each watch at once.
                self.stop.wait(_FIRST_PAUSE)
            except errors.ApiServerUnreachableError:
                # From the first failure on: nothing may have changed for long before it.
                self.silent = self.silent or Clock(self.client.deadlines.unreachable)
                if self.silent.is_over and not self.stop.is_set():
                    raise
                self.stop.wait(min(self.pause, self.silent.left))
                self.pause = min(self.pause * 2, _LONGEST_PAUSE)

    def _events(self) -> Iterator[Application]:
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={self.name}",
            "resourceVersion": self.version or "",
            "timeoutSeconds": str(WATCH_SECONDS),
            "allowWatchBookmarks": "true",
        }
        target = Target("watch", PLURAL, self.client.namespace, None, API_VERSION)
        try:
            with self.client.api.stream(target, query, WATCH_SECONDS + _MARGIN, self.stop) as lines:
                self._answered()
                for line in lines:
                    yield from self._event(line)
        except errors.KubernetesApiError as error:
            if error.status != _GONE:
                raise
            self.version = None

    def _event(self, line: str) -> Iterator[Application]:
        try:
            event = json.loads(line)
        except ValueError as error:
            raise errors.ApiServerUnreachableError(
                self.name, "the watch was cut off within a line", "none needed: it is opened again"
            ) from error
        kind, content = event["type"], event["object"]
        if kind == "ERROR":
            raise self._refused(content)
        self.version = content["metadata"]["resourceVersion"]
        if kind == "DELETED":
            raise self._deleted()
        if kind != "BOOKMARK":
            yield self._seen(Application(content))

    def _refused(self, status: Mapping[str, Any]) -> errors.KubernetesApiError:
        error = errors.ApiServerUnreachableError(
            self.name,
            f"the watch ended: {status.get('message')}",
            "none needed: it is opened again",
        )
        error.status = status.get("code") or 0
        if error.status == _GONE:
            self.version = None
        return error

    def _seen(self, application: Application) -> Application:
        if self.uid not in (None, application.uid):
            raise self._deleted()
        self.uid = application.uid
        self.version = application.manifest["metadata"]["resourceVersion"]
        self._answered()
        return application

    def _answered(self) -> None:
        self.silent = None
        self.pause = _FIRST_PAUSE

    def _deleted(self) -> errors.ApplicationNotFoundError:
        return errors.ApplicationNotFoundError(
            f"{self.client.namespace}/{self.name}",
            "the application was deleted while it was followed",
            "look who deleted it: a person, a TTL or another reaper; the next attempt submits anew",
        )
