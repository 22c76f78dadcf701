"""The driver as on Kubernetes, but for the pod: servers by address, secrets from files, Pipes in S3."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    encode_param,
)

from dataplatform.lake.orders import BuildOrder, ResultMessage, read_message
from dataplatform.lake.place import LocalLake
from dataplatform.profiles import Settings, lake_place
from dataplatform.resources.spark_cluster import SparkClusterResource, driver_env
from dataplatform.resources.spark_operator.messages import PipesFolder
from dataplatform.resources.vault import open_secrets
from dataplatform.spark_settings import SparkSettings
from dataplatform_tests.driving import TABLES, DriverProcess, land
from dataplatform_tests.stack.fixtures import RunningStack
from dataplatform_tests.stack.test_differential import rows_of

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

ORDER = BuildOrder(tables=list(TABLES), origin="recorded", run_id="run one")
SERVERS = ("s3_endpoint", "catalog_uri", "postgres_url")


@pytest.fixture
def cluster(stack: RunningStack) -> Settings:
    """The settings of the profile cluster with the stack's servers."""
    addresses = {name: stack.endpoints[name] for name in SERVERS}
    return Settings.model_validate({"profile": "cluster", "home": stack.home, **addresses})


@pytest.fixture
def spark(cluster: Settings) -> SparkClusterResource:
    return SparkClusterResource.from_settings(cluster, SparkSettings())


@pytest.fixture
def mounted(stack: RunningStack, spark: SparkClusterResource, tmp_path: Path) -> Path:
    """The secrets that a driver is given, as the kubelet would mount them."""
    vault = open_secrets(stack.settings)
    for path in spark.secret_paths:
        folder = tmp_path / "secrets" / path
        folder.mkdir(parents=True)
        for name, value in vault.read(path).items():
            (folder / name).write_text(value)
    return tmp_path / "secrets"


@pytest.fixture
def env(cluster: Settings, mounted: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
    return own | driver_env(cluster) | {"DATAPLATFORM_SECRETS_DIR": str(mounted)}


def drive(folder: PipesFolder, env: Mapping[str, str]) -> tuple[str, list[Any]]:
    """Run the driver; return what it printed and every message of Pipes that it stored."""
    folder.write_context({"run_id": "r", "extras": ORDER.model_dump(mode="json")})
    pipes = {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: {"bucket": folder.bucket, "key": folder.context_key},
        DAGSTER_PIPES_MESSAGES_ENV_VAR: {
            "bucket": folder.bucket,
            "key_prefix": folder.messages_prefix,
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "dataplatform.lake.driver"],
        env={**env, **{name: encode_param(params) for name, params in pipes.items()}},
        capture_output=True,
        check=False,
        text=True,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    chunks = iter(range(1, 1000))
    stored = iter(lambda: folder.read_messages(next(chunks)), None)
    messages = [json.loads(chunk) for chunk in stored if chunk]
    folder.clear()
    return printed, messages


def test_it_builds_the_same_tables_and_tells_of_them_in_the_bucket(
    stack: RunningStack,
    spark: SparkClusterResource,
    env: dict[str, str],
    mounted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = lake_place(stack.settings, "recorded")
    land(theirs.raw_zone)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    bucket = spark.operator().bucket()
    printed, messages = drive(bucket.folder("spark", "first"), env)
    assert (messages[0]["method"], messages[-1]["method"]) == ("opened", "closed")
    told = [m["params"]["payload"] for m in messages if m["method"] == "report_custom_message"]
    results = [one.result for one in map(read_message, told) if isinstance(one, ResultMessage)]
    assert {result.table for result in results} == set(TABLES)
    secrets = {file.read_text().strip() for file in mounted.rglob("*") if file.is_file()}
    kept = [text for text in secrets if text in printed + json.dumps(messages)]
    # The names of the logins are none.
    assert [text for text in kept if not text.startswith(("platform", "dagster"))] == []

    _, again = drive(bucket.folder("spark", "second"), env)
    told = [m["params"]["payload"] for m in again if m["method"] == "report_custom_message"]
    assert {payload["result"]["status"] for payload in told} == {"unchanged"}

    ours = LocalLake(tmp_path / "local", "recorded")
    land(ours.raw_zone)
    built = DriverProcess(tmp_path / "local", tmp_path / "work", ORDER).wait()
    assert built.code == 0, built.printed
    for table in TABLES:
        assert rows_of(ours, table).to_pylist() == rows_of(theirs, table).to_pylist(), table
