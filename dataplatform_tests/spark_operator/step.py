"""A step of Dagster whose application fails on the tests' node, and what is told of it and left.

    python -m dataplatform_tests.spark_operator.step STEP

runs the same in a process that may be ended by a signal; STEP is JSON, Dagster's home is DAGSTER_HOME.
"""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    DagsterInstance,
    DagsterRunStatus,
    MaterializeResult,
    asset,
    materialize,
    serialize_value,
)
from dagster._utils.interrupts import setup_interrupt_handlers
from tenacity import retry, stop_after_delay, wait_fixed

from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.spark_operator.client import SparkApplicationClient
from dataplatform.resources.spark_operator.follow import Following
from dataplatform.resources.spark_operator.pipes import PipesSparkApplicationClient
from dataplatform.resources.spark_operator.resource import SparkOperatorResource
from dataplatform.resources.spark_operator.spec import Driver, Executor, SecretKey, SparkApplication
from dataplatform_tests.kubernetes import oci
from dataplatform_tests.minio.servers import ROOT, SECRET

if TYPE_CHECKING:
    from dataplatform_tests.kubernetes.node import Node

# The garbage collector learns of a new kind within 30 s.
PATIENT: Final = {"submitted": 200.0, "deletion": 60.0, "unreachable": 20.0}
PIPES: Final = """
import os, sys, time
import boto3
from dagster_pipes import PipesS3ContextLoader, PipesS3MessageWriter, open_dagster_pipes

s3 = boto3.client("s3", endpoint_url=os.environ["S3"])

def opened():
    loader, writer = PipesS3ContextLoader(s3), PipesS3MessageWriter(s3, interval=0.2)
    return open_dagster_pipes(context_loader=loader, message_writer=writer)

def wait(name="gate"):
    while not os.path.exists(os.environ["GATES"] + name):
        time.sleep(0.1)
"""
KEY: Final = "pipes-key"


class Operator(SparkOperatorResource):
    """The resource, with the key of the tests' store."""

    def s3(self) -> Any:
        return s3_client(S3Access(self.s3_endpoint or "", "us-east-1", ROOT, SECRET))

    def impatient(self) -> PipesSparkApplicationClient:
        """Return a Pipes client that looks at pods and messages more often."""
        following = Following(deadlines=self.times(), poll_seconds=0.2, pod_seconds=0.5)
        policy = "replace" if self.on_existing == "replace" else "reattach"
        return PipesSparkApplicationClient(self.client(), self.bucket(), following, policy)


Told = Callable[[Any], None]


def counted(application: SparkApplication, told: Told) -> AssetsDefinition:
    """Return an asset that an application makes; `told` is given each message."""

    @asset
    def counted(context: AssetExecutionContext, spark_operator: Operator) -> MaterializeResult:
        stream = spark_operator.impatient().stream(context=context, application=application)
        with stream as messages:
            for message in messages:
                told(message)
        if stream.invocation is None:
            raise AssertionError("a stream that ends without an error has an invocation")
        return stream.invocation.get_materialize_result()

    return counted


@dataclass(frozen=True)
class Outcome:
    """What Dagster shows of a run.

    Attributes:
        run_id: of the run.
        status: of the run.
        error: the type of the step's error; empty where there is none.
        said: its text.
        log: all that the run told.
    """

    run_id: str
    status: DagsterRunStatus
    error: str
    said: str
    log: str

    def shows(self, error: type[Exception], *parts: str) -> None:
        """Look that the step failed with an error of that type, which says cause and remedy."""
        shown = (self.status, self.error)
        assert shown == (DagsterRunStatus.FAILURE, error.__name__), self.log
        cause, _, remedy = self.said.partition("Remedy: ")
        assert cause
        assert remedy
        for part in parts:
            assert part in self.said


@dataclass
class Step:
    """One asset in a namespace of its own.

    Attributes:
        node: where it runs.
        resource: as the asset has it.
        instance: Dagster's.
        messages: what the drivers reported.
    """

    node: "Node"
    resource: Operator
    instance: DagsterInstance
    messages: list[Any] = field(default_factory=list)

    @cached_property
    def namespace(self) -> str:
        """Where it runs, whatever the resource is made to believe."""
        return self.resource.namespace

    @cached_property
    def client(self) -> SparkApplicationClient:
        """An administrator's client."""
        return SparkApplicationClient.connect(
            self.namespace, str(self.node.kubeconfig), "admin", in_cluster=False
        )

    def configure(self, **fields: Any) -> None:
        """Change fields of the resource; Dagster makes it anew from what it was made of."""
        self.resource = Operator(**self.resource.model_dump() | fields)

    def hurry(self, **deadlines: float) -> None:
        """Set deadlines that a test does not want to wait for."""
        self.configure(deadlines=PATIENT | deadlines)

    def program(self, text: str) -> Path:
        """Write a program where the pods see it."""
        path = self.node.shared / f"{self.namespace}.py"
        path.write_text(text)
        return path

    def open(self, gate: str = "gate") -> None:
        """Let the driver go on that waits at `gate`."""
        (self.node.shared / f"{self.namespace}-{gate}").touch()

    def application(self, text: str, **fields: Any) -> SparkApplication:
        """Return an application whose driver is real Spark."""
        driver: dict[str, Any] = {
            "memory": "512m",
            "service_account": "spark",
            "termination_grace": 1,
        }
        driver["env"] = {
            "S3": self.resource.s3_endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "GATES": f"{self.node.shared}/{self.namespace}-",
        }
        driver["secret_env"] = {
            name: SecretKey(name=KEY, key=name)
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        }
        given: dict[str, Any] = {
            "image": oci.IMAGE,
            "main_file": f"local://{self.program(text)}",
            "driver": Driver(**driver | fields.pop("driver", {})),
            "executor": Executor(
                **{"instances": 1, "memory": "512m", "termination_grace": 1}
                | fields.pop("executor", {})
            ),
        }
        return SparkApplication(**given | fields)

    def light(self, text: str, **driver: Any) -> SparkApplication:
        """Return an application whose driver is Python without Spark, there in a second."""
        command = {"command": ["python", str(self.program(text))]}
        overrides = driver.pop("container_overrides", {})
        return self.application(text, driver=driver | {"container_overrides": command | overrides})

    def run(
        self, application: SparkApplication, told: Told | None = None, retry_of: str = ""
    ) -> Outcome:
        """Run the step in this process, perhaps as a retry of another run."""
        tags = {f"dagster/{key}_run_id": retry_of for key in ("root", "parent") if retry_of}

        def each(message: Any) -> None:
            self.messages.append(message)
            if told:
                told(message)

        return self.materialize(counted(application, each), tags)

    def materialize(
        self, definition: AssetsDefinition, tags: dict[str, str] | None = None
    ) -> Outcome:
        """Run an asset in this process."""
        result = materialize(
            [definition],
            instance=self.instance,
            resources={"spark_operator": self.resource},
            raise_on_error=False,
            tags=tags,
        )
        return self.outcome(result.run_id)

    def outcome(self, run_id: str) -> Outcome:
        """Return what Dagster shows of a run, after a look that no secret is in it."""
        entries = self.instance.all_logs(run_id)
        stored = "".join(serialize_value(entry) for entry in entries)
        assert SECRET not in stored
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        failures = [
            entry.dagster_event.step_failure_data.error
            for entry in entries
            if entry.dagster_event and entry.dagster_event.is_step_failure
        ]
        [error] = failures or [None]
        cause = (error.cause or error) if error else None
        kind = (cause.cls_name or "") if cause else ""
        said = cause.message if cause else ""
        return Outcome(run_id, run.status, kind, said, "\n".join(e.user_message for e in entries))

    def as_json(self, application: SparkApplication) -> str:
        """Return the step for a process of its own."""
        return json.dumps(
            {
                "resource": self.resource.model_dump(mode="json"),
                "application": application.model_dump(mode="json"),
            }
        )

    def left(self) -> tuple[list[str], list[str]]:
        """Return the states of the applications and the names of the pods that are there."""
        pods = self.node.kubectl("get", "pods", "-n", self.namespace, "-o", "name").split()
        return [app.state.name for app in self.client.find()], pods

    @retry(stop=stop_after_delay(60), wait=wait_fixed(0.3), reraise=True)
    def nothing_left(self) -> None:
        """Look that applications, pods and messages are gone."""
        assert self.left() == ([], [])
        assert self.stored() == []

    def stays(self) -> None:
        """Look that the application is kept to be looked at, without its messages."""
        assert self.left()[0] == ["FAILED"]
        assert self.stored() == []

    def names(self) -> list[str]:
        """Return the names of the applications."""
        return [app.name for app in self.client.find()]

    def stored(self) -> list[str]:
        """Return what lies in the store."""
        found = self.resource.s3().list_objects_v2(Bucket=self.namespace)
        return [each["Key"] for each in found.get("Contents", [])]

    def apply(self, kind: str, name: str, api: str = "v1", **body: Any) -> None:
        """Make an object of Kubernetes in the namespace."""
        made = {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **body}
        self.node.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=json.dumps(made))

    def quota(self, **hard: str) -> None:
        """Set a quota, and wait until the API server knows it."""
        self.apply("ResourceQuota", "team", spec={"hard": hard})
        where = ["quota", "team", "-n", self.namespace, "-o", "jsonpath={.status}"]
        self.node.wait("the quota", lambda: "used" in self.node.kubectl("get", *where))

    def set_state(self, name: str, state: str) -> None:
        """Write a state as the operator would."""
        status = {"status": {"applicationState": {"state": state}, "driverInfo": {}}}
        where = ["sparkapplication", name, "-n", self.namespace, "--subresource=status"]
        self.node.kubectl("patch", *where, "--type=merge", "-p", json.dumps(status))

    def meanwhile(self, act: Callable[[str], object]) -> threading.Thread:
        """Let a thread act as soon as there is an application; it is given its name."""

        def wait() -> None:
            self.node.wait("application", lambda: bool(self.names()))
            act(self.names()[0])

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


def main() -> None:
    """Run a step as a run worker of Dagster would, telling its messages."""
    setup_interrupt_handlers()
    given = json.loads(sys.argv[1])
    application = SparkApplication.model_validate(given["application"])
    with DagsterInstance.get() as instance:
        materialize(
            [counted(application, lambda message: print(message, flush=True))],  # noqa: T201
            instance=instance,
            resources={"spark_operator": Operator(**given["resource"])},
            raise_on_error=False,
        )


if __name__ == "__main__":
    main()
