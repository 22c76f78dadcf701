import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dataplatform.resources.spark_operator.ownership import Owner, label_value
from dataplatform.resources.spark_operator.spec import (
    Dependencies,
    Driver,
    DynamicAllocation,
    Executor,
    JmxExporter,
    SecretKey,
    SecretVolume,
    SecurityContext,
    SparkApplication,
)
from dataplatform_tests.spark_operator.crd import problems

MANIFESTS = Path(__file__).with_name("manifests")

MINIMAL = SparkApplication(
    image="registry.example.org/spark:1", main_file="local:///opt/app/main.py"
)
FULL = SparkApplication(
    image="registry.example.org/spark:1",
    main_file="local:///opt/app/main.py",
    arguments=("--day", "2026-01-31"),
    spark_conf={"spark.sql.session.timeZone": "UTC"},
    hadoop_conf={"fs.s3a.endpoint": "http://minio.minio:9000"},
    driver=Driver(
        cores=2,
        core_request="500m",
        core_limit="2",
        memory="3g",
        memory_overhead="1g",
        java_options="-XX:+UseG1GC",
        env={"LEVEL": "info"},
        secret_env={"TOKEN": SecretKey(name="catalog", key="token")},
        secrets=(
            SecretVolume(name="minio", path="/var/secrets/minio", items={"key": "platform/secret"}),
            SecretVolume(name="minio", path="/var/secrets/other", optional=True),
        ),
        service_account="spark",
        labels={"team": "data"},
        annotations={"sidecar.istio.io/inject": "false"},
        node_selector={"kubernetes.io/arch": "amd64"},
        priority_class="important",
    ),
    executor=Executor(
        instances=20,
        cores=4,
        memory="8g",
        memory_overhead="2g",
        tolerations=({"key": "spark", "operator": "Exists", "effect": "NoSchedule"},),
        affinity={"podAntiAffinity": {}},
        volumes=({"name": "spark-local-dir-1", "emptyDir": {"sizeLimit": "20Gi"}},),
        volume_mounts=({"name": "spark-local-dir-1", "mountPath": "/var/data"},),
        security=SecurityContext(run_as_user=1000, read_only_root=True),
        pod_overrides={"enableServiceLinks": False, "securityContext": {"fsGroup": 1000}},
        container_overrides={"envFrom": [{"configMapRef": {"name": "settings"}}]},
    ),
    dynamic_allocation=DynamicAllocation(max_executors=10, shuffle_tracking_timeout=60),
    image_pull_policy="Always",
    image_pull_secrets=("registry",),
    dependencies=Dependencies(py_files=("local:///opt/app/lib.zip",)),
    event_log="s3a://logs/spark-events",
    jmx_exporter=JmxExporter(jar="/prometheus/jmx.jar", config_file="/prometheus/jmx.yaml"),
    time_to_live=600,
    labels={"app": "lake"},
    annotations={"note": "nightly"},
    spec_overrides={"batchScheduler": "volcano", "sparkConf": {"spark.app.note": "x"}},
)
JVM = SparkApplication(
    image="spark",
    prometheus=True,
    type="Scala",
    main_file="local:///a.jar",
    main_class="org.A",
    driver=Driver(security=None),
)
OWNER = Owner("3f2a9c1e-0b7d-4a51-9d63-5b1f1c2d3e4f", "b" * 36, "daily_prices", "platform")


def manifest(application: SparkApplication) -> dict[str, Any]:
    return application.manifest(
        "daily-3f2a9c1e-ab12cd",
        "spark",
        OWNER.labels(),
        {"dagster/spec-digest": "0" * 32},
        {"DAGSTER_PIPES_CONTEXT": "eJyrVk==", "DAGSTER_PIPES_MESSAGES": "eJyrVl=="},
    )


@pytest.mark.parametrize(
    ("name", "application"), [("minimal", MINIMAL), ("full", FULL), ("jvm", JVM)]
)
def test_a_manifest_is_as_it_was_and_the_crd_accepts_it(
    name: str, application: SparkApplication
) -> None:
    made = manifest(application)
    path = MANIFESTS / f"{name}.yaml"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(yaml.safe_dump(made, sort_keys=True))

    assert made == yaml.safe_load(path.read_text())
    assert problems(made) == []


def test_the_schema_refuses_what_the_crd_does_not_know() -> None:
    wrong = manifest(MINIMAL)
    wrong["spec"]["driver"]["core"] = 1
    wrong["spec"]["restartPolicy"]["type"] = "Sometimes"

    assert len(problems(wrong)) == 2


def test_pods_meet_the_restricted_standard_without_the_webhook() -> None:
    for role in ("driver", "executor"):
        pod = manifest(MINIMAL)["spec"][role]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        container = pod["containers"][0]
        assert container["name"] == f"spark-kubernetes-{role}"
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_operator_never_restarts_an_application() -> None:
    assert manifest(FULL)["spec"]["restartPolicy"] == {"type": "Never"}
    assert SparkApplication(
        image="spark", main_file="a.py", spec_overrides={"restartPolicy": {"type": "Never"}}
    )


def test_an_operator_that_restarts_drivers_is_refused() -> None:
    overrides = {"restartPolicy": {"type": "OnFailure", "onFailureRetries": 3}}

    with pytest.raises(ValidationError, match=r"OnFailure.*Remedy: leave it Never"):
        SparkApplication(image="spark", main_file="a.py", spec_overrides=overrides)


def test_an_override_changes_what_it_names_and_nothing_beside() -> None:
    pod = manifest(FULL)["spec"]["executor"]["template"]["spec"]

    assert pod["securityContext"]["fsGroup"] == 1000
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["enableServiceLinks"] is False
    assert manifest(FULL)["spec"]["sparkConf"]["spark.sql.session.timeZone"] == "UTC"


@pytest.mark.parametrize(
    "key",
    [
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.access.key",
        "spark.hadoop.fs.azure.account.key.x.dfs.core.windows.net",
        "spark.hadoop.fs.azure.account.oauth2.client.secret",
        "spark.hadoop.javax.jdo.option.ConnectionPassword",
        "spark.sql.catalog.lake.token",
        "spark.sql.catalog.lake.credential",
        "spark.sql.catalog.lake.s3.secret-access-key",
        "spark.sql.catalog.lake.s3.session-token",
        "spark.sql.catalog.lake.header.Authorization",
        "spark.datasource.jdbc.passwd",
        "spark.authenticate.secret",
        "spark.ssl.keyPassword",
        "spark.kubernetes.driverEnv.AWS_SECRET_ACCESS_KEY",
        "fs.s3a.secret.key",
    ],
)
def test_a_secret_in_the_configuration_is_refused_without_repeating_it(key: str) -> None:
    assert_refused({"spark_conf": {key: "hunter2"}})


def assert_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        SparkApplication.model_validate({"image": "spark", "main_file": "a.py"} | fields)

    assert "mount it" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"hadoop_conf": {"fs.s3a.session.token": "hunter2"}},
        {"spec_overrides": {"sparkConf": {"spark.ssl.keyPassword": "hunter2"}}},
        {"spec_overrides": {"hadoopConf": {"fs.s3a.secret.key": "hunter2"}}},
        {"driver": {"env": {"AWS_SECRET_ACCESS_KEY": "hunter2"}}},
        {"executor": {"env": {"DB_PASSWORD": "hunter2"}}},
        {"driver": {"java_options": "-Xss4m -Djavax.net.ssl.trustStorePassword=hunter2"}},
        {"spark_conf": {"spark.executor.extraJavaOptions": "-Ddb.password=hunter2"}},
        {"executor": {"container_overrides": {"env": [{"name": "API_KEY", "value": "hunter2"}]}}},
    ],
)
def test_a_secret_is_refused_wherever_it_would_be_readable(fields: dict[str, Any]) -> None:
    assert_refused(fields)


@pytest.mark.parametrize(
    "key",
    [
        "spark.hadoop.fs.s3a.aws.credentials.provider",
        "spark.hadoop.hadoop.security.credential.provider.path",
        "spark.hadoop.hadoop.security.authorization",
        "spark.authenticate.secret.file",
        "spark.kubernetes.container.image.pullSecrets",
        "spark.kubernetes.driver.secrets.minio",
        "spark.kubernetes.executor.secretKeyRef.DB_PASSWORD",
        "spark.kubernetes.kerberos.tokenSecret.name",
        "spark.security.credentials.hive.enabled",
        "spark.sql.catalog.lake.token-refresh-enabled",
        "spark.executorEnv.DATAPLATFORM_SECRETS_DIR",
        "spark.executorEnv.TOKENIZERS_PARALLELISM",
        "spark.executorEnv.MAX_TOKENS",
    ],
)
def test_what_is_only_called_after_a_secret_is_let_through(key: str) -> None:
    made = SparkApplication(
        image="spark",
        main_file="a.py",
        spark_conf={key: "x"},
        no_secrets=("spark.executorEnv.MAX_TOKENS",),
    )

    assert manifest(made)["spec"]["sparkConf"][key] == "x"


def test_the_exporters_files_are_those_of_the_image_which_no_webhook_has_to_mount() -> None:
    spec = manifest(FULL)["spec"]

    # With both named, v2.5.2 makes no ConfigMap (monitoring_config.go).
    assert spec["monitoring"]["metricsPropertiesFile"] == "/dev/null"
    assert spec["monitoring"]["prometheus"]["configFile"] == "/prometheus/jmx.yaml"
    sink = "spark.metrics.conf.*.sink.jmx.class"
    assert spec["sparkConf"][sink] == "org.apache.spark.metrics.sink.JmxSink"


@pytest.mark.parametrize(
    "fields",
    [
        {"prometheus": True},
        {"spark_conf": {"spark.metrics.conf": "/own.properties"}},
        {"spec_overrides": {"sparkConf": {"spark.metrics.namespace": "own"}}},
    ],
)
def test_two_ways_of_metrics_that_the_operator_would_mix_are_refused(
    fields: dict[str, Any],
) -> None:
    exporter = {"jar": "/jmx.jar", "config_file": "/jmx.yaml"}

    with pytest.raises(ValidationError, match="Remedy: "):
        SparkApplication.model_validate(
            {"image": "spark", "main_file": "a.py", "jmx_exporter": exporter} | fields
        )


@pytest.mark.parametrize(
    "key",
    ["spark.master", "spark.kubernetes.namespace", "spark.kubernetes.driver.container.image"],
)
def test_what_the_operator_sets_itself_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match="set by the operator"):
        SparkApplication(image="spark", main_file="a.py", spark_conf={key: "x"})


CLAIM = (
    "spark.kubernetes.executor.volumes.persistentVolumeClaim.spark-local-dir-1.options.claimName"
)


@pytest.mark.parametrize(
    ("fields", "owned"),
    [
        ({}, "false"),
        ({"spark_conf": {"spark.kubernetes.driver.ownPersistentVolumeClaim": "true"}}, "true"),
        ({"spark_conf": {CLAIM: "OnDemand"}}, None),
        ({"spec_overrides": {"sparkConf": {CLAIM: "OnDemand"}}}, None),
    ],
)
def test_only_a_driver_with_claims_asks_for_them(fields: dict[str, Any], owned: str | None) -> None:
    made = manifest(SparkApplication(image="spark", main_file="a.py", **fields))

    found = made["spec"]["sparkConf"].get("spark.kubernetes.driver.ownPersistentVolumeClaim")
    assert found == owned


@pytest.mark.parametrize(
    "wrong",
    [
        {"driver": {"memory": "2 GB"}},
        {"driver": {"cores": 0}},
        {"executor": {"instances": 0}},
        {"executor": {"core_limit": "two"}},
        {"dynamic_allocation": {"min_executors": 5, "max_executors": 2}},
        {"image": ""},
        {"sparkconf": {}},
    ],
)
def test_a_wrong_field_is_refused_before_anything_is_submitted(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SparkApplication.model_validate({"image": "spark", "main_file": "a.py"} | wrong)


def test_the_digest_tells_specifications_and_extras_apart_and_no_runs() -> None:
    assert MINIMAL.digest({"a": 1}) == MINIMAL.digest({"a": 1})
    assert MINIMAL.digest({"a": 1}) != MINIMAL.digest({"a": 2})
    larger = MINIMAL.model_copy(update={"executor": Executor(instances=3)})
    assert larger.digest() != MINIMAL.digest()


def test_names_are_unique_and_leave_room_for_what_spark_appends() -> None:
    owner = Owner(OWNER.run_id, OWNER.root_run_id, "3_Überlange[Schritt?]_name" * 5)
    names = {owner.new_name() for _ in range(50)}

    assert len(names) == 50
    for name in names:
        assert len(f"{name}-{'0' * 16}-driver-svc") <= 63
        assert name[0].isalpha()
        assert name.isascii()
        assert name.replace("-", "").isalnum()


@pytest.mark.parametrize("text", ["tables[2026-01-31]", "x" * 64, "-a-", "ümlaut", "a b"])
def test_label_values_are_valid_and_stay_different(text: str) -> None:
    valid = label_value(text)

    assert len(valid) <= 63
    assert valid[0].isalnum()
    assert valid[-1].isalnum()
    assert label_value(text + "2") != valid


def test_a_selector_finds_all_attempts_at_a_step_and_no_others() -> None:
    retry = Owner("c" * 36, OWNER.root_run_id, OWNER.step_key, OWNER.code_location)

    assert retry.selector() == OWNER.selector()
    assert retry.labels() != OWNER.labels()
    assert "run-id=c" not in retry.selector()
