"""What spark-submit is told of a SparkApplication: names and values are upstream's, 2.5.2."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dataplatform_tests.kubernetes.submission import (
    SubmissionError,
    arguments,
    laid_over,
    with_defaults,
)


def application(**spec: Any) -> dict[str, Any]:
    app = {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {"name": "silver", "namespace": "lake", "uid": "u1"},
        "spec": {"type": "Python", "driver": {}, "executor": {}} | spec,
        "status": {"submissionID": "s1"},
    }
    return with_defaults(app)


def conf(args: list[str]) -> dict[str, str]:
    values = [value for option, value in pairwise(args) if option == "--conf"]
    return dict(value.split("=", 1) for value in values)


def submitted(folder: Path, defaults: dict[str, Any] | None = None, **spec: Any) -> dict[str, str]:
    return conf(arguments(application(**spec), "k8s://https://api", folder, defaults or {}))


def test_the_command_is_framed_by_options_and_the_main_file(tmp_path: Path) -> None:
    app = application(
        mainApplicationFile="local:///job.py",
        mainClass="org.Main",
        arguments=["--day", "2026-01-02"],
        deps={"pyFiles": ["a.py", "b.py"], "jars": ["c.jar"], "excludePackages": ["d"]},
        proxyUser="someone",
    )
    args = arguments(app, "k8s://https://api", tmp_path, {})
    assert args[:8] == [
        *("--master", "k8s://https://api", "--deploy-mode", "cluster"),
        *("--class", "org.Main", "--name", "silver"),
    ]
    assert args[8:14] == ["--jars", "c.jar", "--exclude-packages", "d", "--py-files", "a.py,b.py"]
    assert args[-5:] == ["--proxy-user", "someone", "local:///job.py", "--day", "2026-01-02"]


def test_each_role_is_labelled_so_that_the_operator_finds_its_pods(tmp_path: Path) -> None:
    app = application(driver={"labels": {"own": "1"}, "template": {"spec": {}}})
    app["metadata"]["labels"] = {"dagster/run-id": "r1", "kueue.x-k8s.io/queue-name": "q"}
    told = conf(arguments(app, "m", tmp_path, {}))
    prefix = "spark.kubernetes.{}.label."
    for role in ("driver", "executor"):
        labels = {
            key.removeprefix(prefix.format(role)): value
            for key, value in told.items()
            if key.startswith(prefix.format(role))
        }
        assert labels["sparkoperator.k8s.io/app-name"] == "silver"
        assert labels["sparkoperator.k8s.io/submission-id"] == "s1"
        assert labels["dagster/run-id"] == "r1"
        assert "kueue.x-k8s.io/queue-name" not in labels
        # The webhook is to change pods without a template.
        changed = "sparkoperator.k8s.io/mutated-by-spark-operator" in labels
        assert changed is (role == "executor")
    assert told["spark.kubernetes.driver.label.own"] == "1"


def test_sizes_accounts_and_options_go_to_their_properties(tmp_path: Path) -> None:
    told = submitted(
        tmp_path,
        image="i:1",
        imagePullPolicy="Never",
        imagePullSecrets=["a", "b"],
        memoryOverheadFactor="0.2",
        nodeSelector={"role": "worker"},
        driver={
            "coreRequest": "200m",
            "coreLimit": "1",
            "memory": "2g",
            "memoryOverhead": "512m",
            "serviceAccount": "spark",
            "javaOptions": "-Da=b",
        },
        executor={"instances": 20, "image": "i:2", "deleteOnTermination": False},
    )
    assert (
        told
        | {
            "spark.kubernetes.namespace": "lake",
            "spark.kubernetes.submission.waitAppCompletion": "false",
            "spark.kubernetes.driver.pod.name": "silver-driver",
            "spark.kubernetes.container.image": "i:1",
            "spark.kubernetes.driver.container.image": "i:1",
            "spark.kubernetes.executor.container.image": "i:2",
            "spark.kubernetes.container.image.pullPolicy": "Never",
            "spark.kubernetes.container.image.pullSecrets": "a,b",
            "spark.kubernetes.memoryOverheadFactor": "0.2",
            "spark.kubernetes.node.selector.role": "worker",
            "spark.driver.cores": "1",
            "spark.kubernetes.driver.request.cores": "200m",
            "spark.kubernetes.driver.limit.cores": "1",
            "spark.driver.memory": "2g",
            "spark.driver.memoryOverhead": "512m",
            "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
            "spark.driver.extraJavaOptions": "-Da=b",
            "spark.executor.instances": "20",
            "spark.executor.memory": "1g",
            "spark.kubernetes.executor.deleteOnTermination": "false",
        }
        == told
    )


def test_secrets_environment_and_scratch_volumes_go_to_their_properties(tmp_path: Path) -> None:
    role = {
        "envVars": {"A": "1"},
        "envSecretKeyRefs": {"PASSWORD": {"name": "minio", "key": "secret"}},
        "secrets": [
            {"name": "minio", "path": "/secrets", "secretType": "Generic"},
            {"name": "gcp", "path": "/gcp", "secretType": "GCPServiceAccount"},
        ],
        "volumeMounts": [
            {"name": "spark-local-dir-1", "mountPath": "/scratch"},
            {"name": "other", "mountPath": "/other"},
        ],
    }
    volumes = [{"name": "spark-local-dir-1", "emptyDir": {"sizeLimit": "5Gi"}}]
    told = submitted(tmp_path, driver=role, executor=role, volumes=volumes)
    for name, environment in {"driver": "kubernetes.driverEnv", "executor": "executorEnv"}.items():
        prefix, volume = f"spark.kubernetes.{name}", "volumes.emptyDir.spark-local-dir-1"
        assert told[f"spark.{environment}.A"] == "1"
        assert told[f"{prefix}.secretKeyRef.PASSWORD"] == "minio:secret"
        assert told[f"{prefix}.secrets.minio"] == "/secrets"
        assert told[f"spark.{environment}.GOOGLE_APPLICATION_CREDENTIALS"] == "/gcp/key.json"
        assert told[f"{prefix}.{volume}.mount.path"] == "/scratch"
        assert told[f"{prefix}.{volume}.options.sizeLimit"] == "5Gi"
    assert not [key for key in told if "other" in key]


def test_a_scratch_volume_that_is_not_there_is_refused(tmp_path: Path) -> None:
    mounts = [{"name": "spark-local-dir-1", "mountPath": "/scratch"}]
    with pytest.raises(SubmissionError, match="volume spark-local-dir-1 not found"):
        submitted(tmp_path, driver={"volumeMounts": mounts})


def test_dynamic_allocation_replaces_the_number_of_executors(tmp_path: Path) -> None:
    allocation = {"enabled": True, "minExecutors": 1, "maxExecutors": 20}
    told = submitted(tmp_path, dynamicAllocation=allocation)
    assert told["spark.dynamicAllocation.enabled"] == "true"
    assert told["spark.dynamicAllocation.maxExecutors"] == "20"
    assert told["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
    assert "spark.executor.instances" not in told


def test_what_the_application_says_wins_over_the_operators_defaults(tmp_path: Path) -> None:
    template = {"spec": {"containers": [{"name": "main", "volumeMounts": [{"mountPath": "/usr"}]}]}}
    defaults = {"sparkConf": {"spark.ui.port": "1", "spark.port": "2"}, "template": template}
    own = {"spec": {"containers": [{"name": "spark-kubernetes-driver", "env": []}]}}
    told = submitted(tmp_path, defaults, sparkConf={"spark.ui.port": "7"}, driver={"template": own})
    assert (told["spark.ui.port"], told["spark.port"]) == ("7", "2")
    written = json.loads(Path(told["spark.kubernetes.driver.podTemplateFile"]).read_text())
    assert written["spec"]["containers"] == [
        {"name": "spark-kubernetes-driver", "env": [], "volumeMounts": [{"mountPath": "/usr"}]}
    ]
    assert written["metadata"]["ownerReferences"][0]["uid"] == "u1"


def test_lists_of_named_entries_are_joined_by_name() -> None:
    upper = {"volumes": [{"name": "a", "emptyDir": {}}], "args": ["x"], "same": 1}
    lower = {"volumes": [{"name": "b"}, {"name": "a", "note": 1}], "same": 2, "more": 3}
    assert laid_over(upper, lower) == {
        "volumes": [{"name": "a", "emptyDir": {}, "note": 1}, {"name": "b"}],
        "args": ["x"],
        "same": 1,
        "more": 3,
    }
