"""Spark's event log in the object store, as a driver writes it: without the keys that it holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataplatform.lake.jvm import spark_jars
from dataplatform.lake.spark import ENGINE_CONF, prepare_environment
from dataplatform.lake.store.object_store import open_bucket
from dataplatform.lake.store.s3 import S3Access, make_folder, s3_client
from dataplatform.versions import S3_JARS, SPARK_JARS
from dataplatform_tests.minio.conftest import new_bucket

pytestmark = pytest.mark.stack

MAIN = """
import sys
from pathlib import Path
from dataplatform.lake.place import LakeServers, ServerLake
from dataplatform.lake.spark import start_session
from dataplatform.lake.store.s3 import S3Access

class Servers(LakeServers):
    access = S3Access(sys.argv[1], "us-east-1", sys.argv[2], Path(sys.argv[3]).read_text())
    catalog_uri = "http://127.0.0.1:1/{origin}"
    catalog_login = {"credential": "cl13nt:0auth2"}
    def lock_dsn(self): ...
    def budget_dsn(self): ...
    def open_engine(self, lake, declared): ...

spark = start_session(ServerLake(Path("unused"), "live", Servers), "512m")
assert spark.range(10).selectExpr("sum(id)").collect()[0][0] == 45
spark.sparkContext.stop()
"""


def test_it_is_written_with_the_drivers_keys_and_shows_none(
    minio_server: S3Access, tmp_path: Path
) -> None:
    bucket = new_bucket(minio_server)
    main = tmp_path / "main.py"
    main.write_text(MAIN)
    (tmp_path / "key").write_text(minio_server.secret_key)
    logs = f"s3a://{bucket}/spark-events"
    make_folder(s3_client(minio_server), logs)
    jars = ":".join(str(jar) for jar in spark_jars(SPARK_JARS | S3_JARS))
    given = {
        **ENGINE_CONF,
        "spark.driver.extraClassPath": jars,
        "spark.ui.enabled": "false",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": logs,
    }
    options = [word for name, value in given.items() for word in ("--conf", f"{name}={value}")]
    prepare_environment()
    submit = str(Path(sys.executable).with_name("spark-submit"))
    done = subprocess.run(
        [
            submit,
            "--master",
            "local[1]",
            "--driver-memory",
            "512m",
            *options,
            str(main),
            minio_server.endpoint,
            minio_server.access_key,
            str(tmp_path / "key"),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    store = open_bucket(minio_server, bucket)
    (log,) = [one for one in store.list("spark-events") if one.size]
    written = store.get(log.key).decode()
    assert "SparkListenerSQLExecutionStart" in written
    assert "SparkListenerJobStart" in written
    for name in ("fs.s3a.secret.key", "lake.s3.secret-access-key", "lake.credential"):
        assert f'{name}":"*********(redacted)"' in written
    assert minio_server.secret_key not in written
    assert "0auth2" not in written
