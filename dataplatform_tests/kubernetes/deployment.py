"""The platform on a node of the tests: the project's own manifests, over the stack's servers."""

import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml
from kubernetes import client

from dataplatform.lake.jvm import spark_jars
from dataplatform.profiles import lake_place
from dataplatform.resources.spark_cluster import SparkClusterResource
from dataplatform.resources.vault import open_secrets
from dataplatform.stack.launch import open_vault
from dataplatform.vault.bootstrap import bootstrap
from dataplatform.vault.layout import Kubernetes, platform_layout
from dataplatform_tests.kubernetes import oci
from dataplatform_tests.kubernetes.node import NodeError
from dataplatform_tests.kubernetes.operator import GROUP, PLURAL, VERSION
from dataplatform_tests.kubernetes.shipped import Shipped

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node
    from dataplatform_tests.stack.fixtures import RunningStack

MANIFESTS: Final = oci.CHECKOUT / "infra" / "kubernetes"
DAGSTER: Final = "dagster"
SPARK: Final = "spark"
CODE_ACCOUNT: Final = "dagster-code"
DAEMON_ACCOUNT: Final = "dagster"
STEP_POD_JOB: Final = "inbox_job"
"""The job whose every step gets a pod of its own."""
_START_SECONDS: Final = 600
"""A server of Dagster is there after ten seconds; on a machine at work on other things, a minute."""
_REVIEWER: Final = "vault-reviewer"
_SIZES: Final = {
    "DRIVER_MEMORY": "1g",
    "EXECUTOR_MEMORY": "768m",
    "EXECUTOR_CORES": "1",
    "EXECUTORS": "2",
}


@dataclass(frozen=True)
class Deployment:
    """The platform as `kubectl apply -k` makes it, with the settings of this machine.

    Attributes:
        node: where pods run.
        stack: the servers.
        folder: for kubeconfigs and the homes of processes outside of the node.
    """

    node: "Node"
    stack: "RunningStack"
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """What pods and processes outside have in common."""
        addresses = {
            f"DATAPLATFORM_{name.upper()}": value
            for name, value in self.stack.endpoints.items()
            if not name.startswith("vault_") or name == "vault_addr"
        }
        spark = {"IMAGE": oci.IMAGE, "MAIN_FILE": f"local://{_driver()}", **_SIZES}
        sizes = {f"DATAPLATFORM_SPARK_{name}": value for name, value in spark.items()}
        return addresses | sizes | {"DATAPLATFORM_STEP_POD_JOBS": STEP_POD_JOB}

    @property
    def outside(self) -> dict[str, str]:
        """The settings of a process outside of the node: a kubeconfig, and an AppRole of Vault."""
        logins = {
            f"DATAPLATFORM_{name.upper()}": value
            for name, value in self.stack.endpoints.items()
            if name.startswith("vault_")
        }
        kubeconfig = str(self.kubeconfig(CODE_ACCOUNT))
        own = {
            "DATAPLATFORM_PROFILE": "cluster",
            "DATAPLATFORM_DAGSTER_NAMESPACE": DAGSTER,
            "DATAPLATFORM_SPARK_KUBECONFIG": kubeconfig,
        }
        return self.settings | logins | own

    @cached_property
    def shipped(self) -> Shipped:
        """What `kubectl apply -k .` sends, for this node."""
        return Shipped(self.node, self.settings)

    def deploy(self) -> None:
        """Apply all but Dagster's processes, and what a cluster's administrator adds."""
        objects = self.shipped.surroundings()
        self.node.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        self._let_pods_into_vault()
        jars = self.node.shared / "jars"
        jars.mkdir()
        for jar in spark_jars(lake_place(self.stack.settings, "live").spark_jars):
            shutil.copy(jar, jars)
        self._share_secrets()

    def start(self, *names: str) -> None:
        """Apply Deployments, and wait until their pods are ready.

        Raises:
            NodeError: they are not in time; says what they wrote last.
        """
        deployments = [self.shipped.deployment(name) for name in names]
        self.node.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(deployments))
        for name in names:
            described = ("rollout", "status", f"deployment/{name}", f"--namespace={DAGSTER}")
            try:
                self.node.kubectl(*described, f"--timeout={_START_SECONDS}s")
            except NodeError as error:
                raise NodeError(f"{error}\n{self._said(name)}") from None

    def _said(self, name: str) -> str:
        """Return the last lines of a Deployment's pods."""
        selected = (f"--namespace={DAGSTER}", f"--selector=app.kubernetes.io/name={name}")
        events = self.node.kubectl("describe", "pods", *selected)
        return events + self.node.kubectl("logs", *selected, "--tail=40")

    def _let_pods_into_vault(self) -> None:
        """Bind Vault's role `platform` to the service accounts of Dagster's pods."""
        self.node.kubectl("create", "serviceaccount", _REVIEWER, f"--namespace={DAGSTER}")
        reviews = ["--clusterrole=system:auth-delegator", f"--serviceaccount={DAGSTER}:{_REVIEWER}"]
        self.node.kubectl("create", "clusterrolebinding", _REVIEWER, *reviews)
        reviewer = self.token(_REVIEWER)
        kubernetes = Kubernetes(
            host=self.node.server,
            namespace=DAGSTER,
            accounts={"platform": [CODE_ACCOUNT, DAEMON_ACCOUNT]},
            ca_certificate=self.node.layout.api_certificate.read_text().strip(),
            reviewer=lambda: {"token_reviewer_jwt": reviewer},
        )
        with closing(open_vault(self.stack.plan, "setup")) as vault:
            bootstrap(vault, platform_layout(kubernetes=kubernetes))

    def _share_secrets(self) -> None:
        """Do what External Secrets does: copy what drivers read from Vault."""
        spark = SparkClusterResource()
        secrets = open_secrets(self.stack.settings)
        for path in spark.secret_paths:
            name = f"{spark.secret_prefix}{path.replace('/', '-')}"
            self.apply("Secret", SPARK, name, stringData=dict(secrets.read(path)))

    def apply(self, kind: str, namespace: str, name: str, **content: Any) -> None:
        """Apply an object of the core API."""
        metadata = {"name": name, "namespace": namespace}
        described = {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}
        self.node.kubectl("apply", "-f", "-", stdin=json.dumps(described))

    def token(self, account: str, namespace: str = DAGSTER) -> str:
        """Return a token of a service account."""
        return self.node.kubectl("create", "token", account, f"--namespace={namespace}").strip()

    def kubeconfig(self, account: str) -> Path:
        """Return a kubeconfig with a service account's token, and no right but that account's."""
        file = self.folder / f"{account}.kubeconfig"
        if not file.exists():
            config = yaml.safe_load(self.node.kubeconfig.read_text())
            config["users"] = [{"name": account, "user": {"token": self.token(account)}}]
            cluster = config["clusters"][0]["name"]
            context = {"cluster": cluster, "user": account}
            config["contexts"] = [{"name": account, "context": context}]
            config["current-context"] = account
            file.write_text(yaml.safe_dump(config))
        return file

    def applications(self) -> list[dict[str, Any]]:
        """Return the SparkApplications, oldest first."""
        with self.node.api() as api:
            listed = client.CustomObjectsApi(api).list_namespaced_custom_object(
                GROUP, VERSION, SPARK, PLURAL
            )
        return sorted(listed["items"], key=lambda app: app["metadata"]["creationTimestamp"])

    def of_run(self, run_id: str) -> list[dict[str, Any]]:
        """Return the SparkApplications that a run submitted."""
        apps = self.applications()
        return [app for app in apps if app["metadata"]["labels"]["dagster/run-id"] == run_id]

    def pods_of(self, run_id: str) -> list[client.V1Pod]:
        """Return Dagster's pods of a run: its own, and those of its steps."""
        with self.node.api() as api:
            listed = client.CoreV1Api(api).list_namespaced_pod(
                DAGSTER, label_selector=f"dagster/run-id={run_id}"
            )
        return listed.items

    def executors_of(self, run_id: str) -> list[client.V1Pod]:
        """Return the executors of a run's applications."""
        labels = f"dagster/run-id={run_id},spark-role=executor"
        with self.node.api() as api:
            return client.CoreV1Api(api).list_namespaced_pod(SPARK, label_selector=labels).items

    def pods(self, namespace: str = SPARK) -> Mapping[str, str]:
        """Return the pods of a namespace: name to phase."""
        with self.node.api() as api:
            pods = client.CoreV1Api(api).list_namespaced_pod(namespace).items
        return {pod.metadata.name: pod.status.phase for pod in pods}


def _driver() -> Path:
    """Return the main file of the images."""
    return oci.CHECKOUT / "infra" / "images" / "spark" / "driver.py"
