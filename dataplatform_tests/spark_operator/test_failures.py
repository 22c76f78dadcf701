"""What the API server, a webhook, a quota or spark-submit refuses, each provoked on a real node."""

import base64
import http.server
import json
import ssl
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from dagster import AssetsDefinition, MaterializeResult, asset

from dataplatform.resources.spark_operator import errors
from dataplatform_tests.kubernetes.fixtures import DATA
from dataplatform_tests.kubernetes.loopback import ADDRESS, free_port
from dataplatform_tests.kubernetes.node import Node, NodeError
from dataplatform_tests.spark_operator.step import Operator, Step

pytestmark = pytest.mark.kubernetes

APPS = "sparkapplications.sparkoperator.k8s.io"
REASON = "images come from registry.example.org"


def nothing_submitted(step: Step) -> None:
    assert step.left() == ([], [])
    assert step.stored() == []


def test_a_missing_verb(failing: Step) -> None:
    failing.configure(kube_context="plain")

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.ForbiddenError, 'resources: ["sparkapplications"], verbs: ["list"]')
    nothing_submitted(failing)


@pytest.mark.parametrize("why", ["token", "file"])
def test_credentials_that_are_wrong_or_missing(failing: Step, tmp_path: Path, why: str) -> None:
    path = tmp_path / "kubeconfig"
    if why == "token":
        kubeconfig = yaml.safe_load(failing.node.kubeconfig.read_text())
        for user in kubeconfig["users"]:
            user["user"] = {"token": "an-old-token-of-the-tests"}
        path.write_text(yaml.safe_dump(kubeconfig))
    failing.configure(kubeconfig=str(path))

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.UnauthorizedError, "Unauthorized" if why == "token" else str(path))
    assert "an-old-token-of-the-tests" not in outcome.log + outcome.said
    nothing_submitted(failing)


def test_a_namespace_that_is_not_there(failing: Step) -> None:
    failing.configure(namespace="nowhere")

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.NamespaceNotFoundError, 'namespaces "nowhere" not found')
    assert failing.stored() == []


def test_a_namespace_that_ends(failing: Step) -> None:
    application = failing.application("")
    where = ["-n", failing.namespace, "--type=merge", "-p"]
    held = json.dumps({"metadata": {"finalizers": ["example.org/held"]}})
    failing.node.kubectl("patch", "secret", "pipes-key", *where, held)
    failing.node.kubectl("delete", "namespace", failing.namespace, "--wait=false")
    try:
        outcome = failing.run(application)
    finally:
        free = json.dumps({"metadata": {"finalizers": None}})
        failing.node.kubectl("patch", "secret", "pipes-key", *where, free)

    outcome.shows(errors.NamespaceNotFoundError, "because it is being terminated")
    assert failing.stored() == []


def test_a_specification_that_the_crd_refuses(failing: Step) -> None:
    outcome = failing.run(failing.application("", spec_overrides={"type": "Cobol"}))

    outcome.shows(errors.InvalidApplicationError, 'Unsupported value: "Cobol"')
    nothing_submitted(failing)


def test_a_name_that_another_application_has(failing: Step) -> None:
    made = failing.application("").manifest("taken", failing.namespace)
    # Held back, so that no driver begins.
    made["spec"]["suspend"] = True
    failing.client.create(made)

    outcome = failing.materialize(creating(made))

    outcome.shows(errors.ApplicationExistsError, "kubectl delete sparkapp taken")
    assert failing.names() == ["taken"]


def creating(manifest: dict[str, Any]) -> AssetsDefinition:
    @asset
    def created(spark_operator: Operator) -> MaterializeResult:
        spark_operator.client().create(manifest)
        return MaterializeResult()

    return created


def test_a_quota_of_applications(failing: Step) -> None:
    failing.quota(**{f"count/{APPS}": "0"})

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.QuotaExceededError, "exceeded quota: team")
    nothing_submitted(failing)


def test_a_quota_of_pods_without_room_for_the_driver(failing: Step) -> None:
    failing.quota(**{"count/pods": "0"})

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.QuotaExceededError, "exceeded quota: team")
    failing.stays()


def test_what_spark_submit_refuses(failing: Step) -> None:
    outcome = failing.run(failing.application("", spec_overrides={"imagePullPolicy": "Bogus"}))

    outcome.shows(errors.SubmissionFailedError, "but was Bogus")
    failing.stays()


class Denies(http.server.BaseHTTPRequestHandler):
    """An admission webhook that refuses all that it is asked about."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = {"uid": asked["request"]["uid"], "allowed": False, "status": {"message": REASON}}
        review = {"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": answer}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(review).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a key and a certificate for servers at 127.0.0.1, in one file."""
    folder = tmp_path_factory.mktemp("webhook")
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "rsa:2048"]
    command += ["-subj", "/CN=webhook", "-addext", f"subjectAltName=IP:{ADDRESS}"]
    subprocess.run([*command, "-keyout", "key", "-out", "crt"], check=True, cwd=folder)
    both = folder / "both"
    both.write_text((folder / "key").read_text() + (folder / "crt").read_text())
    return both


@pytest.fixture(scope="module")
def denying(certificate: Path) -> Iterator[str]:
    """Serve a webhook that denies; gives its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.ThreadingHTTPServer((ADDRESS, 0), Denies) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://{ADDRESS}:{server.server_port}/"
        server.shutdown()


@contextmanager
def webhook(step: Step, group: str, resource: str, url: str, certificate: Path) -> Generator[None]:
    """Let the API server ask `url` about each new object of a kind in the step's namespace."""
    rule = {"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": step.namespace}}
    trust = base64.b64encode(certificate.read_bytes()).decode()
    hook = {
        "name": "policy.example.org",
        "clientConfig": {"url": url, "caBundle": trust},
        "rules": [rule | {"resources": [resource]}],
        "namespaceSelector": selector,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "timeoutSeconds": 1,
    }
    kind, api = "ValidatingWebhookConfiguration", "admissionregistration.k8s.io/v1"
    step.apply(kind, step.namespace, api, webhooks=[hook])
    try:
        step.node.wait("webhook", lambda: is_asked(step, resource))
        yield
    finally:
        step.node.kubectl("delete", kind.lower(), step.namespace)


def is_asked(step: Step, resource: str) -> bool:
    made = step.application("").manifest("tried", step.namespace)
    if resource == "pods":
        spec = {"containers": [{"name": "main", "image": "tried"}]}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried"}, "spec": spec}
    try:
        where = ["-n", step.namespace, "--dry-run=server", "-f", "-"]
        step.node.kubectl("create", *where, stdin=json.dumps(made))
    except NodeError as error:
        return "policy.example.org" in str(error)
    return False


@pytest.mark.parametrize("resource", ["sparkapplications", "pods"])
@pytest.mark.parametrize("answers", [True, False])
def test_a_webhook_that_denies_or_does_not_answer(
    failing: Step, denying: str, certificate: Path, resource: str, answers: bool
) -> None:
    failing.hurry(unreachable=2)
    url = denying if answers else f"https://{ADDRESS}:{free_port()}/"
    group = "" if resource == "pods" else "sparkoperator.k8s.io"
    error = errors.WebhookDeniedError if answers else errors.WebhookUnavailableError

    with webhook(failing, group, resource, url, certificate):
        outcome = failing.run(failing.application(""))

    outcome.shows(error, "policy.example.org", REASON if answers else "connection refused")
    if resource == "pods":
        failing.stays()
    else:
        nothing_submitted(failing)


def test_a_policy_that_denies_the_driver(failing: Step) -> None:
    enforce = "pod-security.kubernetes.io/enforce=restricted"
    failing.node.kubectl("label", "namespace", failing.namespace, enforce)

    outcome = failing.run(failing.application(""))

    outcome.shows(errors.WebhookDeniedError, 'violates PodSecurity "restricted')
    failing.stays()


@pytest.fixture
def no_crd(cluster: Node) -> Iterator[None]:
    """Take the kind SparkApplication from the API server, and give it back."""
    cluster.kubectl("delete", "crd", APPS, "--timeout=60s")
    yield
    crd = DATA / "sparkoperator.k8s.io_sparkapplications.yaml"
    cluster.kubectl("apply", "--server-side", "-f", str(crd))
    cluster.wait("SparkApplications", lambda: serves_applications(cluster))
    # The garbage collector would learn of the kind within 30 s only.
    cluster.kill("kube-controller-manager")
    cluster.start("kube-controller-manager")


@pytest.fixture
def old_crd(failing: Step, cluster: Node) -> Iterator[None]:
    """Take the drivers' pod templates from the CRD, as operators before 2.1 had it."""
    schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
    patch = [{"op": "remove", "path": f"{schema}/driver/properties/template"}]
    cluster.kubectl("patch", "crd", APPS, "--type=json", "-p", json.dumps(patch))
    cluster.wait("the old CRD", lambda: not keeps_templates(failing))
    yield
    crd = DATA / "sparkoperator.k8s.io_sparkapplications.yaml"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crd))
    cluster.wait("the new CRD", lambda: keeps_templates(failing))


def keeps_templates(step: Step) -> bool:
    manifest = step.application("").manifest("asked", step.namespace, {}, {})
    dry = ["create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-"]
    made = json.loads(step.node.kubectl(*dry, stdin=json.dumps(manifest)))
    return "template" in made["spec"]["driver"]


def test_an_operator_without_pod_templates_is_too_old(failing: Step, old_crd: None) -> None:
    outcome = failing.run(failing.application(""))

    outcome.shows(errors.OperatorTooOldError, "spec.driver.template")
    failing.nothing_left()


def serves_applications(node: Node) -> bool:
    try:
        return bool(node.kubectl("get", APPS, "-A", "-o", "name") or True)
    except NodeError:
        return False


def test_no_operator_was_ever_installed(failing: Step, no_crd: None) -> None:
    outcome = failing.run(failing.application(""))

    outcome.shows(errors.OperatorNotInstalledError, "helm install spark-operator")
    assert failing.stored() == []
