"""The arguments of spark-submit for a SparkApplication, as the Spark Operator 2.5.2 builds them.

The order and the names are those of `internal/controller/sparkapplication/submission.go` upstream. What
upstream's webhook does to pods without a template (volumes, tolerations, security contexts of the CRD's
own fields) is left out: an application that wants them here, and on a cluster without the webhook, says
them in `driver.template` and `executor.template`.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Application = Mapping[str, Any]

APP_NAME: Final = "sparkoperator.k8s.io/app-name"
LAUNCHED: Final = "sparkoperator.k8s.io/launched-by-spark-operator"
MUTATED: Final = "sparkoperator.k8s.io/mutated-by-spark-operator"
SUBMISSION_ID: Final = "sparkoperator.k8s.io/submission-id"
DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"

_POD_NAME: Final = "spark.kubernetes.driver.pod.name"
_DEPENDENCIES: Final = {
    "jars": "--jars",
    "packages": "--packages",
    "excludePackages": "--exclude-packages",
    "repositories": "--repositories",
    "pyFiles": "--py-files",
    "files": "--files",
    "archives": "--archives",
}
_COMMON_FIELDS: Final = {
    "cores": "spark.{role}.cores",
    "coreRequest": "spark.kubernetes.{role}.request.cores",
    "coreLimit": "spark.kubernetes.{role}.limit.cores",
    "memory": "spark.{role}.memory",
    "memoryOverhead": "spark.{role}.memoryOverhead",
    "serviceAccount": "spark.kubernetes.authenticate.{role}.serviceAccountName",
    "javaOptions": "spark.{role}.extraJavaOptions",
}
_ROLE_FIELDS: Final = {
    "driver": {"kubernetesMaster": "spark.kubernetes.driver.master"},
    "executor": {
        "instances": "spark.executor.instances",
        "deleteOnTermination": "spark.kubernetes.executor.deleteOnTermination",
    },
}
_ENVIRONMENT: Final = {"driver": "spark.kubernetes.driverEnv.", "executor": "spark.executorEnv."}
_SECRET_FILES: Final = {
    "GCPServiceAccount": ("GOOGLE_APPLICATION_CREDENTIALS", "key.json"),
    "HadoopDelegationToken": ("HADOOP_TOKEN_FILE_LOCATION", "hadoop.token"),
}
_VOLUMES: Final = {
    "emptyDir": ("sizeLimit", "medium"),
    "hostPath": ("path", "type"),
    "nfs": ("path", "server", "readOnly"),
    "persistentVolumeClaim": ("claimName", "readOnly"),
}
_LOCAL_DIRECTORY: Final = "spark-local-dir-"
_DYNAMIC_ALLOCATION: Final = ("initialExecutors", "minExecutors", "maxExecutors")


class SubmissionError(RuntimeError):
    """A specification that can't be translated; upstream says the same words."""


def driver_pod_name(app: Application) -> str:
    """Return the name of the driver's pod."""
    spec = app["spec"]
    given = spec["driver"].get("podName") or spec.get("sparkConf", {}).get(_POD_NAME)
    return given or f"{app['metadata']['name']}-driver"


def owner_reference(app: Application, *, controller: bool) -> dict[str, Any]:
    """Return the reference by which the API server deletes a pod after its application."""
    reference = {
        "apiVersion": app["apiVersion"],
        "kind": app["kind"],
        "name": app["metadata"]["name"],
        "uid": app["metadata"]["uid"],
    }
    return reference | ({"controller": True, "blockOwnerDeletion": True} if controller else {})


def with_defaults(app: Application) -> dict[str, Any]:
    """Return the application with the fields that upstream's webhook would have filled in."""
    filled: dict[str, Any] = copy.deepcopy(dict(app))
    spec = filled["spec"]
    policy = spec.setdefault("restartPolicy", {})
    if policy.setdefault("type", "Never") != "Never":
        policy.setdefault("onFailureRetryInterval", 5)
        policy.setdefault("onSubmissionFailureRetryInterval", 5)
    conf = spec.get("sparkConf", {})
    for role in ("driver", "executor"):
        section = spec.setdefault(role, {})
        for field, value in {"cores": 1, "memory": "1g"}.items():
            if f"spark.{role}.{field}" not in conf:
                section.setdefault(field, value)
    if not spec.get("dynamicAllocation", {}).get("enabled") and not conf.get(
        "spark.executor.instances"
    ):
        spec["executor"].setdefault("instances", 1)
    return filled


def arguments(app: Application, master: str, folder: Path, defaults: Application) -> list[str]:
    """Return the arguments of spark-submit; writes the pod templates into `folder`.

    Args:
        app: with the status's `submissionID`.
        master: address of the API server, as `k8s://https://…`.
        folder: of the pod templates.
        defaults: what the operator adds to every application: `sparkConf`, which the application's
            own wins over, and `template`, laid under both of its pod templates.
    """
    spec = app["spec"]
    args = ["--master", master, "--deploy-mode", spec.get("mode", "cluster")]
    if spec.get("mainClass"):
        args += ["--class", spec["mainClass"]]
    args += ["--name", app["metadata"]["name"]]
    for field, option in _DEPENDENCIES.items():
        if spec.get("deps", {}).get(field):
            args += [option, ",".join(spec["deps"][field])]
    for key, value in _configuration(app, folder, defaults):
        args += ["--conf", f"{key}={_text(value)}"]
    if spec.get("proxyUser"):
        args += ["--proxy-user", spec["proxyUser"]]
    if spec.get("mainApplicationFile"):
        args.append(spec["mainApplicationFile"])
    return args + [str(argument) for argument in spec.get("arguments", [])]


def _configuration(
    app: Application, folder: Path, defaults: Application
) -> Iterator[tuple[str, object]]:
    """Yield Spark's properties; of one that comes twice, spark-submit takes the later."""
    spec = app["spec"]
    yield from defaults.get("sparkConf", {}).items()
    yield "spark.kubernetes.namespace", app["metadata"]["namespace"]
    yield from _image(spec)
    if spec.get("pythonVersion"):
        yield "spark.kubernetes.pyspark.pythonVersion", spec["pythonVersion"]
    if spec.get("memoryOverheadFactor"):
        yield "spark.kubernetes.memoryOverheadFactor", spec["memoryOverheadFactor"]
    yield "spark.kubernetes.submission.waitAppCompletion", False
    for key, value in spec.get("sparkConf", {}).items():
        if key != _POD_NAME:
            yield key, value
    for key, value in spec.get("hadoopConf", {}).items():
        yield f"spark.hadoop.{key}", value
    yield _POD_NAME, driver_pod_name(app)
    for role in ("driver", "executor"):
        yield from _template(app, role, folder, defaults)
        yield from _role(app, role)
        yield from _secrets(spec[role], role)
        yield from _local_directories(spec, role)
    for key, value in spec.get("nodeSelector", {}).items():
        yield f"spark.kubernetes.node.selector.{key}", value
    yield from _dynamic_allocation(spec.get("dynamicAllocation", {}))


def _image(spec: Application) -> Iterator[tuple[str, object]]:
    if spec.get("image"):
        yield "spark.kubernetes.container.image", spec["image"]
    if spec.get("imagePullPolicy"):
        yield "spark.kubernetes.container.image.pullPolicy", spec["imagePullPolicy"]
    if spec.get("imagePullSecrets"):
        yield "spark.kubernetes.container.image.pullSecrets", ",".join(spec["imagePullSecrets"])


def _role(app: Application, role: str) -> Iterator[tuple[str, object]]:
    """Yield what the application says of its driver or of its executors."""
    spec, prefix = app["spec"][role], f"spark.kubernetes.{role}"
    yield f"{prefix}.label.{APP_NAME}", app["metadata"]["name"]
    yield f"{prefix}.label.{LAUNCHED}", True
    if "template" not in spec:
        yield f"{prefix}.label.{MUTATED}", True
    yield f"{prefix}.label.{SUBMISSION_ID}", app["status"]["submissionID"]
    image = spec.get("image") or app["spec"].get("image")
    if image:
        yield f"{prefix}.container.image", image
    for field, name in (_COMMON_FIELDS | _ROLE_FIELDS[role]).items():
        if field in spec:
            yield name.format(role=role), spec[field]
    # Kueue's labels are for the application alone.
    own = app["metadata"].get("labels", {}).items()
    labels = {key: value for key, value in own if not key.startswith("kueue.x-k8s.io/")}
    yield from _prefixed(f"{prefix}.label.", labels | spec.get("labels", {}))
    yield from _prefixed(f"{prefix}.annotation.", spec.get("annotations", {}))
    yield from _prefixed(f"{prefix}.service.label.", spec.get("serviceLabels", {}))
    yield from _prefixed(f"{prefix}.service.annotation.", spec.get("serviceAnnotations", {}))
    for name, key in spec.get("envSecretKeyRefs", {}).items():
        yield f"{prefix}.secretKeyRef.{name}", f"{key['name']}:{key['key']}"
    yield from _prefixed(_ENVIRONMENT[role], spec.get("envVars", {}))


def _prefixed(prefix: str, values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        yield prefix + key, value


def _secrets(section: Application, role: str) -> Iterator[tuple[str, object]]:
    for secret in section.get("secrets", []):
        yield f"spark.kubernetes.{role}.secrets.{secret['name']}", secret["path"]
        if secret.get("secretType") in _SECRET_FILES:
            variable, file = _SECRET_FILES[secret["secretType"]]
            yield _ENVIRONMENT[role] + variable, str(Path(secret["path"]) / file)


def _local_directories(spec: Application, role: str) -> Iterator[tuple[str, object]]:
    """Yield the volumes for Spark's scratch files, the only ones that spark-submit takes itself."""
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for mount in spec[role].get("volumeMounts", []):
        name = mount["name"]
        if not name.startswith(_LOCAL_DIRECTORY):
            continue
        if name not in volumes:
            raise SubmissionError(f"volume {name} not found")
        kind = _volume_kind(volumes[name])
        prefix = f"spark.kubernetes.{role}.volumes.{kind}.{name}"
        for field, option in {
            "mountPath": "path",
            "subPath": "subPath",
            "readOnly": "readOnly",
        }.items():
            if mount.get(field):
                yield f"{prefix}.mount.{option}", mount[field]
        for option in _VOLUMES[kind]:
            if volumes[name][kind].get(option):
                yield f"{prefix}.options.{option}", volumes[name][kind][option]


def _volume_kind(volume: Application) -> str:
    for kind in _VOLUMES:
        if kind in volume:
            return kind
    raise SubmissionError("unsupported volume type")


def _dynamic_allocation(allocation: Application) -> Iterator[tuple[str, object]]:
    if not allocation.get("enabled"):
        return
    prefix = "spark.dynamicAllocation"
    yield f"{prefix}.enabled", True
    for field in _DYNAMIC_ALLOCATION:
        if field in allocation:
            yield f"{prefix}.{field}", allocation[field]
    yield f"{prefix}.shuffleTracking.enabled", allocation.get("shuffleTrackingEnabled", True)
    if "shuffleTrackingTimeout" in allocation:
        yield f"{prefix}.shuffleTracking.timeout", allocation["shuffleTrackingTimeout"]


def _template(
    app: Application, role: str, folder: Path, defaults: Application
) -> Iterator[tuple[str, object]]:
    """Write the pod template and yield where it is; YAML's reader takes JSON."""
    container = DRIVER_CONTAINER if role == "driver" else EXECUTOR_CONTAINER
    template = app["spec"][role].get("template") or {"spec": {"containers": [{"name": container}]}}
    template = laid_over(copy.deepcopy(template), _named(defaults.get("template", {}), container))
    metadata = template.setdefault("metadata", {})
    owner = owner_reference(app, controller=role == "driver")
    metadata["ownerReferences"] = [*metadata.get("ownerReferences", []), owner]
    file = folder / f"{role}-pod-template.yaml"
    file.write_text(json.dumps(template | {"apiVersion": "v1", "kind": "Pod"}))
    yield f"spark.kubernetes.{role}.podTemplateFile", str(file)
    yield f"spark.kubernetes.{role}.podTemplateContainerName", container


def _named(template: Application, container: str) -> dict[str, Any]:
    """Return the operator's template with its one container named as the role's is."""
    named: dict[str, Any] = copy.deepcopy(dict(template))
    for entry in named.get("spec", {}).get("containers", []):
        entry["name"] = container
    return named


def laid_over(upper: Any, lower: Any) -> Any:
    """Return one pod template over another: `upper` wins, lists of named entries are joined by name."""
    if isinstance(upper, dict) and isinstance(lower, dict):
        joined = {key: laid_over(upper[key], lower[key]) for key in upper.keys() & lower.keys()}
        return lower | upper | joined
    if isinstance(upper, list) and isinstance(lower, list):
        return _lists_laid_over(upper, lower)
    return upper


def _lists_laid_over(upper: list[Any], lower: list[Any]) -> list[Any]:
    below = {_key(entry): entry for entry in lower}
    own = [laid_over(entry, below.pop(_key(entry), None)) for entry in upper]
    return own + list(below.values())


def _key(entry: Any) -> str:
    """Return what an entry of a list in a pod goes by: a mount by its path, others by their name."""
    if isinstance(entry, dict):
        return str(entry.get("mountPath") or entry.get("name") or entry)
    return str(entry)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
