"""The same library against a real API server: what the one of these tests might be wrong about."""

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes import client as kubernetes

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.api import Stop, Target
from dataplatform.resources.spark_operator.client import PLURAL, SparkApplicationClient
from dataplatform.resources.spark_operator.pods import PodInspector
from dataplatform.resources.spark_operator.spec import API_VERSION
from dataplatform.resources.spark_operator.states import Deadlines
from dataplatform_tests.spark_operator.operator import state, trace
from dataplatform_tests.spark_operator.test_client import follow
from dataplatform_tests.spark_operator.test_docs import application_of_the_page, blocks
from dataplatform_tests.spark_operator.test_spec import FULL, JVM, MINIMAL

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

pytestmark = pytest.mark.kubernetes

KUSTOMIZATION = Path(__file__).parents[2] / "infra/kubernetes/spark"
GROUP, VERSION = API_VERSION.split("/")


@pytest.fixture
def real(cluster: "Node", spark_namespace: str) -> SparkApplicationClient:
    return connect(cluster, spark_namespace)


def connect(cluster: "Node", namespace: str, context: str = "admin") -> SparkApplicationClient:
    # The garbage collector learns of a new kind within 30 s.
    deadlines = Deadlines(unreachable=20, deletion=60)
    return SparkApplicationClient.connect(
        namespace, str(cluster.kubeconfig), context, in_cluster=False, deadlines=deadlines
    )


def write_status(real: SparkApplicationClient, name: str, status: dict[str, Any] | None) -> None:
    if status:
        kubernetes.CustomObjectsApi(real.api.api).patch_namespaced_custom_object_status(
            GROUP, VERSION, real.namespace, PLURAL, name, {"status": status}
        )


@pytest.mark.parametrize("application", [MINIMAL, FULL, JVM])
def test_a_strict_api_server_takes_every_manifest_and_its_pods(
    real: SparkApplicationClient, application: Any
) -> None:
    made = application.manifest("app", real.namespace, {"dagster/run-id": "1"}, {}, {"A": "b=="})
    core = kubernetes.CoreV1Api(real.api.api)
    strict = {"dry_run": "All", "field_validation": "Strict"}

    kubernetes.CustomObjectsApi(real.api.api).create_namespaced_custom_object(
        GROUP, VERSION, real.namespace, PLURAL, made, **strict
    )
    for role in ("driver", "executor"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role}}
        spec = made["spec"][role]["template"]["spec"]
        spec["containers"][0]["image"] = "spark"
        spec.pop("priorityClassName", None)
        core.create_namespaced_pod(real.namespace, pod | {"spec": spec}, **strict)


@pytest.mark.parametrize("recording", ["silver", "failing", "badsubmit"])
def test_every_recorded_sequence_is_seen_on_a_real_watch(
    real: SparkApplicationClient, recording: str
) -> None:
    real.create(MINIMAL.manifest("app", real.namespace))
    statuses = trace(recording, "app")

    def play() -> None:
        for status in statuses:
            time.sleep(0.1)
            write_status(real, "app", status)

    thread = threading.Thread(target=play)
    thread.start()
    seen = follow(real)
    thread.join()

    expected = [state(each) or "NEW" for each in statuses]
    assert seen == [name for i, name in enumerate(expected) if expected[i - 1 : i] != [name]]


def test_a_forgotten_version_is_read_anew(
    real: SparkApplicationClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that etcd has compacted, or never had, is answered with 410 or read anew."""
    real.create(MINIMAL.manifest("app", real.namespace))
    asked = real.api.stream

    def stale(target: Any, query: dict[str, str], read: float, stop: Stop) -> Any:
        monkeypatch.setattr(real.api, "stream", asked)
        write_status(real, "app", trace("silver", "app")[-1])
        return asked(target, query | {"resourceVersion": "1"}, read, stop)

    monkeypatch.setattr(real.api, "stream", stale)

    assert follow(real)[-1] == "COMPLETED"


def test_found_by_label_refused_by_name_and_deleted(real: SparkApplicationClient) -> None:
    made = MINIMAL.manifest("app", real.namespace, {"dagster/run-id": "1"})
    real.create(made)

    assert [each.name for each in real.find("dagster/run-id=1")] == ["app"]
    with pytest.raises(errors.ApplicationExistsError):
        real.create(made)
    real.delete("app")
    real.delete("app")
    with pytest.raises(errors.ApplicationNotFoundError):
        real.get("app")


def test_a_wrong_specification_and_a_missing_namespace_are_told_apart(
    cluster: "Node", real: SparkApplicationClient
) -> None:
    wrong = MINIMAL.manifest("app", real.namespace)
    wrong["spec"]["type"] = "Cobol"

    with pytest.raises(errors.InvalidApplicationError, match="Cobol"):
        real.create(wrong)
    with pytest.raises(errors.NamespaceNotFoundError):
        connect(cluster, "nowhere").create(MINIMAL.manifest("app", "nowhere"))


def test_a_user_without_rights_is_told_which_verb_is_missing(
    cluster: "Node", spark_namespace: str
) -> None:
    plain = connect(cluster, spark_namespace, "plain")

    with pytest.raises(errors.ForbiddenError, match=r'"sparkapplications"\], verbs: \["create"\]'):
        plain.create(MINIMAL.manifest("app", spark_namespace))


def test_a_quota_is_told_from_a_missing_verb(cluster: "Node", real: SparkApplicationClient) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}}
    limit = {"count/sparkapplications.sparkoperator.k8s.io": "0"}
    cluster.kubectl(
        "apply",
        "-n",
        real.namespace,
        "-f",
        "-",
        stdin=json.dumps(quota | {"spec": {"hard": limit}}),
    )
    cluster.wait(
        "the quota",
        lambda: (
            "used"
            in cluster.kubectl(
                "get", "quota", "team", "-n", real.namespace, "-o", "jsonpath={.status}"
            )
        ),
    )

    with pytest.raises(errors.QuotaExceededError, match="count/sparkapplications"):
        real.create(MINIMAL.manifest("app", real.namespace))


def test_a_deletion_that_a_finalizer_holds_up_is_said(
    cluster: "Node", real: SparkApplicationClient
) -> None:
    made = MINIMAL.manifest("app", real.namespace)
    made["metadata"]["finalizers"] = ["example.org/never"]
    real.create(made)
    try:
        with pytest.raises(errors.DeletionTimeoutError) as caught:
            real.delete("app", wait=1)
        assert caught.value.left == ("application app",)
    finally:
        patch = json.dumps({"metadata": {"finalizers": None}})
        cluster.kubectl(
            "patch", "sparkapplication", "app", "-n", real.namespace, "--type=merge", "-p", patch
        )


def test_the_first_steps_of_the_page_make_what_its_example_needs(
    cluster: "Node", tmp_path: Path
) -> None:
    keys = tmp_path / "pipes-s3.env"
    keys.write_text("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n")
    steps = [line.split()[1:] for line in blocks("sh")[0].splitlines() if line[:7] == "kubectl"]
    for step in steps:
        places = {"infra/kubernetes/spark": str(KUSTOMIZATION), f"--from-env-file={keys.name}": ""}
        words = [places.get(word, word) for word in step]
        cluster.kubectl(*(word or f"--from-env-file={keys}" for word in words))

    driver = application_of_the_page().driver
    made = application_of_the_page().manifest("app", "spark")["spec"]["driver"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "driver"}}
    spec = made["template"]["spec"] | {"serviceAccountName": driver.service_account}
    spec["containers"][0] |= {"image": "spark"}
    with cluster.api() as api:
        core = kubernetes.CoreV1Api(api)
        # A pod whose service account is missing is refused.
        core.create_namespaced_pod(
            "spark", pod | {"spec": spec}, dry_run="All", field_validation="Strict"
        )
        for key in driver.secret_env.values():
            assert key.key in core.read_namespaced_secret(key.name, "spark").data
    as_driver = f"--as=system:serviceaccount:spark:{driver.service_account}"
    for verb in ("create", "deletecollection"):
        allowed = cluster.kubectl("auth", "can-i", verb, "pods", "-n", "spark", as_driver)
        assert allowed.strip() == "yes"


def test_the_role_of_the_page_is_enough_and_no_more(
    cluster: "Node", real: SparkApplicationClient, tmp_path: Path
) -> None:
    [page] = blocks("yaml")
    role, binding = yaml.safe_load_all(page)
    [subject] = binding["subjects"]
    subject["namespace"] = real.namespace
    cluster.kubectl("create", "serviceaccount", subject["name"], "-n", real.namespace)
    for each in (role, binding):
        each["metadata"]["namespace"] = real.namespace
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    token = cluster.kubectl("create", "token", "dagster", "-n", real.namespace).strip()
    kubeconfig = yaml.safe_load(cluster.kubeconfig.read_text())
    kubeconfig["users"] = [
        {"name": user["name"], "user": {"token": token}} for user in kubeconfig["users"]
    ]
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    limited = SparkApplicationClient.connect(real.namespace, str(path), "admin", in_cluster=False)

    limited.create(MINIMAL.manifest("app", real.namespace))
    write_status(real, "app", trace("silver", "app")[-1])
    assert follow(limited)[-1] == "COMPLETED"
    assert len(limited.find()) == 1
    with pytest.raises(errors.ApplicationNotFoundError):
        PodInspector(limited.api, real.namespace).log_tail("app-driver")
    limited.delete("app")
    secrets = Target("list", "secrets", real.namespace)
    with pytest.raises(errors.ForbiddenError):
        limited.api.request("GET", secrets)
