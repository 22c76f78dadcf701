"""What a SparkApplication that asks for Prometheus' metrics is submitted with."""

from typing import Any

from dataplatform_tests.kubernetes.monitoring import config_map, is_wanted, with_monitoring


def application(**monitoring: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {"name": "silver", "namespace": "lake", "uid": "u1"},
        "spec": {
            "sparkConf": {"own": "1"},
            "driver": {"javaOptions": "-Da=b"},
            "executor": {},
            "monitoring": monitoring,
        },
    }


def test_only_what_asks_for_prometheus_gets_it() -> None:
    assert is_wanted(application(prometheus={"jmxExporterJar": "/j.jar"}))
    assert not is_wanted(application(exposeDriverMetrics=True))


def test_an_exposed_driver_has_the_agent_and_is_annotated() -> None:
    prometheus = {"jmxExporterJar": "/j.jar", "port": 9100}
    app = application(exposeDriverMetrics=True, prometheus=prometheus)
    spec = with_monitoring(app)["spec"]
    agent = "-javaagent:/j.jar=9100:/etc/metrics/conf/prometheus.yaml"
    assert spec["driver"]["javaOptions"] == f"-Da=b {agent}"
    assert spec["driver"]["annotations"]["prometheus.io/port"] == "9100"
    assert spec["executor"] == {}
    assert spec["sparkConf"] == {
        "own": "1",
        "spark.metrics.namespace": "lake.silver",
        "spark.metrics.conf": "/etc/metrics/conf/metrics.properties",
    }
    assert app["spec"]["driver"] == {"javaOptions": "-Da=b"}


def test_files_of_the_image_take_the_place_of_the_config_map() -> None:
    prometheus = {"jmxExporterJar": "/j.jar"}
    made = config_map(application(prometheus=prometheus))
    assert made
    assert set(made["data"]) == {"metrics.properties", "prometheus.yaml"}
    assert made["metadata"]["name"] == "silver-prom-conf"
    files = {"metricsPropertiesFile": "/m", "prometheus": prometheus | {"configFile": "/p"}}
    assert config_map(application(**files)) is None
    assert with_monitoring(application(**files))["spec"]["sparkConf"]["spark.metrics.conf"] == "/m"
