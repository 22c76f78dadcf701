import threading
import time
from typing import Any

import pytest

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.api import Stop
from dataplatform.resources.spark_operator.pods import (
    LogStream,
    PodInspector,
    ProblemKind,
    diagnose,
)
from dataplatform_tests.spark_operator.api_server import ApiServer, Log, status

DRIVER = "spark-kubernetes-driver"
MOUNT = 'MountVolume.SetUp failed for volume "secret-minio" : secret "minio" not found'


def pod(status: dict[str, Any], role: str = "driver") -> dict[str, Any]:
    spec = {"containers": [{"name": DRIVER}]}
    return {
        "metadata": {"name": f"app-{role}", "uid": role, "labels": {"spark-role": role}},
        "spec": spec,
        "status": status,
    }


def container(state: dict[str, Any], phase: str = "Pending") -> dict[str, Any]:
    return {"phase": phase, "containerStatuses": [{"name": DRIVER, "state": state}]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return container({"waiting": {"reason": reason, "message": message}})


def ended(reason: str, code: int) -> dict[str, Any]:
    return container({"terminated": {"reason": reason, "exitCode": code}}, "Failed")


@pytest.mark.parametrize(
    ("state", "kind", "error", "says"),
    [
        (ended("OOMKilled", 137), ProblemKind.OUT_OF_MEMORY, errors.OutOfMemoryError, "overhead"),
        (ended("Error", 52), ProblemKind.OUT_OF_MEMORY, errors.OutOfMemoryError, "exit code 52"),
        (
            waiting("ImagePullBackOff", 'Back-off pulling image "spark:9"'),
            ProblemKind.IMAGE,
            errors.ImagePullError,
            "spark:9",
        ),
        (waiting("ErrImagePull"), ProblemKind.IMAGE, errors.ImagePullError, "registry"),
        (waiting("InvalidImageName"), ProblemKind.IMAGE, errors.ImagePullError, "tag"),
        (
            waiting("CreateContainerConfigError", 'secret "minio" not found'),
            ProblemKind.START,
            errors.PodStartError,
            'secret "minio"',
        ),
        (ended("StartError", 128), ProblemKind.START, errors.PodStartError, "program"),
        (
            {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient cpu.",
                    }
                ],
            },
            ProblemKind.UNSCHEDULABLE,
            errors.UnschedulableError,
            "3 Insufficient cpu",
        ),
        (
            {
                "phase": "Failed",
                "reason": "Evicted",
                "message": "The node was low on resource: memory.",
            },
            ProblemKind.EVICTED,
            errors.EvictedError,
            "low on resource",
        ),
        (
            ended("Error", 143)
            | {
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "PreemptionByScheduler",
                        "message": "preempting",
                    }
                ]
            },
            ProblemKind.EVICTED,
            errors.EvictedError,
            "PreemptionByScheduler",
        ),
        (ended("Error", 1), ProblemKind.FAILED, errors.ApplicationFailedError, "exit code 1"),
    ],
)
def test_each_reason_is_an_error_of_its_own(
    state: dict[str, Any], kind: ProblemKind, error: type[Exception], says: str
) -> None:
    problem = diagnose(pod(state))

    assert problem is not None
    assert problem.kind is kind
    raised = problem.error("spark/app")
    assert type(raised) is error
    assert says in str(raised)
    assert "Remedy: " in str(raised)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"phase": "Pending"},
        waiting("ContainerCreating"),
        container({"running": {}}, "Running"),
        container({"terminated": {"exitCode": 0, "reason": "Completed"}}, "Succeeded"),
    ],
)
def test_a_pod_that_is_well_has_no_problem(state: dict[str, Any]) -> None:
    assert diagnose(pod(state)) is None


def test_a_failing_init_container_is_the_reason() -> None:
    state = waiting("PodInitializing")
    state["initContainerStatuses"] = [
        {"name": "first", "state": {"terminated": {"exitCode": 0}}},
        {"name": "second", "state": {"waiting": {"reason": "ErrImagePull", "message": "none"}}},
    ]

    problem = diagnose(pod(state))

    assert problem is not None
    assert problem.kind is ProblemKind.IMAGE


def test_a_sidecar_that_ended_is_not_sparks_problem() -> None:
    made = pod(container({"running": {}}, "Running"))
    made["spec"]["containers"].append({"name": "proxy"})
    made["status"]["containerStatuses"].append(
        {"name": "proxy", "state": {"terminated": {"exitCode": 1}}}
    )

    assert diagnose(made) is None


def test_a_volume_that_cant_be_mounted_is_found_among_the_events(server: ApiServer) -> None:
    creating = pod(waiting("ContainerCreating"))
    server.add_event(creating, "FailedScheduling", "0/3 nodes", age=30, scheduler=True)
    server.add_event(creating, "FailedAttachVolume", "another", age=20)
    server.add_event(creating, "FailedMount", MOUNT, age=10)
    server.add_event(creating, "FailedToRetrieveImagePullSecret", "no secret", age=1)

    problems = PodInspector(server.api(), "spark").problems([creating])

    assert [str(each) for each in problems] == [f"driver app-driver: FailedMount - {MOUNT}"]


@pytest.mark.parametrize(
    "told",
    [
        {"FailedScheduling": 5.0},
        {"FailedToRetrieveImagePullSecret": 1.0},
        {"FailedMount": 20.0, "Pulling": 10.0},
        {"FailedMount": 160.0},
    ],
)
def test_what_is_overcome_or_keeps_no_container_is_no_problem(
    server: ApiServer, told: dict[str, float]
) -> None:
    creating = pod(waiting("ContainerCreating"))
    for reason, age in told.items():
        server.add_event(creating, reason, age=age, scheduler=reason == "FailedScheduling")

    assert PodInspector(server.api(), "spark").problems([creating]) == []


@pytest.mark.parametrize(("lasting", "is_problem"), [(0, False), (4, False), (60, True)])
def test_sparks_own_config_maps_come_after_the_pod_that_mounts_them(
    server: ApiServer, lasting: float, is_problem: bool
) -> None:
    creating = pod(waiting("ContainerCreating"))
    said = (
        'MountVolume.SetUp failed for volume "spark-conf-volume-driver" : configmap'
        ' "spark-drv-449455a20baf3837-conf-map" not found'
    )
    server.add_event(creating, "FailedMount", said, lasting=lasting)

    assert bool(PodInspector(server.api(), "spark").problems([creating])) is is_problem


def test_an_event_of_an_earlier_pod_of_the_name_is_not_this_ones(server: ApiServer) -> None:
    creating = pod(waiting("ContainerCreating"))
    earlier = {"metadata": creating["metadata"] | {"uid": "earlier"}}
    server.add_event(earlier, "FailedMount", MOUNT)

    assert PodInspector(server.api(), "spark").problems([creating]) == []


@pytest.mark.parametrize(
    ("role", "reason", "kind"),
    [
        ("driver", "Error", ProblemKind.EVICTED),
        ("driver", "OOMKilled", ProblemKind.OUT_OF_MEMORY),
        ("executor", "Error", ProblemKind.FAILED),
    ],
)
def test_a_driver_whose_pod_is_deleted_did_not_fail_by_itself(
    role: str, reason: str, kind: ProblemKind
) -> None:
    made = pod(ended(reason, 137), role)
    made["metadata"]["deletionTimestamp"] = "2026-11-23T05:36:10Z"

    found = diagnose(made)

    assert found is not None
    assert found.kind is kind


def test_the_drivers_problem_comes_first(server: ApiServer) -> None:
    pods = [pod(ended("OOMKilled", 137), "executor"), pod(ended("Error", 1))]

    problems = PodInspector(server.api(), "spark").problems(pods)

    assert [each.role for each in problems] == ["driver", "executor"]


def lines(count: int, second: int = 10) -> list[str]:
    """Return lines of which always two have one timestamp, and many one second."""
    return [
        f"2026-11-23T05:36:{second + i // 8}.{(i // 2) % 4:d}0000000{'1Z' if i % 4 < 2 else 'Z'} line {i}"
        for i in range(count)
    ]


@pytest.mark.parametrize("cuts", [[], [1], [3, 5], [8, 3, 1, 9], [0, 2, 0]])
def test_a_log_that_is_cut_off_goes_on_without_repeating_or_losing_a_line(
    server: ApiServer, cuts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplatform.resources.spark_operator.pods._PAUSE", 0.01)
    written = sorted(lines(20))
    server.logs["app-driver"] = Log(written, cuts)
    server.put("pods", pod({"phase": "Succeeded"}))

    seen = list(PodInspector(server.api(), "spark").follow_log("app-driver", Stop()))

    assert seen == [line.partition(" ")[2] for line in written]


def test_what_the_kubelet_says_in_place_of_a_line_is_told_once_and_followed_on(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplatform.resources.spark_operator.pods._PAUSE", 0.01)
    said = "unable to retrieve container logs for containerd://0a1b"
    written = lines(4)
    server.logs["app-driver"] = Log([*written[:2], said, *written[2:]], [3])
    server.put("pods", pod({"phase": "Succeeded"}))

    seen = list(PodInspector(server.api(), "spark").follow_log("app-driver", Stop()))

    assert seen == ["line 0", "line 1", said, "line 2", "line 3"]


def test_a_container_that_is_not_there_yet_is_waited_for(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplatform.resources.spark_operator.pods._PAUSE", 0.01)
    message = 'container "x" in pod "app-driver" is waiting to start: ContainerCreating'
    server.fail("GET", "pods/log", 400, status(400, "BadRequest", message), times=2)
    server.logs["app-driver"] = Log(lines(1))
    server.put("pods", pod({"phase": "Running"}))

    def end() -> None:
        while sum("/log?" in each for each in server.requests) < 3:
            time.sleep(0.01)
        server.put("pods", pod({"phase": "Succeeded"}))

    threading.Thread(target=end).start()

    assert list(PodInspector(server.api(), "spark").follow_log("app-driver", Stop())) == ["line 0"]


def test_the_end_of_a_log_is_read(server: ApiServer) -> None:
    server.logs["app-driver"] = Log(lines(20))

    assert PodInspector(server.api(), "spark").log_tail("app-driver", 2) == ["line 18", "line 19"]


def test_a_log_that_never_ends_does_not_hold_up_the_end(server: ApiServer) -> None:
    server.put("pods", pod({"phase": "Running"}))
    server.logs["app-driver"] = Log(lines(3))
    seen: list[str] = []
    stream = LogStream(PodInspector(server.api(), "spark"), "app-driver", seen.append)
    began = time.monotonic()

    stream.start()
    stream.finish(0.5)

    assert time.monotonic() - began < 2.5
    assert seen == ["line 0", "line 1", "line 2"]


def test_a_log_that_may_not_be_read_is_said(server: ApiServer) -> None:
    server.fail("GET", "pods/log", 403, status(403, "Forbidden", "cannot get pods/log"))
    stream = LogStream(PodInspector(server.api(), "spark"), "app-driver", print)

    stream.start()
    stream.finish(2)

    assert isinstance(stream.failure, errors.ForbiddenError)
    assert "pods/log" in str(stream.failure)
