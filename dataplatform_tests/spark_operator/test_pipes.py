import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from dagster import (
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    Definitions,
    ExecuteInProcessResult,
    MaterializeResult,
    asset,
    in_process_executor,
    materialize,
    multi_asset,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_pipes import PipesContext

from dataplatform.resources.spark_operator import errors, follow, pipes, pods
from dataplatform.resources.spark_operator.client import Application, SparkApplicationClient
from dataplatform.resources.spark_operator.follow import Following
from dataplatform.resources.spark_operator.messages import Bell, FolderMessageReader, PipesBucket
from dataplatform.resources.spark_operator.pipes import (
    Links,
    OnExisting,
    PipesSparkApplicationClient,
)
from dataplatform.resources.spark_operator.spec import Executor, SparkApplication
from dataplatform.resources.spark_operator.states import Deadlines
from dataplatform_tests.spark_operator.api_server import APPS, ApiServer, Log, status
from dataplatform_tests.spark_operator.operator import MemoryS3, StandIn, trace

APPLICATION = SparkApplication(image="spark", main_file="local:///a.py")


def of_one_driver(*statuses: Any) -> list[Any]:
    """Return statuses as if all were of the recording `silver`, which has one driver."""
    return [
        {**status, "submissionID": trace("silver", "x")[1]["submissionID"], "executionAttempts": 1}
        for status in statuses
    ]


UNTIL_FAILING = of_one_driver(*trace("silver", "x")[1:5], *trace("failing", "x")[4:5])
"""The driver runs, and what follows is not final."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait tenths of seconds for last messages and lines, which are there at once here."""
    monkeypatch.setattr(pipes, "CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(follow, "LOG_SECONDS", 0.5)
    monkeypatch.setattr(pods, "_PAUSE", 0.02)


@pytest.fixture
def bucket(s3: MemoryS3) -> PipesBucket:
    return PipesBucket("lake", "pipes", lambda: s3)


@pytest.fixture
def written() -> list[str]:
    return []


class Runner:
    """Runs a step that follows one application, in a Dagster of its own."""

    def __init__(
        self,
        client: SparkApplicationClient,
        bucket: PipesBucket,
        log: list[str],
        instance: DagsterInstance,
    ) -> None:
        self.client = client
        self.bucket = bucket
        self.log = log
        self.instance = instance
        self.deadlines = client.deadlines
        self.on_existing: OnExisting = "reattach"
        self.application = APPLICATION
        self.identity: SparkApplication | None = None
        self.was_left_behind: bool | None = None
        self.extras: dict[str, Any] = {}
        self.payloads: list[Any] = []
        self.error: BaseException | None = None
        self.metadata: Any = None
        self.each: Callable[[Any], None] = self.payloads.append

    def pipes_client(self) -> PipesSparkApplicationClient:
        following = Following(
            deadlines=self.deadlines,
            write=self.log.append,
            poll_seconds=0.02,
            pod_seconds=0.05,
            progress_seconds=0.05,
        )
        links = Links(history="https://history.example.org")
        return PipesSparkApplicationClient(
            self.client, self.bucket, following, self.on_existing, links
        )

    def run(self, tags: dict[str, str] | None = None) -> ExecuteInProcessResult:
        return materialize([self._asset()], instance=self.instance, raise_on_error=False, tags=tags)

    def launch(self, tags: dict[str, str] | None = None) -> str:
        """Execute a run as the process does that a run launcher starts; return its id."""
        defs = Definitions(assets=[self._asset()], executor=in_process_executor)
        job = defs.resolve_implicit_global_asset_job_def()
        location = ManagedGrpcPythonEnvCodeLocationOrigin(  # ty: ignore[abstract-class-instantiation]
            LoadableTargetOrigin(module_name="ours"), "ours"
        )
        run = self.instance.create_run_for_job(
            job,
            tags=tags,
            remote_job_origin=RemoteJobOrigin(
                RemoteRepositoryOrigin(location, "__repository__"), job.name
            ),
        )
        execute_run(InMemoryJob(job), run, self.instance)
        return run.run_id

    def _asset(self) -> AssetsDefinition:
        @asset(name="prices")
        def prices(context: AssetExecutionContext) -> MaterializeResult:
            try:
                return self._stream(context)
            except BaseException as error:
                self.error = error
                raise

        return prices

    def _stream(self, context: AssetExecutionContext) -> MaterializeResult:
        extras = {**self.extras, "run_id": context.run.run_id}
        stream = self.pipes_client().stream(
            context=context, application=self.application, extras=extras, identity=self.identity
        )
        self.was_left_behind = self.pipes_client().left_behind(
            context=context, identity=self.identity or self.application, extras=extras
        )
        with stream:
            for payload in stream:
                self.each(payload)
        assert stream.invocation is not None
        self.metadata = stream.invocation.metadata
        return stream.invocation.get_materialize_result()


@pytest.fixture
def runner(
    client: SparkApplicationClient, bucket: PipesBucket, written: list[str], tmp_path: Path
) -> Iterator[Runner]:
    settings = {"run_retries": {"enabled": True}}
    with DagsterInstance.ephemeral(tempdir=str(tmp_path), settings=settings) as instance:
        yield Runner(client, bucket, written, instance)


def says(error: BaseException | None) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def reports(*payloads: Any) -> Callable[[PipesContext], None]:
    def driver(pipes: PipesContext) -> None:
        for payload in payloads:
            pipes.report_custom_message(payload)

    return driver


def test_messages_come_in_order_and_results_become_dagsters(
    runner: Runner, stand_in: StandIn, s3: MemoryS3, server: ApiServer
) -> None:
    def driver(pipes: PipesContext) -> None:
        assert pipes.get_extra("tables") == ["prices"]
        for number in range(50):
            pipes.report_custom_message({"number": number})
        pipes.report_asset_materialization(metadata={"rows": 7})

    stand_in.driver = driver
    runner.extras = {"tables": ["prices"]}

    result = runner.run()

    assert result.success
    assert runner.payloads == [{"number": number} for number in range(50)]
    [event] = result.asset_materializations_for_node("prices")
    assert event.metadata["rows"].value == 7
    assert event.metadata["spark/state"].value == "COMPLETED"
    assert event.metadata["spark/history"].value == (
        "https://history.example.org/history/spark-70ef38047a3b479e9652c93cedd979bb/"
    )
    assert s3.objects == {}, "context and messages are left behind"
    assert len(server.names()) == 1, "it stays until its time to live is over"


@pytest.mark.parametrize("may_omit", [True, False])
def test_a_step_may_leave_out_a_check_only_where_it_says_so(
    runner: Runner, stand_in: StandIn, may_omit: bool
) -> None:
    @multi_asset(
        specs=[AssetSpec("prices")],
        check_specs=[AssetCheckSpec("fresh", asset="prices")],
        can_subset=True,
    )
    def prices(context: AssetExecutionContext) -> Iterator[MaterializeResult]:
        client = runner.pipes_client()
        with client.stream(context=context, application=APPLICATION, may_omit=may_omit) as messages:
            yield from (MaterializeResult(asset_key=key) for key in messages)

    stand_in.driver = reports("prices")
    result = materialize([prices], instance=runner.instance, raise_on_error=False)
    assert result.success is may_omit


def test_a_message_is_given_while_the_application_runs(runner: Runner, stand_in: StandIn) -> None:
    read = threading.Event()

    def driver(pipes: PipesContext) -> None:
        pipes.report_custom_message("early")
        assert read.wait(10), "the driver ended before its message was read"

    stand_in.driver = driver
    runner.each = lambda _payload: read.set()

    assert runner.run().success


def test_labels_say_whose_the_application_is(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    result = runner.run()

    [name] = server.names()
    labels = server.objects[APPS, name]["metadata"]["labels"]
    assert labels["dagster/run-id"] == result.run_id
    assert labels["dagster/root-run-id"] == result.run_id
    assert labels["dagster/step-key"] == "prices"
    assert labels["app.kubernetes.io/managed-by"] == "dagster"


def test_the_drivers_log_is_written_on(
    runner: Runner, stand_in: StandIn, server: ApiServer, written: list[str]
) -> None:
    def running(state: str) -> None:
        if state == "RUNNING":
            [name] = server.names()
            server.logs[f"{name}-driver"] = Log(
                ["2026-11-23T05:36:10Z hello", "2026-11-23T05:36:11Z bye"]
            )
            server.add_pod(f"{name}-driver", name, {"phase": "Succeeded"})

    stand_in.before = running

    assert runner.run().success
    assert written == ["hello", "bye"]


def test_a_failed_application_gives_all_messages_before_its_error(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    failing = trace("failing", "x")
    stand_in.recording = of_one_driver(*failing[1:5], failing[-1])
    stand_in.driver = reports({"kind": "result"}, {"kind": "failure"})

    def failing(state: str) -> None:
        if state == "FAILING":
            [name] = server.names()
            server.logs["x-driver"] = Log(["2026-11-23T05:36:10Z Traceback: boom"])
            state_of = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
            container = {"name": "spark-kubernetes-driver", "state": state_of}
            server.add_pod("x-driver", name, {"phase": "Failed", "containerStatuses": [container]})

    stand_in.before = failing

    result = runner.run()

    assert not result.success
    assert runner.payloads == [{"kind": "result"}, {"kind": "failure"}]
    assert type(runner.error) is errors.OutOfMemoryError
    assert "driver container failed with ExitCode: 2" in says(runner.error)
    assert "Traceback: boom" in says(runner.error)
    assert s3.objects == {}


def status_of(state: str, submission: str, attempts: int = 1) -> dict[str, Any]:
    return {
        "applicationState": {"state": state},
        "executionAttempts": attempts,
        "submissionID": submission,
    }


RAN = [status_of("SUBMITTED", "a"), status_of("RUNNING", "a")]
RAN_AGAIN = [
    status_of(state, "b", attempts=2)
    for state in ("SUBMITTED", "RUNNING", "SUCCEEDING", "COMPLETED")
]


@pytest.mark.parametrize("end", ["well", "exception"])
@pytest.mark.parametrize(
    "between",
    [
        ["FAILING", "PENDING_RERUN"],
        ["SUSPENDING", "SUSPENDED", "RESUMING"],
        ["INVALIDATING", "PENDING_RERUN"],
    ],
)
def test_a_second_driver_is_an_error_after_all_that_the_first_one_said(
    runner: Runner,
    stand_in: StandIn,
    server: ApiServer,
    s3: MemoryS3,
    between: list[str],
    end: str,
) -> None:
    ran: list[int] = []

    def driver(pipes: PipesContext) -> None:
        ran.append(1)
        reports(*[f"driver {len(ran)}: {number}" for number in range(3)])(pipes)
        wait_for(lambda: was_seen_to_run(s3))
        if end == "exception" and len(ran) == 1:
            raise ValueError("SIGTERM")

    stand_in.driver = driver
    stand_in.recording = [*RAN, *[status_of(state, "a") for state in between], *RAN_AGAIN]

    assert not runner.run().success
    assert isinstance(runner.error, errors.DriverRestartedError)
    assert runner.error.transient
    assert "try again" in str(runner.error)
    assert runner.payloads == ["driver 1: 0", "driver 1: 1", "driver 1: 2"]
    assert server.names() == [], "the second driver is not left alone"


def test_a_second_driver_is_noticed_where_the_states_between_were_not_seen(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    def before(_state: str) -> None:
        if "RUNNING" in stand_in.played:
            wait_for(lambda: was_seen_to_run(s3))

    stand_in.before = before
    stand_in.recording = [*RAN, status_of("RUNNING", "b"), status_of("RUNNING", "b")]

    runner.run()

    assert type(runner.error) is errors.DriverRestartedError
    assert server.names() == []


def test_a_second_driver_is_noticed_by_whoever_takes_the_application_over(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    name = leave_behind(runner, stand_in, server)
    runner.bucket.folder("spark", name).write_driver("first")
    server.set_status(name, status_of("COMPLETED", "another"))

    assert not run_retry(runner).success
    assert type(runner.error) is errors.DriverRestartedError

    stand_in.recording = "silver"
    stand_in.driver = reports("anew")
    runner.payloads.clear()
    assert run_retry(runner).success
    assert runner.payloads == ["anew"]


def was_seen_to_run(s3: MemoryS3) -> bool:
    return any(key.endswith("/driver") for key in list(s3.objects))


def test_a_suspension_before_the_first_driver_is_followed(
    runner: Runner, stand_in: StandIn
) -> None:
    stand_in.recording = [
        status_of("SUBMITTED", "a"),
        status_of("SUSPENDING", "a"),
        status_of("SUSPENDED", "a"),
        status_of("RESUMING", "a"),
        *RAN_AGAIN,
    ]
    stand_in.driver = reports("done")

    assert runner.run().success
    assert runner.payloads == ["done"]


def test_a_submission_that_follows_another_has_a_deadline_of_its_own(
    runner: Runner, stand_in: StandIn
) -> None:
    stand_in.recording = [
        status_of("SUBMITTED", "a"),
        status_of("SUBMITTED", "b"),
        *trace("silver", "x")[3:],
    ]
    stand_in.before = lambda _state: time.sleep(0.35)
    runner.deadlines = Deadlines(submitted=0.6, deletion=1)

    assert runner.run().success, runner.error


def test_a_submission_that_fails_says_sparks_reason(runner: Runner, stand_in: StandIn) -> None:
    stand_in.recording = "badsubmit"

    runner.run()

    assert type(runner.error) is errors.SubmissionFailedError
    assert (
        "spark.kubernetes.container.image.pullPolicy should be one of"
        in str(runner.error).split("Remedy")[0]
    )


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ('pods "x-driver" is forbidden: exceeded quota: team, used: 8', errors.QuotaExceededError),
        ('violates PodSecurity "restricted:latest": runAsNonRoot', errors.WebhookDeniedError),
    ],
)
def test_what_refuses_the_drivers_pod_is_told_from_a_wrong_specification(
    runner: Runner, stand_in: StandIn, server: ApiServer, message: str, error: type[Exception]
) -> None:
    said = f"failed to submit spark application: failed to run spark-submit: {message}"
    failed = {
        "applicationState": {"state": "FAILED", "errorMessage": said},
        "submissionAttempts": 1,
    }
    stand_in.recording = [failed]

    runner.run()

    assert type(runner.error) is error
    assert len(server.names()) == 1, "it stays until its time to live is over"


def test_a_driver_that_ends_well_without_closing_pipes_is_an_error(
    runner: Runner, stand_in: StandIn
) -> None:
    stand_in.driver = reports(1)
    stand_in.closes_pipes = False

    result = runner.run()

    assert not result.success
    assert runner.payloads == [1]
    assert type(runner.error) is errors.MessagesIncompleteError
    assert "did not close" in str(runner.error)


def test_a_driver_that_never_opens_pipes_is_an_error(runner: Runner, stand_in: StandIn) -> None:
    stand_in.opens_pipes = False

    assert not runner.run().success
    assert type(runner.error) is errors.MessagesIncompleteError
    assert "no Pipes message at all" in str(runner.error)


def test_reading_leaves_no_warning_of_dagsters_in_the_steps_log(s3: MemoryS3) -> None:
    folder = PipesBucket("pipes", "runs", lambda: s3).folder("spark", "app")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FolderMessageReader(folder, Bell()).expected_writer_count == 1


def test_a_driver_that_swallows_its_exception_is_an_error(
    runner: Runner, stand_in: StandIn
) -> None:
    def driver(_pipes: PipesContext) -> None:
        raise ValueError("no such column")

    stand_in.driver = driver

    assert not runner.run().success
    assert type(runner.error) is errors.DriverReportedError
    assert "it failed: ValueError: no such column. Remedy: " in str(runner.error)


@pytest.mark.parametrize(
    ("raised", "said", "then"),
    [
        ("no such column\n'Project [price]", "ValueError: no such column", "\n'Project [price]\n"),
        (
            "An error occurred while calling o12.parquet.\n: java.io.IOException: full\n\tat A.b",
            "ValueError: An error occurred while calling o12.parquet: java.io.IOException: full",
            "\n\tat A.b\n",
        ),
    ],
)
def test_a_driver_that_fails_is_explained_by_the_exception_that_closed_pipes(
    runner: Runner, stand_in: StandIn, raised: str, said: str, then: str
) -> None:
    def driver(_pipes: PipesContext) -> None:
        raise ValueError(raised)

    stand_in.driver = driver
    failing = trace("failing", "x")
    stand_in.recording = of_one_driver(*failing[1:5], failing[-1])

    assert not runner.run().success
    assert type(runner.error) is errors.ApplicationFailedError
    message = str(runner.error)
    assert f"the driver failed: {said}. Remedy: " in message
    assert then in message
    assert "raise ValueError(raised)" in message, "the stack"


def test_messages_that_cant_be_read_are_an_error_and_not_silence(
    runner: Runner, stand_in: StandIn, s3: MemoryS3, server: ApiServer
) -> None:
    def driver(pipes: PipesContext) -> None:
        pipes.report_custom_message(1)
        s3.refuse["GetObject"] = "AccessDenied"

    stand_in.driver = driver
    stand_in.recording = UNTIL_FAILING

    assert not runner.run().success
    assert type(runner.error) is errors.MessagesUnreadableError
    assert "AccessDenied" in str(runner.error)
    assert server.names() == []


def test_a_message_that_is_none_of_pipes_is_a_typed_error(
    runner: Runner, stand_in: StandIn, s3: MemoryS3, server: ApiServer
) -> None:
    def driver(_pipes: PipesContext) -> None:
        [name] = server.names()
        s3.put_object(Bucket="lake", Key=f"pipes/spark/{name}/messages/1.json", Body=b'{"not": ')
        time.sleep(1)

    stand_in.driver = driver
    stand_in.recording = UNTIL_FAILING

    assert not runner.run().success
    assert type(runner.error) is errors.MessagesUnreadableError
    assert "JSONDecodeError" in str(runner.error)
    assert server.names() == []


def test_a_context_that_cant_be_written_submits_nothing(
    runner: Runner, s3: MemoryS3, server: ApiServer
) -> None:
    s3.refuse["PutObject"] = "AccessDenied"

    assert not runner.run().success
    assert type(runner.error) is errors.MessagesUnreadableError
    assert server.names() == []


def test_no_operator_is_said_and_nothing_is_left_behind(runner: Runner, server: ApiServer) -> None:
    runner.deadlines = Deadlines(new=0.3, deletion=1)

    assert not runner.run().success
    assert type(runner.error) is errors.OperatorNotRunningError
    assert "namespace spark" in str(runner.error)
    assert server.names() == []


def test_an_application_that_nobody_picks_up_is_told_of_long_before_it_is_given_up(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "UNTOUCHED_SECONDS", 0.1)
    runner.deadlines = Deadlines(new=1, deletion=1)
    run = runner.run()
    assert not run.success
    told = [entry.user_message for entry in runner.instance.all_logs(run.run_id)]
    [told] = [line for line in told if "no operator has picked it up" in line]
    assert "namespace spark" in told


@pytest.mark.parametrize("state", ["SUBMITTED", "RUNNING", "SUCCEEDING"])
def test_each_state_has_a_deadline(
    runner: Runner, stand_in: StandIn, server: ApiServer, state: str
) -> None:
    stand_in.stop_at = state
    runner.deadlines = Deadlines.model_validate({state.lower(): 0.3, "deletion": 1})

    assert not runner.run().success
    assert type(runner.error) is errors.StateDeadlineError
    assert f"the deadline `{state.lower()}`" in str(runner.error)
    assert server.names() == []


@pytest.mark.parametrize(
    "state", ["PENDING_RERUN", "INVALIDATING", "SUSPENDING", "SUSPENDED", "RESUMING", "UNKNOWN"]
)
def test_states_that_were_never_recorded_have_one_too(
    runner: Runner, stand_in: StandIn, state: str
) -> None:
    stand_in.recording = [{"applicationState": {"state": state}, "executionAttempts": 1}]
    runner.deadlines = Deadlines.model_validate({state.lower(): 0.2, "deletion": 1})

    runner.run()

    assert type(runner.error) is errors.StateDeadlineError
    assert state in str(runner.error)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("ImagePullBackOff", errors.ImagePullError),
        ("CreateContainerConfigError", errors.PodStartError),
    ],
)
def test_a_driver_that_cant_start_is_given_up_before_its_state_is(
    runner: Runner, stand_in: StandIn, server: ApiServer, reason: str, error: type[Exception]
) -> None:
    stand_in.stop_at = "SUBMITTED"
    runner.deadlines = Deadlines(image_pull=0.2, start=0.2, deletion=1)

    def submitted(_state: str) -> None:
        [name] = server.names()
        container = {"name": "spark-kubernetes-driver", "state": {"waiting": {"reason": reason}}}
        server.add_pod("x", name, {"phase": "Pending", "containerStatuses": [container]})

    stand_in.before = submitted

    runner.run()

    assert type(runner.error) is error
    assert server.names() == []
    assert server.names("pods") == []


def test_an_image_that_takes_long_is_waited_for_though_there_was_no_room_at_first(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    runner.deadlines = Deadlines(start=0.2, deletion=1)

    def before(state: str) -> None:
        if state == "SUBMITTED":
            waiting = {"waiting": {"reason": "ContainerCreating"}}
            container = {"name": "spark-kubernetes-driver", "state": waiting}
            pending = {"phase": "Pending", "containerStatuses": [container]}
            server.add_pod("x", server.names()[0], pending)
            server.add_event(server.objects["pods", "x"], "FailedScheduling", "0/3", scheduler=True)
        elif state == "RUNNING":
            time.sleep(0.6)

    stand_in.before = before

    assert runner.run().success, runner.error


def unschedulable() -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {
        "phase": "Pending",
        "conditions": [condition | {"message": "0/3 nodes: 3 Insufficient cpu"}],
    }


def test_a_driver_without_executors_is_given_up(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    stand_in.stop_at = "RUNNING"
    runner.deadlines = Deadlines(executors=0.3, deletion=1)

    def running(_state: str) -> None:
        [name] = server.names()
        server.add_pod(f"{name}-driver", name, {"phase": "Running"})
        server.add_pod(f"{name}-exec-1", name, unschedulable(), "executor")

    stand_in.before = running

    runner.run()

    assert type(runner.error) is errors.NoExecutorsError
    assert "3 Insufficient cpu" in str(runner.error)


QUOTA_LINE = "ERROR ExecutorPodsAllocator: pods is forbidden: exceeded quota: team"


def driver_that_said(server: ApiServer, line: str) -> str:
    """Let the application's driver run and have logged a line; returns the application's name."""
    [name] = server.names()
    server.logs[f"{name}-driver"] = Log([f"2026-11-23T05:36:10Z {line}"])
    server.add_pod(f"{name}-driver", name, {"phase": "Running"})
    return name


def test_a_quota_that_lets_no_executor_in_is_found_in_the_drivers_log(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    stand_in.stop_at = "RUNNING"
    runner.deadlines = Deadlines(executors=0.3, deletion=1)

    def running(_state: str) -> None:
        driver_that_said(server, QUOTA_LINE)

    stand_in.before = running

    runner.run()

    assert type(runner.error) is errors.QuotaExceededError
    assert server.names() == []


def test_a_quota_that_let_executors_in_later_is_forgotten(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    runner.deadlines = Deadlines(executors=0.3, deletion=1)

    def running(state: str) -> None:
        if state == "RUNNING":
            name = driver_that_said(server, QUOTA_LINE)
            server.add_pod(f"{name}-exec-1", name, {"phase": "Running"}, "executor")

    def driver(_pipes: PipesContext) -> None:
        [name] = server.names()
        time.sleep(0.5)
        server.delete("pods", f"{name}-exec-1")
        time.sleep(1)

    stand_in.before, stand_in.driver = running, driver

    assert runner.run().success, runner.error


def test_a_quota_of_something_else_in_the_log_is_no_reason(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    runner.deadlines = Deadlines(executors=0.3, deletion=1)

    def running(state: str) -> None:
        if state == "RUNNING":
            driver_that_said(server, "WARN the store says: exceeded quota of requests")

    stand_in.before = running
    stand_in.driver = lambda _pipes: time.sleep(1)

    assert runner.run().success, runner.error


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_driver_that_is_drained_with_its_pod_was_evicted(
    runner: Runner, stand_in: StandIn, server: ApiServer, is_seen: bool
) -> None:
    gone = status_of("FAILED", "a")
    gone["applicationState"]["errorMessage"] = "driver pod not found"
    stand_in.recording = [*RAN, status_of("FAILING", "a"), gone]
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}

    def driver(_pipes: PipesContext) -> None:
        [name] = server.names()
        if is_seen:
            drained = {"phase": "Running", "conditions": [condition]}
            server.add_pod(f"{name}-driver", name, drained)
            time.sleep(0.5)
            server.delete("pods", f"{name}-driver")

    stand_in.driver = driver

    assert not runner.run().success
    assert isinstance(runner.error, errors.EvictedError)
    assert ("EvictionByEvictionAPI" in str(runner.error)) is is_seen


def test_one_executor_that_runs_is_enough(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    runner.deadlines = Deadlines(executors=0.1, deletion=1)

    def running(state: str) -> None:
        [name] = server.names()
        if state == "RUNNING":
            server.add_pod(f"{name}-exec-1", name, unschedulable(), "executor")
            server.add_pod(f"{name}-exec-2", name, {"phase": "Running"}, "executor")

    stand_in.before = running
    stand_in.driver = lambda _pipes: time.sleep(0.6)

    assert runner.run().success


@pytest.mark.parametrize(
    "interrupt", [DagsterExecutionInterruptedError, KeyboardInterrupt, SystemExit, ValueError]
)
def test_an_interrupt_deletes_the_application_with_its_pods(
    runner: Runner,
    stand_in: StandIn,
    server: ApiServer,
    s3: MemoryS3,
    interrupt: type[BaseException],
) -> None:
    stand_in.driver = reports(1)
    stand_in.recording = UNTIL_FAILING

    def stop(_payload: Any) -> None:
        [name] = server.names()
        server.add_pod(f"{name}-driver", name, {"phase": "Running"})
        raise interrupt("stop")

    runner.each = stop

    with suppress(DagsterExecutionInterruptedError, KeyboardInterrupt, SystemExit):
        runner.run()

    assert isinstance(runner.error, interrupt)
    assert server.names() == []
    assert server.names("pods") == []
    assert s3.objects == {}


@pytest.mark.parametrize("interrupt", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_what_is_interrupted_but_not_canceled_goes_on_for_its_retry(
    runner: Runner,
    stand_in: StandIn,
    server: ApiServer,
    s3: MemoryS3,
    interrupt: type[BaseException],
) -> None:
    stand_in.driver = reports("first")
    stand_in.recording = UNTIL_FAILING

    def drained(_payload: Any) -> None:
        raise interrupt("SIGTERM")

    runner.each = drained
    with suppress(DagsterExecutionInterruptedError, KeyboardInterrupt):
        runner.launch()

    assert isinstance(runner.error, interrupt)
    [name] = server.names()
    wait_for(lambda: stand_in.played[-1:] == ["FAILING"])
    server.set_status(name, of_one_driver(trace("silver", name)[-1])[0])
    runner.each = runner.payloads.append
    runner.launch(retry_tags(runner))
    assert runner.payloads == ["first"]
    assert server.names() == [name]
    assert s3.objects == {}


def test_an_interrupt_that_is_seen_as_the_streams_end_is_one_too(
    runner: Runner, stand_in: StandIn, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.driver = reports("first")
    stand_in.recording = UNTIL_FAILING

    def within(context: AssetExecutionContext) -> MaterializeResult:
        stream = runner.pipes_client().stream(context=context, application=APPLICATION)
        with closing(stream):
            for _ in stream:
                raise DagsterExecutionInterruptedError
        raise AssertionError("it has a message")

    monkeypatch.setattr(runner, "_stream", within)
    with suppress(DagsterExecutionInterruptedError):
        runner.launch()

    assert len(server.names()) == 1


def test_a_run_that_is_canceled_deletes_its_application(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    stand_in.driver = reports(1)
    stand_in.recording = UNTIL_FAILING

    def cancel(_payload: Any) -> None:
        [run] = runner.instance.get_runs()
        runner.instance.report_run_canceling(run)
        raise DagsterExecutionInterruptedError

    runner.each = cancel
    with suppress(DagsterExecutionInterruptedError):
        runner.launch()

    assert server.names() == []
    assert s3.objects == {}


def test_an_application_that_cant_be_deleted_is_said_with_the_interrupt(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    stand_in.driver = reports(1)
    stand_in.recording = UNTIL_FAILING
    server.fail("DELETE", APPS, 403, status(403, "Forbidden", "cannot delete"))

    def stop(_payload: Any) -> None:
        raise ValueError("stop")

    runner.each = stop

    assert not runner.run().success
    assert "could not be deleted" in says(runner.error)
    assert 'verbs: ["delete"]' in says(runner.error)
    assert len(server.names()) == 1
    assert s3.objects, "whoever takes it over needs its messages"


def test_an_application_deleted_by_others_is_an_error(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    def driver(_pipes: PipesContext) -> None:
        server.delete(APPS, server.names()[0])

    stand_in.driver = driver

    assert not runner.run().success
    assert type(runner.error) is errors.ApplicationNotFoundError


def test_a_lost_api_server_does_not_lose_the_application(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    def driver(pipes: PipesContext) -> None:
        pipes.report_custom_message("before")
        server.silent = True
        server.drop_watches()
        time.sleep(1)
        server.silent = False
        pipes.report_custom_message("after")

    stand_in.driver = driver

    assert runner.run().success
    assert runner.payloads == ["before", "after"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("exceeded quota: team", errors.QuotaExceededError),
        ('admission webhook "x" denied the request: no', errors.WebhookDeniedError),
    ],
)
def test_refused_submissions_leave_nothing_behind(
    runner: Runner, server: ApiServer, s3: MemoryS3, message: str, error: type[Exception]
) -> None:
    server.fail("POST", APPS, 403, status(403, "Forbidden", message))

    assert not runner.run().success
    assert type(runner.error) is error
    assert server.names() == []
    assert s3.objects == {}


def leave_behind(runner: Runner, stand_in: StandIn, server: ApiServer) -> str:
    """Run a step whose process is killed while its application runs; return the application."""
    stand_in.driver = reports("first")
    stand_in.recording = UNTIL_FAILING
    server.fail("DELETE", APPS, 403, status(403, "Forbidden", "killed processes delete nothing"))
    runner.each = _killed
    result = runner.run()
    runner.each = runner.payloads.append
    runner.instance.report_run_failed(
        runner.instance.get_run_by_id(result.run_id)  # ty: ignore[invalid-argument-type]
    )
    [name] = server.names()
    wait_for(lambda: stand_in.played[-1:] == ["FAILING"])
    server.set_status(name, trace("silver", name)[4])
    return name


def _killed(_payload: Any) -> None:
    raise ValueError("killed")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def retry_tags(runner: Runner) -> dict[str, str]:
    run = runner.instance.get_runs()[-1]
    return {"dagster/root_run_id": run.run_id, "dagster/parent_run_id": run.run_id}


def test_a_retry_follows_what_a_killed_process_left_behind(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    name = leave_behind(runner, stand_in, server)
    uid = server.objects[APPS, name]["metadata"]["uid"]
    finish = threading.Timer(0.3, lambda: server.set_status(name, trace("silver", name)[-1]))
    finish.start()

    result = run_retry(runner)

    assert result.success, runner.error
    assert [server.objects[APPS, each]["metadata"]["uid"] for each in server.names()] == [uid]
    assert runner.payloads == ["first"], "messages are read from the first one on"
    assert s3.objects == {}


def run_retry(runner: Runner) -> ExecuteInProcessResult:
    return runner.run(retry_tags(runner))


def test_a_retry_knows_an_application_of_other_sizes_by_its_identity(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    runner.identity = APPLICATION
    name = leave_behind(runner, stand_in, server)
    runner.application = APPLICATION.model_copy(update={"executor": Executor(instances=1)})
    server.set_status(name, trace("silver", name)[-1])

    assert run_retry(runner).success, runner.error
    assert server.names() == [name]
    assert runner.payloads == ["first"]


def test_what_was_left_behind_is_found_until_it_was_followed(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    name = leave_behind(runner, stand_in, server)
    assert runner.was_left_behind is False
    server.set_status(name, trace("silver", name)[-1])

    run_retry(runner)
    assert runner.was_left_behind is True
    stand_in.recording = "silver"
    run_retry(runner)
    assert runner.was_left_behind is False


@pytest.mark.parametrize("why", ["policy", "specification", "extras"])
def test_a_retry_replaces_what_it_may_not_follow(
    runner: Runner, stand_in: StandIn, server: ApiServer, why: str
) -> None:
    name = leave_behind(runner, stand_in, server)
    stand_in.recording = "silver"
    stand_in.driver = reports("second")
    if why == "policy":
        runner.on_existing = "replace"
    elif why == "specification":
        runner.application = APPLICATION.model_copy(update={"arguments": ("--all",)})
    else:
        runner.extras = {"tables": ["other"]}

    result = run_retry(runner)

    assert result.success, runner.error
    assert name not in server.names()
    assert runner.payloads == ["second"]


def test_what_an_active_run_may_follow_is_left_alone(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    name = leave_behind(runner, stand_in, server)
    tags = retry_tags(runner)
    other = DagsterRun("job", run_id=str(uuid4()), status=DagsterRunStatus.STARTED, tags=tags)
    runner.instance.add_run(other)
    stand_in.recording = "silver"
    stand_in.driver = reports("second")

    result = runner.run(tags)

    assert result.success, runner.error
    assert len(server.names()) == 2
    assert name in server.names()
    assert runner.payloads == ["second"]


def test_a_step_whose_run_was_ended_leaves_the_messages_to_the_retry(
    runner: Runner, stand_in: StandIn, s3: MemoryS3
) -> None:
    def driver(pipes: PipesContext) -> None:
        runner.instance.report_run_failed(runner.instance.get_runs()[0], "its pod was killed")
        pipes.report_custom_message("first")

    stand_in.driver = driver

    runner.run()

    assert runner.payloads == ["first"]
    assert s3.objects


def test_a_step_that_is_run_again_after_success_starts_anew(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    stand_in.driver = reports("once")
    assert runner.run().success
    stand_in.driver = reports("twice")

    result = run_retry(runner)

    assert result.success, runner.error
    assert runner.payloads == ["once", "twice"]
    assert len(server.names()) == 2


@pytest.mark.parametrize("address", ["http://app.spark.example.org", "app.spark.example.org"])
def test_the_operators_ingress_is_linked_as_it_is(address: str) -> None:
    content = {"metadata": {"name": "app", "namespace": "spark"}}
    content["status"] = {"driverInfo": {"webUIIngressAddress": address}}

    assert Links().metadata(Application(content))["spark/ui"].value == (
        "http://app.spark.example.org"
    )


def test_what_cant_be_deleted_is_not_followed_again(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    s3.undeletable = True
    stand_in.driver = reports("once")
    assert runner.run().success
    assert s3.objects, "there is something that could be followed"
    stand_in.driver = reports("twice")

    assert run_retry(runner).success
    assert runner.payloads == ["once", "twice"]
    assert len(server.names()) == 2


def test_a_deletion_that_is_refused_for_each_key_is_said(
    runner: Runner, stand_in: StandIn, s3: MemoryS3, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.undeletable = True

    assert runner.run().success
    assert "Context and messages stay in" in capsys.readouterr().err


def test_a_step_whose_end_cant_be_marked_fails_and_its_retry_reads_all_again(
    runner: Runner, stand_in: StandIn, server: ApiServer, s3: MemoryS3
) -> None:
    stand_in.driver = reports("once")

    def refuse(_payload: Any) -> None:
        runner.payloads.append(_payload)
        s3.refuse["PutObject"] = "AccessDenied"

    runner.each = refuse
    stand_in.before = lambda state: time.sleep(0.3) if state == "SUCCEEDING" else None
    assert not runner.run().success
    assert type(runner.error) is errors.MessagesUnreadableError
    s3.refuse.clear()
    runner.each = runner.payloads.append

    assert run_retry(runner).success
    assert runner.payloads == ["once", "once"]
    assert len(server.names()) == 1


def test_an_error_of_another_application_within_the_block_ends_this_one(
    runner: Runner, stand_in: StandIn, server: ApiServer
) -> None:
    stand_in.driver = reports(*range(5))
    stand_in.recording = UNTIL_FAILING

    def inner(_payload: Any) -> None:
        raise errors.OutOfMemoryError("spark/inner", "the inner one failed", "x")

    runner.each = inner

    assert not runner.run().success
    assert "the inner one failed" in str(runner.error)
    assert server.names() == []


def test_progress_and_problems_of_executors_are_told(
    runner: Runner, stand_in: StandIn, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    spark_id = "spark-70ef38047a3b479e9652c93cedd979bb"
    job = {"status": "RUNNING", "stageIds": [0, 1, 2], "numTasks": 200, "numCompletedTasks": 120}
    job |= {"numCompletedStages": 1, "numFailedTasks": 2}
    executors = [{"id": "driver"}, {"id": "1", "totalCores": 4}, {"id": "2", "totalCores": 4}]
    base = "api/v1/applications"
    server.pages |= {
        base: json.dumps([{"id": spark_id}]),
        f"{base}/{spark_id}/jobs": json.dumps([job]),
        f"{base}/{spark_id}/executors": json.dumps(executors),
    }

    def driver(_pipes: PipesContext) -> None:
        [name] = server.names()
        killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        container = {"name": "spark-kubernetes-executor", "state": killed}
        state = {"phase": "Failed", "containerStatuses": [container]}
        server.add_pod(f"{name}-exec-1", name, state, "executor")
        time.sleep(0.6)

    stand_in.driver = driver

    assert runner.run().success
    told = capsys.readouterr().err
    assert "1 of 3 stages, 120 of 200 tasks (2 failed), 2 executors with 8 cores" in told
    assert told.count("OOMKilled") == 1
    assert runner.metadata["spark/tasks"].value == 120
