import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.api import Stop
from dataplatform.resources.spark_operator.client import Application, SparkApplicationClient
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform.resources.spark_operator.states import ApplicationState, Deadlines
from dataplatform_tests.spark_operator.api_server import APPS, ApiServer, status
from dataplatform_tests.spark_operator.operator import state, trace

APPLICATION = SparkApplication(image="spark", main_file="local:///a.py")
QUOTA = (
    'pods "x" is forbidden: exceeded quota: team, requested: cpu=4, used: cpu=8, limited: cpu=10'
)
FORBIDDEN = (
    'sparkapplications.sparkoperator.k8s.io is forbidden: User "system:serviceaccount:a:b" cannot'
    ' create resource "sparkapplications" in API group "sparkoperator.k8s.io" in the namespace "spark"'
)
DENIED = 'admission webhook "validate.sparkoperator.k8s.io" denied the request: invalid name'
UNANSWERED = 'Internal error occurred: failed calling webhook "mutate.sparkoperator.k8s.io": connect: refused'


def manifest(name: str = "app") -> dict[str, Any]:
    return APPLICATION.manifest(name, "spark")


def follow(
    client: SparkApplicationClient, name: str = "app", seen: Callable[[Application], object] = id
) -> list[str]:
    """Return the names of all states until the final one."""
    states: list[str] = []
    stop = Stop()
    for application in client.watch(name, stop):
        seen(application)
        if states[-1:] != [application.state.name]:
            states.append(application.state.name)
        if application.state.is_final:
            break
    return states


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (status(403, "Forbidden", QUOTA), errors.QuotaExceededError, "raise the ResourceQuota"),
        (status(403, "Forbidden", FORBIDDEN), errors.ForbiddenError, 'verbs: ["create"]'),
        (status(403, "Forbidden", DENIED), errors.WebhookDeniedError, "invalid name"),
        (status(400, "BadRequest", DENIED), errors.WebhookDeniedError, "invalid name"),
        (
            status(422, "Invalid", "spec.type: Required value"),
            errors.InvalidApplicationError,
            "type",
        ),
        (status(401, "Unauthorized", "Unauthorized"), errors.UnauthorizedError, "kubeconfig"),
        (
            status(404, "NotFound", 'namespaces "spark" not found', {"kind": "namespaces"}),
            errors.NamespaceNotFoundError,
            "jobNamespaces",
        ),
        ("404 page not found\n", errors.OperatorNotInstalledError, "helm install"),
        (status(418, "Teapot", "short and stout"), errors.KubernetesApiError, "short and stout"),
    ],
)
def test_each_refusal_is_an_error_of_its_own(
    server: ApiServer,
    client: SparkApplicationClient,
    answer: Any,
    error: type[errors.KubernetesApiError],
    says: str,
) -> None:
    code = 404 if isinstance(answer, str) else answer["code"]
    server.fail("POST", APPS, code, answer)

    with pytest.raises(error, match="Remedy:") as caught:
        client.create(manifest())

    assert type(caught.value) is error
    assert says in str(caught.value)
    assert caught.value.status == code
    assert len(server.requests) == 1


def test_a_crd_that_drops_the_pods_templates_is_said_and_nothing_is_left_running(
    server: ApiServer, client: SparkApplicationClient
) -> None:
    server.prunes_templates = True

    with pytest.raises(errors.OperatorTooOldError, match=r"spec\.driver\.template.*2\.4 or later"):
        client.create(manifest())

    assert server.names() == []


def test_a_webhook_that_is_being_restarted_is_waited_for(
    server: ApiServer, client: SparkApplicationClient
) -> None:
    server.fail("POST", APPS, 500, status(500, "InternalError", UNANSWERED), times=2)

    assert client.create(manifest()).state is ApplicationState.NEW


def test_a_webhook_that_stays_away_is_told_from_a_lost_api_server(server: ApiServer) -> None:
    server.fail("POST", APPS, 500, status(500, "InternalError", UNANSWERED), times=99)
    impatient = SparkApplicationClient(server.api(patience=0.5), "spark")

    with pytest.raises(errors.WebhookUnavailableError, match="spark-operator-webhook"):
        impatient.create(manifest())


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_an_api_server_in_trouble_is_asked_again(
    server: ApiServer, client: SparkApplicationClient, code: int
) -> None:
    server.fail("POST", APPS, code, status(code, "Trouble", "etcdserver: leader changed"))

    client.create(manifest())

    assert server.names() == ["app"]


def test_an_api_server_that_is_gone_is_given_up_after_a_bounded_time(server: ApiServer) -> None:
    server.silent = True
    lost = SparkApplicationClient(server.api(patience=0.5), "spark")
    began = time.monotonic()

    with pytest.raises(errors.ApiServerUnreachableError, match="did not answer to create"):
        lost.create(manifest())

    assert time.monotonic() - began < 3


def test_another_application_of_the_same_name_is_not_taken_for_ours(
    client: SparkApplicationClient,
) -> None:
    client.create(manifest())

    with pytest.raises(errors.ApplicationExistsError, match="kubectl delete sparkapp app"):
        client.create(manifest())


def test_a_submission_whose_answer_was_lost_is_not_submitted_twice(
    server: ApiServer, client: SparkApplicationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    fulfilled = server.put

    def put_and_lose(*arguments: Any) -> Any:
        monkeypatch.setattr(server, "put", fulfilled)
        fulfilled(*arguments)
        raise ConnectionAbortedError

    monkeypatch.setattr(server, "put", put_and_lose)

    application = client.create(manifest())

    assert server.names() == ["app"]
    assert application.uid == server.objects[APPS, "app"]["metadata"]["uid"]


@pytest.mark.parametrize("recording", ["silver", "failing", "badsubmit"])
def test_every_recorded_sequence_is_seen_to_its_end(
    server: ApiServer, client: SparkApplicationClient, recording: str
) -> None:
    client.create(manifest())
    statuses = trace(recording, "app")
    thread = threading.Thread(target=play, args=(server, statuses))
    thread.start()

    seen = follow(client)
    thread.join()

    expected = [state(each) or "NEW" for each in statuses]
    assert seen == [name for i, name in enumerate(expected) if expected[i - 1 : i] != [name]]


def play(server: ApiServer, statuses: list[Any], pause: float = 0.02) -> None:
    time.sleep(0.2)
    for each in statuses:
        server.set_status("app", each)
        time.sleep(pause)


def test_a_dropped_watch_goes_on_where_it_was(
    server: ApiServer, client: SparkApplicationClient
) -> None:
    client.create(manifest())
    statuses = trace("silver", "app")

    def play_and_drop() -> None:
        for each in statuses:
            time.sleep(0.05)
            server.set_status("app", each)
            server.drop_watches()

    thread = threading.Thread(target=play_and_drop)
    thread.start()
    versions: list[str] = []
    seen = follow(
        client, seen=lambda app: versions.append(app.manifest["metadata"]["resourceVersion"])
    )
    thread.join()

    assert seen == ["NEW", "SUBMITTED", "RUNNING", "SUCCEEDING", "COMPLETED"]
    assert len(versions) == len(set(versions)), "a change was seen twice"
    reads = [each for each in server.requests if each.startswith("GET") and "watch" not in each]
    assert len(reads) == 1, "it was read anew rather than resumed"


@pytest.mark.parametrize("way", ["event", "answer"])
def test_a_version_that_the_api_server_forgot_is_read_anew(
    server: ApiServer, client: SparkApplicationClient, way: str
) -> None:
    client.create(manifest())
    statuses = trace("silver", "app")
    seen: list[str] = []

    def forget(application: Application) -> None:
        seen.append(application.state.name)
        if len(seen) == 1:
            server.set_status("app", statuses[-1])
            if way == "event":
                server.forget()
            else:
                server.fail("WATCH", APPS, 410, status(410, "Expired", "too old"))

    follow(client, seen=forget)

    assert seen == ["NEW", "COMPLETED"]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_watch_that_is_refused_for_a_while_is_opened_again(
    server: ApiServer, client: SparkApplicationClient, code: int
) -> None:
    client.create(manifest())
    server.fail("WATCH", APPS, code, status(code, "Trouble", "starting up"), times=2)
    server.set_status("app", trace("silver", "app")[-1])

    assert follow(client)[-1] == "COMPLETED"


def test_a_watch_that_is_forbidden_names_the_verb(
    server: ApiServer, client: SparkApplicationClient
) -> None:
    client.create(manifest())
    server.fail("WATCH", APPS, 403, status(403, "Forbidden", "cannot watch"))

    with pytest.raises(errors.ForbiddenError, match=r'verbs: \["watch"\]'):
        follow(client)


def test_an_api_server_that_stays_away_ends_the_watch(server: ApiServer) -> None:
    client = SparkApplicationClient(server.api(), "spark", Deadlines(unreachable=0.6))
    client.create(manifest())
    began = time.monotonic()

    def lose(_: Application) -> None:
        server.silent = True
        server.drop_watches()

    with pytest.raises(errors.ApiServerUnreachableError):
        follow(client, seen=lose)

    assert 0.5 < time.monotonic() - began < 5


def test_a_watch_that_was_idle_for_long_may_drop(server: ApiServer) -> None:
    client = SparkApplicationClient(server.api(), "spark", Deadlines(unreachable=0.5))
    client.create(manifest())
    fault = status(503, "ServiceUnavailable", "no healthy upstream")

    def drop() -> None:
        server.fail("WATCH", APPS, 503, fault)
        server.drop_watches()

    timers = [
        threading.Timer(1, drop),
        threading.Timer(1.5, server.set_status, ("app", trace("silver", "app")[-1])),
    ]
    for timer in timers:
        timer.start()

    assert follow(client) == ["NEW", "COMPLETED"]


@pytest.mark.parametrize("replaced", [False, True])
def test_an_application_that_somebody_deletes_is_an_error(
    server: ApiServer, client: SparkApplicationClient, replaced: bool
) -> None:
    client.create(manifest())

    def delete(_: Application) -> None:
        server.delete(APPS, "app")
        if replaced:
            server.drop_watches()
            server.forget()
            client.create(manifest())

    with pytest.raises(errors.ApplicationNotFoundError, match="was deleted while"):
        follow(client, seen=delete)


def test_a_watch_is_stopped_from_another_thread_at_once(
    client: SparkApplicationClient,
) -> None:
    client.create(manifest())
    stop = Stop()
    threading.Timer(0.3, stop.set).start()
    began = time.monotonic()

    seen = list(client.watch("app", stop))

    assert len(seen) == 1
    assert time.monotonic() - began < 1.5


def test_applications_are_found_by_their_labels(client: SparkApplicationClient) -> None:
    for name, run in (("a", "1"), ("b", "2")):
        client.create(APPLICATION.manifest(name, "spark", {"dagster/run-id": run}))

    assert [each.name for each in client.find("dagster/run-id=2")] == ["b"]
    assert [each.name for each in client.find()] == ["a", "b"]


def test_deletion_waits_for_the_pods_and_does_not_mind_what_is_gone(
    server: ApiServer, client: SparkApplicationClient
) -> None:
    client.create(manifest())
    server.add_pod("app-driver", "app", {"phase": "Running"})

    client.delete("app")
    client.delete("app")

    assert server.names() == []
    assert server.names("pods") == []
    assert any("propagationPolicy=Foreground" in each for each in server.requests)


@pytest.mark.parametrize("what", ["application", "pod"])
def test_a_deletion_that_does_not_finish_says_what_is_left(
    server: ApiServer, client: SparkApplicationClient, what: str
) -> None:
    client.create(manifest())
    if what == "application":
        server.objects[APPS, "app"]["metadata"]["finalizers"] = ["foregroundDeletion"]
    else:
        server.delete(APPS, "app")
        server.add_pod("app-exec-1", "app", {"phase": "Running"}, "executor")

    with pytest.raises(errors.DeletionTimeoutError, match="still there") as caught:
        client.delete("app", wait=0.5)

    assert caught.value.left == (
        ("application app",) if what == "application" else ("pod app-exec-1",)
    )


def test_no_configuration_is_an_error_that_says_so(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(errors.UnauthorizedError, match="name a kubeconfig"):
        SparkApplicationClient.connect("spark", kubeconfig=str(tmp_path / "none"))
