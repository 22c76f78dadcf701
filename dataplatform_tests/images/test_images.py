"""The images as they are built: what they hold, how they run, that they are made again alike."""

import hashlib
import json
import re
import tarfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplatform.images.inputs import Image
from dataplatform.lake.maven import Artifact
from dataplatform.versions import S3_JARS, SPARK_JARS, SPARK_VERSION
from dataplatform_tests.images.conftest import CANARY, ROOT, Run, digest, dp, output
from infra.images.locked import read_lock, select

pytestmark = pytest.mark.images

both = pytest.mark.parametrize("name", ["dagster", "spark"])
MIB = 1024**2


@pytest.fixture(scope="module")
def layers(
    built: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """Write both images, uncompressed, as OCI layouts."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, image in built.items():
        output("buildah", "push", "--quiet", image.local, f"oci:{folder / name}:1")
    yield {name: folder / name for name in built}
    for blob in folder.rglob("blobs/sha256/*"):
        blob.unlink()


def manifest(layout: Path) -> dict[str, list[dict[str, str]]]:
    index = json.loads((layout / "index.json").read_text())
    return json.loads(blob(layout, index["manifests"][0]["digest"]).read_text())


def blob(layout: Path, reference: str) -> Path:
    return layout / "blobs" / reference.replace(":", "/")


@both
def test_it_runs_as_its_user_on_a_read_only_root(run: Run, name: str) -> None:
    script = "id -u; id -un; touch /opt/x; touch /opt/venv/x; touch /tmp/x && echo tmp is writable"
    ran = run(name, "sh", "-c", script)
    assert ran.output.splitlines()[:2] == (
        ["1000", "dagster"] if name == "dagster" else ["185", "spark"]
    )
    assert ran.output.count("Read-only file system") == 2
    assert "tmp is writable" in ran.output
    assert ran.status == 0


@both
def test_it_holds_what_the_lock_says_and_no_tool_of_the_build(run: Run, name: str) -> None:
    script = (
        "import importlib.metadata as m, json, shutil;"
        "found = {d.name.lower().replace('_', '-').replace('.', '-'): d.version for d in m.distributions()};"
        "tools = [t for t in ('uv', 'gcc', 'git', 'hatchling') if shutil.which(t)];"
        "print(json.dumps([found, tools]))"
    )
    found, tools = json.loads(
        run(name, "/opt/venv/bin/python", "-c", script).output.splitlines()[-1]
    )
    choice = tomllib.loads((ROOT / "infra/images/packages.toml").read_text())[name]
    wanted = select(read_lock((ROOT / "constraints.txt").read_text()), choice)
    elsewhere = {"pywin32", "pyreadline3", "colorama"}  # Their markers name Windows.
    versions = {n: package.version for n, package in wanted.items() if n not in elsewhere}
    assert found.pop("dataplatform")
    assert found == versions
    assert tools == []


def test_the_code_location_loads(run: Run) -> None:
    ran = run(
        *("dagster", "dagster", "definitions", "validate", "-m", "dataplatform.definitions"),
        env={"DAGSTER_HOME": "/tmp"},  # noqa: S108  the pod's own
    )
    assert ran.status == 0, ran.output
    assert "All code locations passed validation" in ran.output


SERVES = """
import subprocess, sys, time
server = subprocess.Popen(sys.argv[1:])
ping = ["dagster", "api", "grpc-health-check", "--port", "4000"]
for _ in range(120):
    if server.poll() is not None or subprocess.run(ping).returncode == 0:
        break
    time.sleep(0.5)
print("serving" if server.poll() is None else "ended")
server.terminate()
print("status", server.wait(60))
"""


def test_the_code_server_starts_by_itself(run: Run, built: dict[str, Image]) -> None:
    inspected = json.loads(output("buildah", "inspect", "--type", "image", built["dagster"].local))
    ran = run("dagster", "python", "-c", SERVES, *inspected["OCIv1"]["config"]["Cmd"])
    assert "serving" in ran.output, ran.output
    assert "Started Dagster code server for module dataplatform.definitions" in ran.output


@both
def test_the_byte_code_is_there(run: Run, name: str) -> None:
    module = {"dagster": "dataplatform.definitions", "spark": "dataplatform.lake.build"}[name]
    ran = run(name, "python", "-v", "-c", f"import {module}")
    assert ran.status == 0
    # How Python names the origin of a module: a cached file, or the source for want of it.
    assert len(re.findall(r"^# code object from '/opt\S+\.pyc'", ran.output, re.MULTILINE)) > 100
    assert re.findall(r"^# code object from /opt\S+", ran.output, re.MULTILINE) == []


def test_spark_is_the_one_that_is_pinned(run: Run) -> None:
    ran = run("spark", "/opt/spark/bin/spark-submit", "--version")
    assert ran.status == 0, ran.output
    assert f"version {SPARK_VERSION}" in ran.output
    assert re.search(r"OpenJDK .*21\.", ran.output)


def test_a_build_can_be_imported_where_spark_runs(run: Run) -> None:
    ran = run("spark", "python", "-c", "import dataplatform.lake.build, dagster_pipes, psycopg2")
    assert ran.status == 0, ran.output


def test_the_jars_are_the_pinned_ones_beside_sparks_own(run: Run) -> None:
    listed = run("spark", "sh", "-c", "cd /opt/spark/jars && sha256sum *.jar").output.splitlines()
    found = {line.split()[1]: line.split()[0] for line in listed}
    pins = {Artifact.parse(c).file_name: d for c, d in (SPARK_JARS | S3_JARS).items()}
    own = {jar.name for jar in (Path(pyspark_folder()) / "jars").glob("*.jar")}
    assert found.keys() == pins.keys() | own
    assert {name: found[name] for name in pins} == pins


def pyspark_folder() -> str:
    import pyspark

    return str(Path(pyspark.__file__).parent)


SPARK_JOB = """
from pyspark.sql import SparkSession, functions as F, types as T
spark = SparkSession.builder.getOrCreate()
spark.sql("create table lake.n.t (id bigint) using iceberg")
spark.range(5).writeTo("lake.n.t").append()
double = F.udf(lambda n: 2 * n, T.LongType())
print("sum", spark.table("lake.n.t").select(double("id").alias("d")).agg(F.sum("d")).first()[0])
print("s3a", spark._jvm.java.lang.Class.forName("org.apache.hadoop.fs.s3a.S3AFileSystem").getName())
print("s3", spark._jvm.java.lang.Class.forName("org.apache.iceberg.aws.s3.S3FileIO").getName())
"""


def test_a_driver_builds_a_table_by_the_entry_point(run: Run) -> None:
    conf = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "hadoop",
        "spark.sql.catalog.lake.warehouse": "file:///tmp/warehouse",
    }
    options = [part for pair in conf.items() for part in ("--conf", "=".join(pair))]
    command = ["/opt/entrypoint.sh", "driver", *options, "/tmp/job.py"]  # noqa: S108
    script = f"cat > /tmp/job.py <<'END'\n{SPARK_JOB}\nEND\nexec {' '.join(command)}"
    ran = run("spark", "bash", "-c", script, env={"SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1"})
    assert "sum 20" in ran.output, ran.output
    assert "s3a org.apache.hadoop.fs.s3a.S3AFileSystem" in ran.output
    assert "s3 org.apache.iceberg.aws.s3.S3FileIO" in ran.output
    assert ran.status == 0


def test_an_executor_starts_with_its_options(run: Run) -> None:
    names = ["MEMORY", "ID", "CORES", "POD_IP", "POD_NAME"]
    env = {
        f"SPARK_EXECUTOR_{n}": v
        for n, v in zip(names, ["256m", "1", "1", "127.0.0.1", "e1"], strict=True)
    }
    env |= {
        "SPARK_JAVA_OPT_0": "-Dspark.driver.port=1",
        "SPARK_JAVA_OPT_1": "-Dspark.rpc.askTimeout=1s",
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:1",
        "SPARK_APPLICATION_ID": "spark-1",
        "SPARK_RESOURCE_PROFILE_ID": "0",
    }
    ran = run("spark", "executor", env=env)
    # There is no driver: it got as far as to look for one.
    assert "KubernetesExecutorBackend" in ran.output
    assert "Failed to connect to /127.0.0.1:1" in ran.output


@both
def test_no_layer_and_no_history_tells_of_the_builder(layers: dict[str, Path], name: str) -> None:
    layout = layers[name]
    described = manifest(layout)
    secrets = [CANARY, str(ROOT), str(Path.home() / ".cache"), "/run/secrets/index="]
    text = blob(layout, described["config"]["digest"]).read_text()  # ty: ignore[invalid-argument-type]
    assert [secret for secret in secrets if secret in text] == []
    needles = [secret.encode() for secret in secrets]
    found = [
        (entry.name, needle)
        for layer in described["layers"][1:]
        for entry, content in files(blob(layout, layer["digest"]))
        for needle in needles
        if needle in content
    ]
    assert found == []


def files(layer: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the files of a layer; none is younger than 1980 or writable by others."""
    with tarfile.open(layer) as archive:
        for entry in archive:
            assert entry.mtime <= 315_532_800, entry.name
            assert entry.issym() or not entry.mode & 0o002 or entry.name == "tmp", entry.name
            if entry.isfile():
                file = archive.extractfile(entry)
                yield entry, file.read() if file else b""


@pytest.mark.parametrize(("name", "bound"), [("dagster", 1150 * MIB), ("spark", 1300 * MIB)])
def test_it_stays_small(built: dict[str, Image], name: str, bound: int) -> None:
    described = json.loads(output("skopeo", "inspect", "--raw", storage_name(built[name])))
    size = sum(layer["size"] for layer in described["layers"])
    print(f"{name}: {size / MIB:.0f} MiB with its base")  # noqa: T201
    assert size < bound


def storage_name(image: Image) -> str:
    return f"containers-storage:{image.local}"


def test_pushed_and_pulled_back_it_is_the_same(
    built: dict[str, Image], base: str, registry: str
) -> None:
    started = time.monotonic()
    # The tests' base is in no registry, so nobody can tell its digest.
    push = ("push", "--base", base, "--floating-base", "--registry", registry, "--insecure")
    pushed = dp(*push).splitlines()
    first = time.monotonic() - started
    for image, line in zip(built.values(), pushed, strict=True):
        name, _, found = line.partition("@")
        assert name == image.at(registry)
        address = f"docker://{registry}/{image.repository}@{found}"
        raw = output("skopeo", "inspect", "--raw", "--tls-verify=false", address)
        assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == found
        pulled = output("buildah", "pull", "--quiet", "--tls-verify=false", address)
        inspected = json.loads(output("buildah", "inspect", "--type", "image", image.local))
        assert pulled == inspected["FromImageID"]
    started = time.monotonic()
    assert dp(*push).splitlines() == pushed
    again = time.monotonic() - started
    print(f"pushed in {first:.0f} s, again in {again:.0f} s")  # noqa: T201
    assert again < first / 2


@pytest.mark.slow
@both
def test_built_anew_it_has_the_same_digest(built: dict[str, Image], base: str, name: str) -> None:
    before = digest(built[name])
    dp("build", "--base", base, "--fresh", name)
    assert digest(built[name]) == before
