"""The Dockerfiles and what their stages run, without a builder."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataplatform.images import inputs

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "infra/images"
DOCKERFILES = {name: (IMAGES / name / "Dockerfile").read_text() for name in inputs.IMAGES}
each = pytest.mark.parametrize("text", DOCKERFILES.values(), ids=DOCKERFILES)


def last_stage(text: str) -> str:
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[-1]


HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.skipif(not HADOLINT, reason="hadolint is not installed: make setup, or docs/images.md")
def test_hadolint_finds_nothing() -> None:
    files = [str(IMAGES / name / "Dockerfile") for name in inputs.IMAGES]
    run = subprocess.run([str(HADOLINT), *files], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


@each
def test_every_stage_stands_on_the_one_base(text: str) -> None:
    named = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, flags=re.MULTILINE)
    stages = {stage for _, stage in named if stage}
    assert {base for base, _ in named} - stages == {"${BASE_IMAGE}"}
    assert inputs.named_base(ROOT).startswith("docker.io/library/python:3.11-slim-bookworm")


@each
def test_what_is_shipped_is_only_copied(text: str) -> None:
    instructions = re.findall(r"^([A-Z]+) ", last_stage(text), flags=re.MULTILINE)
    assert "RUN" not in instructions
    assert "ADD" not in instructions


@each
def test_the_user_is_a_number_and_not_root(text: str) -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", last_stage(text), flags=re.MULTILINE)
    assert int(user) > 0


@each
def test_no_argument_carries_a_secret_or_an_index(text: str) -> None:
    arguments = set(re.findall(r"^ARG (\w+)", text, flags=re.MULTILINE))
    assert arguments == {"BASE_IMAGE", "VERSION"}
    assert not re.search(r"https?://", text)


@each
def test_what_is_copied_is_in_the_context(text: str) -> None:
    shown = {str(file.relative_to(ROOT)) for file in inputs.context_files(ROOT)}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE)
    for source in " ".join(copied).split():
        assert any(Path(file).match(source) or file.startswith(f"{source}/") for file in shown)


def verify(folder: Path, versions: Path) -> subprocess.CompletedProcess[str]:
    """Verify a folder of jars as the build does."""
    command = [sys.executable, str(IMAGES / "spark/verify_jars.py"), str(versions), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    (tmp_path / "jars").mkdir()
    return tmp_path / "jars"


def test_another_jar_stops_the_build(jars: Path) -> None:
    (jars / "sqlite-jdbc-3.54.1.0.jar").write_bytes(b"another one")
    (jars / "extra-1.0.jar").write_bytes(b"")
    run = verify(jars, ROOT / "dataplatform/versions.py")
    assert run.returncode == 1
    assert "Not the pinned jars" in run.stderr
    for name in ("extra-1.0.jar", "sqlite-jdbc-3.54.1.0.jar", "iceberg-aws-bundle-1.12.0.jar"):
        assert name in run.stderr


def test_the_pinned_jars_pass_and_can_be_read_by_all(jars: Path) -> None:
    digest = hashlib.sha256(b"a jar").hexdigest()
    jar = jars / "one-1.0.jar"
    jar.write_bytes(b"a jar")
    jar.chmod(0o600)
    versions = jars.parent / "versions.py"
    versions.write_text(f"SPARK_JARS = {{'org.example:one:1.0': '{digest}'}}\nS3_JARS = {{}}\n")
    run = verify(jars, versions)
    assert run.returncode == 0, run.stderr
    assert jar.stat().st_mode & 0o777 == 0o644
    assert (jars / "pinned.sha256").read_text() == f"{digest}  one-1.0.jar\n"


@pytest.mark.parametrize(("status", "ended"), [(0, 0), (1, 0), (2, 1), (137, 1)])
def test_only_files_that_are_no_modules_may_stay_uncompiled(
    tmp_path: Path, status: int, ended: int
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    script = (IMAGES / "compile").read_text().replace("/opt/venv/bin/python", str(python))
    run = subprocess.run(["sh", "-c", script, "compile", "/opt/venv"], check=False)
    assert run.returncode == ended


@pytest.fixture
def spark_home(tmp_path: Path) -> Path:
    """A Spark and a Java that print their arguments, one a line."""
    for program in ("spark/bin/spark-submit", "java/bin/java"):
        file = tmp_path / program
        file.parent.mkdir(parents=True)
        file.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\n')
        file.chmod(0o755)
    return tmp_path


def enter(home: Path, *arguments: str, **variables: str) -> list[str]:
    """Start the entry point with a fake Spark; return the command that it became."""
    run = subprocess.run(
        [str(IMAGES / "spark/entrypoint.sh"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={
            "PATH": "/usr/bin:/bin",
            "SPARK_HOME": str(home / "spark"),
            "JAVA_HOME": str(home / "java"),
            **variables,
        },
    )
    return run.stdout.splitlines()


def test_the_driver_is_submitted_in_its_own_process(spark_home: Path) -> None:
    command = enter(
        *(spark_home, "driver", "--properties-file", "/opt/spark/conf/spark.properties"),
        *("local:///opt/dataplatform/driver.py", "two words"),
        SPARK_DRIVER_BIND_ADDRESS="10.0.0.7",
    )
    assert command == [
        str(spark_home / "spark/bin/spark-submit"),
        *("--conf", "spark.driver.bindAddress=10.0.0.7", "--deploy-mode", "client"),
        *("--properties-file", "/opt/spark/conf/spark.properties"),
        *("local:///opt/dataplatform/driver.py", "two words"),
    ]


def test_an_executor_gets_its_options_in_order(spark_home: Path) -> None:
    options = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n} *" for n in range(11)}
    command = enter(
        *(spark_home, "executor"),
        SPARK_EXECUTOR_MEMORY="512m",
        SPARK_DRIVER_URL="spark://CoarseGrainedScheduler@driver:7078",
        SPARK_EXECUTOR_ID="3",
        SPARK_EXECUTOR_CORES="2",
        SPARK_APPLICATION_ID="spark-1",
        SPARK_EXECUTOR_POD_IP="10.0.0.8",
        SPARK_RESOURCE_PROFILE_ID="0",
        SPARK_EXECUTOR_POD_NAME="exec-3",
        SPARK_CONF_DIR="/opt/spark/conf",
        **options,
    )
    jars = f"/opt/spark/conf:{spark_home}/spark/jars/*"
    assert command == [
        str(spark_home / "java/bin/java"),
        *options.values(),
        *("-Xms512m", "-Xmx512m", "-cp", jars),
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://CoarseGrainedScheduler@driver:7078", "--executor-id", "3"),
        *("--cores", "2", "--app-id", "spark-1", "--hostname", "10.0.0.8"),
        *("--resourceProfileId", "0", "--podName", "exec-3"),
    ]


def test_anything_else_is_run_as_it_is(spark_home: Path) -> None:
    assert enter(spark_home, "echo", "two  blanks") == ["two  blanks"]
