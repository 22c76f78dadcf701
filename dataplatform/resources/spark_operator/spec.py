"""A typed description of a Spark application, and the manifest that the operator takes.

What `spark-submit` has an option for goes into the fields of the CRD; everything else of a pod goes
into its template, so that nothing depends on the operator's mutating webhook (Spark >= 3.0, operator
>= 2.4; templates came with 2.1, but only the webhook made the application the owner of its pods until
2.4). Fields: kubeflow/spark-operator v2.5.2, `api/v1beta2/sparkapplication_types.go`.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

API_VERSION: Final = "sparkoperator.k8s.io/v1beta2"
DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"
REFERENCE_EXECUTORS: Final = 20
SPARK_USER: Final = 185
"""The user of Spark's own images."""
UI_PORT: Final = 4040

Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmgt]b?$")]
"""As the JVM takes it, such as `512m` or `4g`."""
Cpu = Annotated[str, Field(pattern=r"^([0-9]+m|[0-9]+(\.[0-9]+)?)$")]
"""As Kubernetes takes it, such as `500m` or `1.5`."""
Manifest = dict[str, Any]

# The operator's webhook refuses the first kind (v2.5.2, internal/webhook/sparkconf_validator.go);
# without its webhook it would let them through, so they are refused here.
_OWN_FIELDS: Final = re.compile(
    r"^spark\.(master$|kubernetes\.(namespace$|driver\.master$|(driver\.|executor\.)?container\.image$"
    r"|authenticate\.))"
)
_SECRETS: Final = re.compile(
    r"(?i)secret|passw(or)?d|passphrase|token(?!iz)|credential|(access|api|private)[._-]?key"
    r"|account\.key\.|(?<!security\.)authorization$"
)
# What is called after a secret, and says where it is or how it is handled.
_NO_SECRETS: Final = re.compile(
    r"(?i)([._-](name|itemkey|files?|dir|path|providers?|class|impl|type|binding|uri|url|endpoint"
    r"|enabled?|ms|renewalratio|retrywait|interval|timeout)|pullsecrets|secretbitlength)$"
    r"|^spark\.kubernetes\.(driver|executor)\.secret(s|keyref)\."
)
_JAVA_PROPERTY: Final = re.compile(r"-D([\w.-]+)=")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SecretVolume(_Part):
    """A Kubernetes secret as files.

    Attributes:
        name: the secret's name.
        path: the folder where its keys appear as files.
        items: where only some keys are wanted: key to path below the folder.
        mode: of the files; the group is that of the security context.
        optional: whether the pod starts without it.
    """

    name: str
    path: str = Field(pattern="^/")
    items: dict[str, str] = {}
    mode: int = 0o440
    optional: bool = False


class SecretKey(_Part):
    """One key of a Kubernetes secret, for an environment variable."""

    name: str
    key: str


class SecurityContext(_Part):
    """What the Pod Security Standard `restricted` asks for.

    Attributes:
        run_as_user: not 0.
        run_as_group: the group.
        fs_group: the group of mounted volumes.
        read_only_root: a root file system that can't be written to; Spark then needs volumes for
            its temporary files.
    """

    run_as_user: int = Field(default=SPARK_USER, gt=0)
    run_as_group: int = SPARK_USER
    fs_group: int = SPARK_USER
    read_only_root: bool = False

    def pod(self) -> Manifest:
        """Return the pod's part."""
        return {
            "runAsNonRoot": True,
            "runAsUser": self.run_as_user,
            "runAsGroup": self.run_as_group,
            "fsGroup": self.fs_group,
            "seccompProfile": {"type": "RuntimeDefault"},
        }

    def container(self) -> Manifest:
        """Return the container's part."""
        return {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": self.read_only_root,
        }


class Pod(_Part):
    """What driver and executors have in common.

    Attributes:
        cores: tasks at a time.
        core_request: CPU to reserve, where it is not `cores`.
        core_limit: CPU that may not be exceeded.
        memory: the JVM's heap.
        memory_overhead: what the pod may use beside the heap: Python, network buffers.
        java_options: for the JVM.
        env: environment variables. No secrets.
        secret_env: environment variables with the value of a secret.
        secrets: secrets as files.
        service_account: its name.
        labels: beside those that say whose the application is.
        annotations: of the pod.
        node_selector: labels that the node must have.
        tolerations: as in a pod's specification.
        affinity: as in a pod's specification.
        priority_class: its name.
        volumes: as in a pod's specification. A name that begins with `spark-local-dir-` is used for
            shuffle files.
        volume_mounts: as in a container's specification.
        security: None, as the image and the namespace have it.
        termination_grace: seconds between SIGTERM and SIGKILL.
        pod_overrides: merged into the pod's specification at last.
        container_overrides: merged into the specification of Spark's container at last.
    """

    cores: int = Field(default=1, ge=1)
    core_request: Cpu | None = None
    core_limit: Cpu | None = None
    memory: Memory = "2g"
    memory_overhead: Memory | None = None
    java_options: str | None = None
    env: dict[str, str] = {}
    secret_env: dict[str, SecretKey] = {}
    secrets: tuple[SecretVolume, ...] = ()
    service_account: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[Manifest, ...] = ()
    affinity: Manifest | None = None
    priority_class: str | None = None
    volumes: tuple[Manifest, ...] = ()
    volume_mounts: tuple[Manifest, ...] = ()
    security: SecurityContext | None = SecurityContext()
    termination_grace: int = Field(default=15, ge=0)
    pod_overrides: Manifest = {}
    container_overrides: Manifest = {}

    def manifest(
        self, container: str, labels: Mapping[str, str], env: Mapping[str, str]
    ) -> Manifest:
        """Return `.spec.driver` or `.spec.executor`.

        Args:
            container: the name that Spark expects for its container in the template.
            labels: whose the application is.
            env: variables beside those of `env`.
        """
        return _without_none(
            {
                "cores": self.cores,
                "coreRequest": self.core_request,
                "coreLimit": self.core_limit,
                "memory": self.memory,
                "memoryOverhead": self.memory_overhead,
                "javaOptions": self.java_options,
                "envVars": {**self.env, **env} or None,
                "envSecretKeyRefs": _dumped(self.secret_env) or None,
                "serviceAccount": self.service_account,
                "labels": {**self.labels, **labels} or None,
                "annotations": self.annotations or None,
                "template": self._template(container),
            }
        )

    def _template(self, container: str) -> Manifest:
        spec = {
            "containers": [_merged(self._container(container), self.container_overrides)],
            "securityContext": self.security.pod() if self.security else None,
            "nodeSelector": self.node_selector or None,
            "tolerations": list(self.tolerations) or None,
            "affinity": self.affinity,
            "priorityClassName": self.priority_class,
            "terminationGracePeriodSeconds": self.termination_grace,
            "volumes": [*self.volumes, *map(_secret_volume, self.secrets)] or None,
            **self._pod_extras(),
        }
        return {"spec": _merged(_without_none(spec), self.pod_overrides)}

    def _pod_extras(self) -> Manifest:
        return {}

    def _container(self, name: str) -> Manifest:
        mounts = [
            {"name": _volume_name(secret), "mountPath": secret.path, "readOnly": True}
            for secret in self.secrets
        ]
        return _without_none(
            {
                "name": name,
                "securityContext": self.security.container() if self.security else None,
                "volumeMounts": [*self.volume_mounts, *mounts] or None,
            }
        )


class Driver(Pod):
    """The driver's pod."""


class Executor(Pod):
    """The executors' pods.

    Attributes:
        instances: how many; the reference is 20. With dynamic allocation, how many at first.
        delete_on_termination: whether Spark deletes executors that ended. Kept, they tell why they
            ended; they go with the application.
    """

    instances: int = Field(default=REFERENCE_EXECUTORS, ge=1)
    delete_on_termination: bool = False

    def manifest(
        self, container: str, labels: Mapping[str, str], env: Mapping[str, str]
    ) -> Manifest:
        """Return `.spec.executor`; see `Pod.manifest`."""
        own = {"instances": self.instances, "deleteOnTermination": self.delete_on_termination}
        return super().manifest(container, labels, env) | own

    def _pod_extras(self) -> Manifest:
        # Executors never ask the API server for anything.
        return {"automountServiceAccountToken": False}


class DynamicAllocation(_Part):
    """Executors as the work needs them, without an external shuffle service.

    Attributes:
        min_executors: kept even when idle.
        max_executors: never more.
        shuffle_tracking_timeout: seconds after which idle executors go although they hold shuffle
            files; None, they stay.
    """

    min_executors: int = Field(default=1, ge=0)
    max_executors: int = Field(default=REFERENCE_EXECUTORS, ge=1)
    shuffle_tracking_timeout: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "DynamicAllocation":
        if self.min_executors > self.max_executors:
            raise ValueError("min_executors is above max_executors")
        return self

    def initial(self, instances: int) -> int:
        """Return `instances` within the bounds."""
        return max(self.min_executors, min(instances, self.max_executors))

    def manifest(self, instances: int) -> Manifest:
        """Return `.spec.dynamicAllocation`, starting with `instances` within the bounds."""
        timeout = self.shuffle_tracking_timeout
        return _without_none(
            {
                "enabled": True,
                "initialExecutors": self.initial(instances),
                "minExecutors": self.min_executors,
                "maxExecutors": self.max_executors,
                "shuffleTrackingEnabled": True,
                "shuffleTrackingTimeout": None if timeout is None else timeout * 1000,
            }
        )


class JmxExporter(_Part):
    """Metrics by Prometheus' JMX exporter, which is in the image with its configuration.

    Without these files the operator makes them, as a ConfigMap that only its webhook mounts; and a JVM
    does not start where its agent's file is missing.

    Attributes:
        jar: the exporter's path in the image.
        config_file: the path of its configuration in the image.
        metrics_file: the path of a `metrics.properties` in the image; None, what Spark and the JVM
            measure goes to JMX.
        port: where it listens.
    """

    jar: str = Field(pattern="^/")
    config_file: str = Field(pattern="^/")
    metrics_file: str | None = Field(default=None, pattern="^/")
    port: int = Field(default=8090, ge=1024, le=49151)

    def manifest(self) -> Manifest:
        """Return `.spec.monitoring`."""
        exporter = {"jmxExporterJar": self.jar, "configFile": self.config_file, "port": self.port}
        return {
            "exposeDriverMetrics": True,
            "exposeExecutorMetrics": True,
            # Any file, so that the operator makes none.
            "metricsPropertiesFile": self.metrics_file or "/dev/null",
            "prometheus": exporter,
        }


class Dependencies(_Part):
    """Files that Spark fetches at start. Baked into the image they cost nothing at run time."""

    jars: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    py_files: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()

    def manifest(self) -> Manifest:
        """Return `.spec.deps`."""
        lists = {"jars": self.jars, "files": self.files, "pyFiles": self.py_files}
        return {k: list(v) for k, v in (lists | {"archives": self.archives}).items() if v}


class SparkApplication(_Part):
    """A Spark application, without the name, labels and Pipes parameters that each run adds.

    It is never restarted by the operator (`restartPolicy: Never`): Dagster's retry policies decide,
    and each attempt has a name of its own.

    Attributes:
        image: of driver and executors.
        main_file: such as `local:///opt/app/main.py`; `local://` is a path within the image.
        main_class: for Java and Scala.
        arguments: of the program. Dagster Pipes' extras carry structured ones.
        type: of the program.
        spark_version: of the image.
        spark_conf: Spark's configuration. No secrets. Where it has no volume by
            `spark.kubernetes.*.volumes.persistentVolumeClaim.*`, Spark is told not to look for claims.
        hadoop_conf: Hadoop's configuration, without the prefix `spark.hadoop.`. No secrets.
        driver: the driver's pod.
        executor: the executors' pods.
        dynamic_allocation: None, a fixed number of executors.
        image_pull_policy: as in a pod's specification.
        image_pull_secrets: names of secrets.
        dependencies: files that are not in the image.
        event_log: where Spark's event log goes, such as `s3a://logs/spark-events`; the history
            server shows it.
        prometheus: whether the driver serves metrics of itself and its executors below
            `/metrics/` of its UI, with annotations that Prometheus discovers them by.
        jmx_exporter: metrics of the JVMs instead; a pod's annotations can name one port only.
        time_to_live: seconds until the operator deletes an application that has ended.
        labels: beside those that say whose the application is.
        annotations: of the application.
        spec_overrides: merged into `.spec` at last: fields that have no attribute here.
        no_secrets: keys of configuration and environment that only look as if they held a secret.
    """

    image: str = Field(min_length=1)
    main_file: str = Field(min_length=1)
    main_class: str | None = None
    arguments: tuple[str, ...] = ()
    type: Literal["Python", "Java", "Scala", "R"] = "Python"
    spark_version: str = "3.5.0"
    spark_conf: dict[str, str] = {}
    hadoop_conf: dict[str, str] = {}
    driver: Driver = Driver()
    executor: Executor = Executor()
    dynamic_allocation: DynamicAllocation | None = None
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    dependencies: Dependencies = Dependencies()
    event_log: str | None = None
    prometheus: bool = False
    jmx_exporter: JmxExporter | None = None
    time_to_live: int | None = Field(default=3600, ge=1)
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    spec_overrides: Manifest = {}
    no_secrets: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _without_secrets(self) -> "SparkApplication":
        spec = _merged(self._spec({}, {}), self.spec_overrides)
        for key in _names_of_values(spec):
            if _SECRETS.search(key) and not (_NO_SECRETS.search(key) or key in self.no_secrets):
                raise ValueError(
                    f"{key} holds a secret, which everyone may read who may read the application."
                    " Remedy: mount it (`secrets`) or take it from `secret_env`; name it in"
                    " `no_secrets` if it is none."
                )
        return self

    @model_validator(mode="after")
    def _without_what_others_set(self) -> "SparkApplication":
        conf = self._given_conf()
        for key in filter(_OWN_FIELDS.search, conf):
            raise ValueError(
                f"{key} is set by the operator. Remedy: use the field of that meaning: image,"
                " service_account; the namespace is the client's."
            )
        if self.prometheus and self.jmx_exporter:
            raise ValueError(
                "prometheus and jmx_exporter both set the annotations that Prometheus scrapes by, and"
                " the operator keeps the second's. Remedy: choose one."
            )
        set_by_exporter = {"spark.metrics.conf", "spark.metrics.namespace"} & set(conf)
        if self.jmx_exporter and set_by_exporter:
            raise ValueError(
                f"{', '.join(sorted(set_by_exporter))} is overwritten by the operator where"
                " jmx_exporter is set. Remedy: use its metrics_file, or leave one of them out."
            )
        return self

    @field_validator("spec_overrides")
    @classmethod
    def _never_restarted(cls, overrides: Manifest) -> Manifest:
        policy = overrides.get("restartPolicy") or {}
        if policy.get("type", "Never") != "Never":
            raise ValueError(
                f"restartPolicy {policy['type']}: the messages of two drivers can't be told apart."
                " Remedy: leave it Never, and let a retry policy of Dagster try again."
            )
        return overrides

    def manifest(
        self,
        name: str,
        namespace: str,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        driver_env: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Return the application as the API server takes it.

        Args:
            name: of the application; its driver is called `<name>-driver`.
            namespace: where it runs.
            labels: whose it is; on driver and executors too.
            annotations: beside those of the description.
            driver_env: variables of the driver, such as those of Dagster Pipes.
        """
        metadata = {
            "name": name,
            "namespace": namespace,
            "labels": {**self.labels, **(labels or {})},
            "annotations": {**self.annotations, **(annotations or {})},
        }
        return {
            "apiVersion": API_VERSION,
            "kind": "SparkApplication",
            "metadata": {key: value for key, value in metadata.items() if value},
            "spec": _merged(self._spec(labels or {}, driver_env or {}), self.spec_overrides),
        }

    def digest(self, *also: object) -> str:
        """Return a short hash of the specification and of what else makes its work.

        Args:
            also: JSON values, such as the extras that the driver is given.
        """
        text = json.dumps([self._spec({}, {}), self.spec_overrides, also], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _spec(self, labels: Mapping[str, str], driver_env: Mapping[str, str]) -> Manifest:
        driver = self.driver.manifest(DRIVER_CONTAINER, labels, {})
        if self.prometheus:
            driver["annotations"] = _SCRAPED | driver.get("annotations", {})
        executor = self.executor.manifest(EXECUTOR_CONTAINER, labels, {})
        dynamic = self.dynamic_allocation
        if dynamic:
            # Spark starts with the larger of this and `initialExecutors`, even above the maximum.
            executor["instances"] = max(1, dynamic.initial(self.executor.instances))
        return _without_none(
            {
                "type": self.type,
                "pythonVersion": "3" if self.type == "Python" else None,
                "mode": "cluster",
                "sparkVersion": self.spark_version,
                "image": self.image,
                "imagePullPolicy": self.image_pull_policy,
                "imagePullSecrets": list(self.image_pull_secrets) or None,
                "mainApplicationFile": self.main_file,
                "mainClass": self.main_class,
                "arguments": list(self.arguments) or None,
                "deps": self.dependencies.manifest() or None,
                "sparkConf": self._spark_conf(driver_env) or None,
                "hadoopConf": self.hadoop_conf or None,
                "driver": driver,
                "executor": executor,
                "dynamicAllocation": dynamic and dynamic.manifest(self.executor.instances),
                "monitoring": self.jmx_exporter and self.jmx_exporter.manifest(),
                "restartPolicy": {"type": "Never"},
                "timeToLiveSeconds": self.time_to_live,
            }
        )

    def _spark_conf(self, driver_env: Mapping[str, str]) -> dict[str, str]:
        conf: dict[str, str] = {}
        if self.event_log:
            conf |= {"spark.eventLog.enabled": "true", "spark.eventLog.dir": self.event_log}
        if self.prometheus:
            conf |= _PROMETHEUS
        if self.jmx_exporter and not self.jmx_exporter.metrics_file:
            conf |= _JMX
        if not any(map(_CLAIM.search, self._given_conf())):
            conf |= _NO_CLAIMS
        env = {f"spark.kubernetes.driverEnv.{key}": value for key, value in driver_env.items()}
        return conf | self.spark_conf | env

    def _given_conf(self) -> dict[str, str]:
        return {**self.spark_conf, **self.spec_overrides.get("sparkConf", {})}


# https://spark.apache.org/docs/3.5.0/monitoring.html#metrics
_PROMETHEUS: Final = {
    "spark.ui.prometheus.enabled": "true",
    "spark.metrics.conf.*.sink.prometheusServlet.class": (
        "org.apache.spark.metrics.sink.PrometheusServlet"
    ),
    "spark.metrics.conf.*.sink.prometheusServlet.path": "/metrics/prometheus",
}
_JMX: Final = {
    "spark.metrics.conf.*.sink.jmx.class": "org.apache.spark.metrics.sink.JmxSink",
    "spark.metrics.conf.*.source.jvm.class": "org.apache.spark.metrics.source.JvmSource",
}
# Without them Spark lists claims at its start and deletes some at its end, which takes rights that a
# driver without claims has no use for; a refusal is an ERROR with 60 lines of stack in its log.
_NO_CLAIMS: Final = {
    "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
    "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
}
_CLAIM: Final = re.compile(
    r"^spark\.kubernetes\.(driver|executor)\.volumes\.persistentVolumeClaim\."
)
_SCRAPED: Final = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": str(UI_PORT),
    "prometheus.io/path": "/metrics/executors/prometheus",
}


def _names_of_values(spec: Manifest) -> Iterator[str]:
    """Yield the names of all that stands as text in a specification and may be a secret."""
    conf = spec.get("sparkConf") or {}
    yield from conf
    yield from spec.get("hadoopConf") or ()
    options = [value for key, value in conf.items() if key.endswith("JavaOptions")]
    for pod in (spec["driver"], spec["executor"]):
        yield from pod.get("envVars") or ()
        options.append(pod.get("javaOptions") or "")
        in_template = pod["template"]["spec"]
        for container in [*in_template["containers"], *in_template.get("initContainers", ())]:
            yield from (each["name"] for each in container.get("env", ()) if "value" in each)
    for text in options:
        yield from _JAVA_PROPERTY.findall(text)


def _without_none(fields: Mapping[str, Any]) -> Manifest:
    return {key: value for key, value in fields.items() if value is not None}


def _dumped(models: Mapping[str, BaseModel]) -> Manifest:
    return {key: model.model_dump() for key, model in models.items()}


def _merged(base: Manifest, overrides: Mapping[str, Any]) -> Manifest:
    """Return `base` with `overrides` merged into its mappings; lists and values are replaced."""
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, Mapping)
        merged[key] = _merged(old, value) if both else value
    return merged


def _volume_name(secret: SecretVolume) -> str:
    """Return a volume name that two mounts of one secret do not share."""
    place = hashlib.sha256(secret.path.encode()).hexdigest()[:6]
    return f"secret-{re.sub(r'[^a-z0-9-]', '-', secret.name)[:49]}-{place}"


def _secret_volume(secret: SecretVolume) -> Manifest:
    items: Sequence[Manifest] = [{"key": key, "path": path} for key, path in secret.items.items()]
    source = {"secretName": secret.name, "defaultMode": secret.mode, "optional": secret.optional}
    return {
        "name": _volume_name(secret),
        "secret": source | ({"items": items} if items else {}),
    }
