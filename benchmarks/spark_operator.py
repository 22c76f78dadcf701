"""What a SparkApplication costs as a step of Dagster, beside `kubectl apply` and `kubectl wait`.

Both run the same manifest on the same node with the same stand-in of the operator. The drivers are
Python without Spark and write down when they began and ended: what is measured is the resource.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import yaml
from dagster import (
    AssetExecutionContext,
    DagsterEventType,
    DagsterInstance,
    MaterializeResult,
    PreviewWarning,
    asset,
    materialize,
)

from benchmarks.processes import measure
from benchmarks.report import Comparison, Result
from benchmarks.simulated_lake import workspace
from dataplatform.lake.store.s3 import S3Access, s3_client
from dataplatform.resources.spark_operator.spec import SparkApplication
from dataplatform_tests.kubernetes.fixtures import make_namespace, run_cluster, run_operator
from dataplatform_tests.kubernetes.node import Node, missing
from dataplatform_tests.minio.servers import ROOT, SECRET, minio
from dataplatform_tests.spark_operator.step import KEY, Operator, Step

GOAL_SECONDS: Final = 2.0
DRIVER: Final = """
import sys, time
moments = open(sys.argv[-2], "w")
print(time.time(), file=moments, flush=True)

import os
import boto3
from dagster_pipes import PipesS3ContextLoader, PipesS3MessageWriter, open_dagster_pipes

s3 = boto3.client("s3", endpoint_url=os.environ["S3"])
loader, writer = PipesS3ContextLoader(s3), PipesS3MessageWriter(s3, interval=1)
# Without Dagster's variables, as by hand, this does nothing.
with open_dagster_pipes(context_loader=loader, message_writer=writer) as pipes:
    pipes.report_asset_materialization(metadata={"rows": 1})
    time.sleep(float(sys.argv[-1]))
print(time.time(), file=moments, flush=True)
"""
# 50 drivers at once are to fit a node of 2 cores and 16 GiB.
SMALL: Final = {"memory": "64m", "memory_overhead": "128m", "core_request": "10m"}
_QUIET: Final = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class NoNodeError(RuntimeError):
    """No Kubernetes node can run on this machine."""


@dataclass(frozen=True)
class Times:
    """Seconds that one application took on its way.

    Attributes:
        start: from its submission to the driver's first line.
        end: from the driver's last line to whoever waits for it.
        whole: from its submission to the end of the waiting.
    """

    start: float
    end: float
    whole: float

    @property
    def around(self) -> float:
        """Seconds before and after the driver."""
        return self.start + self.end

    @property
    def within(self) -> float:
        """Seconds of the driver itself, Pipes included."""
        return self.whole - self.around


@dataclass(frozen=True)
class Bench:
    """A node with an operator, a namespace and an object store.

    Attributes:
        step: of Dagster; its resource has the service account `dagster`.
        folder: for kubeconfigs.
        numbers: of the applications.
    """

    step: Step
    folder: Path
    numbers: "count[int]"

    def application(self, seconds: float) -> tuple[SparkApplication, Path]:
        """Return an application that works for so long, and where its driver notes its moments."""
        moments = self.step.node.shared / f"moments-{next(self.numbers)}"
        made = self.step.light(DRIVER, **SMALL)
        told = (str(moments), str(seconds))
        return made.model_copy(update={"arguments": told, "time_to_live": 30}), moments

    def by_resource(self, seconds: float, instance: DagsterInstance | None = None) -> Times:
        """Run an application as a step of Dagster."""
        application, moments = self.application(seconds)
        submitted: list[float] = []

        @asset
        def counted(context: AssetExecutionContext, spark_operator: Operator) -> MaterializeResult:
            submitted.append(time.time())
            run = spark_operator.pipes_client().run(context=context, application=application)
            return run.get_materialize_result()

        dagster, resource = instance or self.step.instance, self.step.resource
        resources = {"spark_operator": resource}
        result = materialize([counted], instance=dagster, resources=resources, run_config=_QUIET)
        [success] = dagster.all_logs(result.run_id, of_type=DagsterEventType.STEP_SUCCESS)
        return _times(submitted[0], moments, success.timestamp)

    def by_hand(self, seconds: float) -> Times:
        """Run an application by `kubectl apply` and `kubectl wait`."""
        application, moments = self.application(seconds)
        manifest = application.manifest(f"by-hand-{moments.name}", self.step.namespace)
        submitted = time.time()
        self._kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        ended = "--for=jsonpath={.status.applicationState.state}=COMPLETED"
        name = f"sparkapplication/{manifest['metadata']['name']}"
        self._kubectl("wait", name, ended, "--timeout=1200s")
        return _times(submitted, moments, time.time())

    def requests(self, account: str) -> int:
        """Return how many requests the API server has had from a service account."""
        asked = self.step.node.requests(f"{self.step.namespace}:{account}")
        # A watch is written down at its beginning and at its end.
        return len({event["auditID"] for event in asked})

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> None:
        who = f"--kubeconfig={self.folder / 'by-hand'}"
        self.step.node.kubectl(who, "-n", self.step.namespace, *arguments, stdin=stdin)


def _times(submitted: float, moments: Path, seen: float) -> Times:
    began, ended = map(float, moments.read_text().split())
    return Times(began - submitted, seen - ended, seen - submitted)


@dataclass(frozen=True)
class Crowd:
    """Applications that were submitted at once.

    Attributes:
        size: how many.
        seconds: until the last one had ended.
        requests: that the API server had from whoever submitted them and waited.
    """

    size: int
    seconds: float
    requests: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(*, quick: bool) -> Result:
    """Run applications one by one, watch one from a process of its own, then run many at once.

    Raises:
        NoNodeError: no root, or no namespaces of the kernel.
    """
    rounds, crowd, seconds, processes = (1, 3, 5, 1) if quick else (5, 50, 15, 2)
    warnings.filterwarnings("ignore", category=PreviewWarning)
    with _bench() as bench:
        loads = [_load()]
        resource, hand = _one_by_one(bench, rounds)
        loads.append(_load())
        watching, sleeping = _memory(bench, seconds, processes)
        loads.append(_load())
        ours, theirs = run_at_once(bench, crowd)
        loads.append(_load())
    return Result(
        "spark_operator",
        "A SparkApplication as a step of Dagster",
        (
            *_overhead(resource, hand),
            Comparison("peak memory", "MiB", ("watching", watching), ("sleeping", sleeping)),
            *_crowds(ours, theirs),
        ),
        (
            f"{crowd} at once: all succeeded; no application, pod or message was left.",
            f"API requests a second then: {ours.rate:.1f} by the resource, {theirs.rate:.1f} by hand.",
            f"Load average before, between and after: {', '.join(loads)}.",
        ),
    )


def _overhead(resource: Sequence[Times], hand: Sequence[Times]) -> list[Comparison]:
    def compared(
        what: str, part: Callable[[Times], float], over: float | None = None
    ) -> Comparison:
        ours, theirs = [part(each) for each in resource], [part(each) for each in hand]
        return Comparison(what, "s", ("resource", ours), ("kubectl", theirs), over=over)

    return [
        compared("before and after the driver", lambda times: times.around, GOAL_SECONDS),
        compared("submit to driver's start", lambda times: times.start),
        compared("driver's end to success", lambda times: times.end),
        compared("the driver: 1 s asleep, Pipes", lambda times: times.within),
    ]


def _crowds(ours: Crowd, theirs: Crowd) -> list[Comparison]:
    def compared(what: str, unit: str, part: Callable[[Crowd], float]) -> Comparison:
        return Comparison(what, unit, ("resource", [part(ours)]), ("kubectl", [part(theirs)]))

    return [
        compared(f"{ours.size} at once", "s", lambda crowd: crowd.seconds),
        compared("API requests of each", "requests", lambda crowd: crowd.requests / crowd.size),
    ]


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


@contextmanager
def _bench() -> Generator[Bench]:
    """Start node, operator and store; all of it ends with the block."""
    why_not = missing()
    if why_not:
        raise NoNodeError(f"{why_not}. Remedy: run this benchmark as root on a machine of its own.")
    with (
        workspace("spark_operator") as folder,
        minio(folder / "store") as store,
        run_cluster() as node,
        run_operator(node),
        prepared(node, make_namespace(node), store, folder) as bench,
    ):
        yield bench


@contextmanager
def prepared(node: Node, namespace: str, store: S3Access, folder: Path) -> Generator[Bench]:
    """Give a namespace of a node what both ways of running need.

    Args:
        node: with an operator.
        namespace: with the service account of the drivers.
        store: for contexts and messages.
        folder: for kubeconfigs and Dagster's home.
    """
    s3_client(store).create_bucket(Bucket=namespace)
    for account in ("dagster", "by-hand"):
        _sign_in(node, namespace, account, folder / account)
    resource = Operator(
        namespace=namespace,
        kubeconfig=str(folder / "dagster"),
        in_cluster=False,
        pipes_bucket=namespace,
        s3_endpoint=store.endpoint,
    )
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").touch()
    with DagsterInstance.from_config(str(home)) as instance:
        step = Step(node, resource, instance)
        key = {"AWS_ACCESS_KEY_ID": ROOT, "AWS_SECRET_ACCESS_KEY": SECRET}
        step.apply("Secret", KEY, stringData=key)
        yield Bench(step, folder, count())


def _sign_in(node: Node, namespace: str, account: str, kubeconfig: Path) -> None:
    """Make a service account, whose requests the API server writes down, and its kubeconfig."""
    where = ("-n", namespace)
    node.kubectl("create", "serviceaccount", account, *where)
    role = ("--clusterrole=cluster-admin", f"--serviceaccount={namespace}:{account}")
    node.kubectl("create", "rolebinding", account, *role, *where)
    token = node.kubectl("create", "token", account, "--duration=6h", *where).strip()
    config: dict[str, Any] = yaml.safe_load(node.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(config))


def _one_by_one(bench: Bench, rounds: int) -> tuple[list[Times], list[Times]]:
    """Run applications in turn by the resource and by hand; the first of each is not counted."""
    turns = [(bench.by_resource(1), bench.by_hand(1)) for _ in range(rounds + 1)][1:]
    return [resource for resource, _ in turns], [hand for _, hand in turns]


def _memory(bench: Bench, seconds: float, rounds: int) -> tuple[list[float], list[float]]:
    """Return the peak MiB of processes that watch an application, and that sleep as long."""
    watching, sleeping = [], []
    for _ in range(rounds):
        application, _ = bench.application(seconds)
        watched = measure(_step(bench.step.as_json(application)), _environment())
        took = watched.output.rpartition("step took ")[2].strip()
        watching.append(watched.peak_mib)
        sleeping.append(measure(_step(took), _environment()).peak_mib)
    return watching, sleeping


def _step(given: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.spark_operator_step", given]


def _environment() -> dict[str, str]:
    return {**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1"}


def run_at_once(bench: Bench, size: int) -> tuple[Crowd, Crowd]:
    """Run as many applications at once by the resource, then by hand."""
    ours = _crowd(bench, size, "dagster", lambda: _step_of_its_own(bench))
    return ours, _crowd(bench, size, "by-hand", lambda: bench.by_hand(1))


def _step_of_its_own(bench: Bench) -> Times:
    with DagsterInstance.ephemeral() as instance:
        return bench.by_resource(1, instance)


def _crowd(bench: Bench, size: int, account: str, work: Callable[[], object]) -> Crowd:
    """Do the work in as many threads at once; it fails where one does, or leaves anything."""
    before, started = bench.requests(account), time.perf_counter()
    with ThreadPoolExecutor(size) as pool:
        for done in [pool.submit(work) for _ in range(size)]:
            done.result()
    seconds = time.perf_counter() - started
    asked = bench.requests(account) - before
    # They live for half a minute more.
    bench.step.node.wait("end of all that was made", lambda: _nothing_is_left(bench.step))
    return Crowd(size, seconds, asked)


def _nothing_is_left(step: Step) -> bool:
    return step.left() == ([], []) and not step.stored()
