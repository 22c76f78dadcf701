"""The driver's program: the same tables as in this process, told of one by one."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dataplatform.lake.build import AuditFailedError, Builder, CommitConflictError, TableResult
from dataplatform.lake.failures import RemoteBuildError, is_permanent
from dataplatform.lake.jvm import spark_jars
from dataplatform.lake.maintenance import Retention
from dataplatform.lake.orders import (
    BuildOrder,
    FailureMessage,
    MaintainedMessage,
    MaintainOrder,
    ResultMessage,
    raise_failures,
    read_message,
    read_order,
)
from dataplatform.lake.place import LocalLake
from dataplatform.lake.plan import Lake
from dataplatform.lake.schema import SchemaChangeError, ensure_table
from dataplatform.lake.server_errors import ServerFailedError
from dataplatform.lake.spark import ENGINE_CONF, lake_session, prepare_environment
from dataplatform.lake.spec import Column
from dataplatform.raw import all_endpoints
from dataplatform.tables import all_specs
from dataplatform.versions import SPARK_JARS
from dataplatform_tests.driving import TABLES, DriverProcess, land

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ORDER = BuildOrder(tables=list(TABLES), origin="recorded", run_id="run one")
MAINTAIN = MaintainOrder(tables=list(TABLES), origin="recorded", run_id="run two")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A lake of recordings that nobody has built."""
    land(LocalLake(tmp_path / "home", "recorded").raw_zone)
    return tmp_path / "home"


def comparable(results: list[TableResult]) -> dict[str, TableResult]:
    """Leave out what no two builds have in common."""
    return {r.table: r.model_copy(update={"seconds": 0.0, "snapshot_id": None}) for r in results}


def built_here(home: Path, spark: "SparkSession") -> list[TableResult]:
    place = LocalLake(home, "recorded")
    session = lake_session(spark, place.spark_conf())
    return list(
        Builder(Lake.at(place, all_endpoints()), all_specs(), lambda: session).build(TABLES)
    )


@pytest.mark.slow
def test_it_builds_what_this_process_builds(
    home: Path, tmp_path: Path, spark: "SparkSession"
) -> None:
    land(LocalLake(tmp_path / "here", "recorded").raw_zone)
    driven = DriverProcess(home, tmp_path / "first", ORDER).wait()
    assert (driven.code, driven.closed) == (0, True), driven.printed
    messages = [read_message(payload) for payload in driven.told]
    results = [message.result for message in messages if isinstance(message, ResultMessage)]
    assert len(results) == len(messages) == len(TABLES)
    assert {result.status for result in results} == {"published"}
    assert comparable(results) == comparable(built_here(tmp_path / "here", spark))

    again = DriverProcess(home, tmp_path / "second", ORDER).wait()
    assert {payload["result"]["status"] for payload in again.told} == {"unchanged"}

    maintained = DriverProcess(home, tmp_path / "third", MAINTAIN).wait()
    done = [read_message(payload) for payload in maintained.told]
    assert [m.table for m in done if isinstance(m, MaintainedMessage) and m.done] == list(TABLES)
    assert maintained.code == 0, maintained.printed


@pytest.mark.slow
def test_under_spark_submit_what_it_was_given_holds(home: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    # Another program than `-m`, as spark-submit takes files only. Nobody may name another master.
    main.write_text(
        "import runpy\nfrom pyspark.sql import SparkSession\n"
        "started = SparkSession.Builder.getOrCreate\n"
        "def getOrCreate(builder):\n"
        "    spark = started(builder)\n"
        "    print('master', spark.sparkContext.master, spark.sparkContext.appName)\n"
        "    return spark\n"
        "SparkSession.Builder.getOrCreate = getOrCreate\n"
        "runpy.run_module('dataplatform.lake.driver', run_name='__main__')\n"
    )
    jars = ":".join(str(jar) for jar in spark_jars(SPARK_JARS))
    given = {**ENGINE_CONF, "spark.driver.extraClassPath": jars, "spark.ui.enabled": "false"}
    options = [word for key, value in given.items() for word in ("--conf", f"{key}={value}")]
    prepare_environment()
    submit = str(Path(sys.executable).with_name("spark-submit"))
    named = ["--master", "local[3]", "--name", "given", "--driver-memory", "512m"]
    order = ORDER.model_copy(update={"tables": ["global_market"]})
    driven = DriverProcess(
        home, tmp_path / "work", order, [submit, *named, *options, str(main)]
    ).wait()
    assert driven.code == 0, driven.printed
    assert [payload["result"]["status"] for payload in driven.told] == ["published"]
    assert "master local[3] given" in driven.printed


def test_a_table_that_fails_is_told_of_and_so_is_that_it_will_again(
    home: Path, tmp_path: Path
) -> None:
    spec = all_specs()["coins"]
    changed = tuple(Column("symbol", "int", "x") if c.name == "symbol" else c for c in spec.columns)
    catalog = LocalLake(home, "recorded").open_catalog()
    ensure_table(catalog, replace(spec, columns=changed))
    order = ORDER.model_copy(update={"tables": ["coins"]})
    driven = DriverProcess(home, tmp_path / "work", order).wait()
    assert driven.code == 1
    (failure,) = [read_message(payload) for payload in driven.told]
    assert isinstance(failure, FailureMessage)
    assert failure.permanent
    with pytest.raises(SchemaChangeError, match="symbol"):
        raise_failures([failure], None)


def test_an_order_that_it_does_not_know_fails(home: Path, tmp_path: Path) -> None:
    driven = DriverProcess(home, tmp_path / "work", {"do": "dance", "tables": []}).wait()
    assert driven.code == 1
    assert driven.told[0]["type"] == "ValidationError"


@pytest.mark.slow
def test_sigterm_ends_it_and_frees_the_lock(home: Path, tmp_path: Path) -> None:
    holder = home / "recorded" / "writer.holder"
    driver = DriverProcess(home, tmp_path / "work", ORDER)
    deadline = time.monotonic() + 60
    while not (holder.exists() and "run one" in holder.read_text()):
        assert time.monotonic() < deadline, driver.wait().printed
        time.sleep(0.05)
    driver.process.send_signal(signal.SIGTERM)
    driven = driver.wait()
    assert (driven.code, driven.closed) == (128 + signal.SIGTERM, True), driven.printed
    # A killed process leaves its name behind.
    assert not holder.exists()
    with LocalLake(home, "recorded").writer_lock("run two", timeout=0.1):
        pass


def test_without_dagster_behind_it_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dataplatform.lake.driver"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert "Remedy: materialize tables by Dagster" in done.stderr


def failed_audit() -> AuditFailedError:
    return AuditFailedError(TableResult(table="coins", status="unchanged", rows=0))


@pytest.mark.parametrize(
    ("raised", "kind", "permanent"),
    [
        (failed_audit(), AuditFailedError, True),
        (SchemaChangeError("coins: a column"), SchemaChangeError, True),
        (CommitConflictError("coins", "published"), CommitConflictError, False),
        (ConnectionError("psycopg2: gone"), ServerFailedError, False),
        (ZeroDivisionError("by zero"), RemoteBuildError, False),
    ],
)
def test_an_error_comes_back_as_what_it_was(
    raised: Exception, kind: type[Exception], permanent: bool
) -> None:
    message = FailureMessage.model_validate_json(FailureMessage.of(raised).model_dump_json())
    error = message.error()
    assert type(error) is kind
    assert is_permanent(error) is permanent
    if kind is type(raised):
        assert str(error) == str(raised)


def test_several_failures_come_back_as_a_group() -> None:
    told = [FailureMessage.of(failed_audit()), FailureMessage.of(ZeroDivisionError("by zero"))]
    with pytest.raises(ExceptionGroup, match=r"2 failed: .*ZeroDivisionError: by zero") as caught:
        raise_failures(told, None)
    assert [type(one) for one in caught.value.exceptions] == [AuditFailedError, RemoteBuildError]


def test_a_retention_goes_there_as_it_is() -> None:
    kept = Retention(timedelta(days=9), 6, timedelta(days=4), frozenset({"coins"}))
    order = MAINTAIN.model_copy(update={"retention": kept})
    assert read_order(order.model_dump(mode="json")) == order
