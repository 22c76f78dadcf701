"""Prometheus' metrics of a SparkApplication, as `monitoring_config.go` of the Spark Operator 2.5.2.

Upstream's webhook mounts the ConfigMap; without the webhook it is made and nothing mounts it.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

from dataplatform_tests.kubernetes.submission import owner_reference

_FOLDER: Final = "/etc/metrics/conf"
_AGENT_PORT: Final = 8090
_PROPERTIES: Final = """
*.sink.jmx.class=org.apache.spark.metrics.sink.JmxSink
driver.source.jvm.class=org.apache.spark.metrics.source.JvmSource
executor.source.jvm.class=org.apache.spark.metrics.source.JvmSource"""
# Upstream has rules here that give the metrics their names.
_CONFIGURATION: Final = "lowercaseOutputName: true\nattrNameSnakeCase: true\n"
_CREATED: Final = {"sparkoperator.k8s.io/created-by-spark-operator": "true"}
_EXPOSED: Final = {"driver": "exposeDriverMetrics", "executor": "exposeExecutorMetrics"}


def is_wanted(app: Mapping[str, Any]) -> bool:
    """Return whether the application asks for Prometheus' metrics."""
    return "prometheus" in app["spec"].get("monitoring", {})


def with_monitoring(app: Mapping[str, Any]) -> dict[str, Any]:
    """Return the application with the properties, annotations and Java options of its metrics."""
    monitored: dict[str, Any] = copy.deepcopy(dict(app))
    spec, metadata = monitored["spec"], monitored["metadata"]
    monitoring = spec["monitoring"]
    properties = monitoring.get("metricsPropertiesFile") or f"{_FOLDER}/metrics.properties"
    namespace = f"{metadata['namespace']}.{metadata['name']}"
    conf = {"spark.metrics.namespace": namespace, "spark.metrics.conf": properties}
    spec["sparkConf"] = spec.get("sparkConf", {}) | conf
    for role, flag in _EXPOSED.items():
        if monitoring.get(flag):
            _expose(spec[role], monitoring["prometheus"])
    return monitored


def _expose(role: dict[str, Any], prometheus: Mapping[str, Any]) -> None:
    port = prometheus.get("port", _AGENT_PORT)
    scraped = {"scrape": "true", "port": str(port), "path": "/metrics"}
    annotations = {f"prometheus.io/{name}": value for name, value in scraped.items()}
    role["annotations"] = role.get("annotations", {}) | annotations
    file = prometheus.get("configFile") or f"{_FOLDER}/prometheus.yaml"
    agent = f"-javaagent:{prometheus['jmxExporterJar']}={port}:{file}"
    role["javaOptions"] = f"{role.get('javaOptions', '')} {agent}".strip()


def config_map(app: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ConfigMap of the metrics; None where the image has both files."""
    monitoring, data = app["spec"]["monitoring"], {}
    if not monitoring.get("metricsPropertiesFile"):
        data["metrics.properties"] = monitoring.get("metricsProperties", _PROPERTIES)
    if not monitoring["prometheus"].get("configFile"):
        configuration = monitoring["prometheus"].get("configuration", _CONFIGURATION)
        data["prometheus.yaml"] = configuration
    metadata = {
        "name": f"{app['metadata']['name']}-prom-conf",
        "labels": _CREATED,
        "ownerReferences": [owner_reference(app, controller=True)],
    }
    return {"metadata": metadata, "data": data} if data else None
