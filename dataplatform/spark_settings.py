"""How Spark runs on Kubernetes: the settings of the profile cluster that only Spark has."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Memory = Annotated[str, Field(pattern=r"^[1-9][0-9]*[kmgt]b?$")]


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Comma-separated in the environment."""
PullPolicy = Literal["IfNotPresent", "Always", "Never"]


class SparkSettings(BaseSettings):
    """Each as `DATAPLATFORM_SPARK_<NAME>` or in a `.env` file; read on the profile cluster only.

    Attributes:
        image: of drivers and executors, with its registry and tag.
        main_file: the program in the image, which calls `dataplatform.lake.driver`.
        image_pull_policy: Always, IfNotPresent or Never.
        image_pull_secrets: names of Secrets for the registry, comma-separated.
        namespace: where applications run.
        service_account: of the drivers.
        kubeconfig: a file that says how the API server is reached; unset, as a pod is told.
        kube_context: the context in it; unset, its current one.
        secret_prefix: what the names of the mounted Secrets begin with: `dataplatform-minio-platform`
            holds the secret `minio/platform`.
        event_log: where Spark's event logs go, such as `s3a://dagster-logs/spark-events`.
        ui_url: of a running driver's UI, such as `https://spark.example.org/{namespace}/{name}/`.
        history_url: of Spark's history server, which reads the event logs.
        driver_cores: of a driver.
        driver_memory: heap of a driver.
        executor_cores: of an executor.
        executor_memory: heap of an executor.
        executors: how many; unset, as many as the input is worth.
        max_executors: never more.
        megabytes_per_executor: stored input that one executor is worth.
        deadlines: seconds that an application may stay in a state, as JSON, such as
            `{"image_pull": 600}`; unset, those of the operator's library.
    """

    model_config = SettingsConfigDict(
        env_prefix="DATAPLATFORM_SPARK_", env_file=".env", extra="ignore"
    )

    image: str | None = None
    main_file: str = "local:///opt/dataplatform/driver.py"
    image_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: Names = ()
    namespace: str = "spark"
    service_account: str = "spark"
    kubeconfig: Path | None = None
    kube_context: str | None = None
    secret_prefix: str = "dataplatform-"  # noqa: S105  of names of Secrets
    event_log: str | None = None
    ui_url: str | None = None
    history_url: str | None = None
    driver_cores: Annotated[int, Field(ge=1)] = 1
    driver_memory: Memory = "2g"
    executor_cores: Annotated[int, Field(ge=1)] = 2
    executor_memory: Memory = "4g"
    executors: Annotated[int, Field(ge=1)] | None = None
    max_executors: Annotated[int, Field(ge=1)] = 20
    megabytes_per_executor: Annotated[int, Field(ge=1)] = 256
    deadlines: dict[str, float] = {}
