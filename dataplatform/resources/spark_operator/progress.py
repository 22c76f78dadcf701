"""How far a running application is: stages, tasks and executors from Spark's own REST API.

The API server hands the request on to the driver's pod (`pods/proxy`), so it works from outside of
the cluster too. The fields: https://spark.apache.org/docs/3.5.0/monitoring.html#rest-api.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .api import KubernetesApi, Target
from .spec import UI_PORT

_ANSWER_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Progress:
    """The work of an application so far; jobs that Spark has not begun are not known yet.

    Attributes:
        jobs: begun.
        jobs_done: of them succeeded.
        stages: of the jobs begun, without those that were skipped.
        stages_done: of them completed.
        tasks: of the jobs begun, without those that were skipped.
        tasks_done: of them completed.
        tasks_failed: attempts that failed; Spark repeats them.
        executors: that are alive.
        cores: of the executors.
        shuffle_bytes: written for shuffles.
    """

    jobs: int
    jobs_done: int
    stages: int
    stages_done: int
    tasks: int
    tasks_done: int
    tasks_failed: int
    executors: int
    cores: int
    shuffle_bytes: int

    def __str__(self) -> str:
        """Return it as a log line."""
        failed = f" ({self.tasks_failed} failed)" if self.tasks_failed else ""
        return (
            f"{self.stages_done} of {self.stages} stages, {self.tasks_done} of {self.tasks} tasks"
            f"{failed}, {self.executors} executors with {self.cores} cores"
        )

    def metadata(self) -> dict[str, int]:
        """Return it as metadata of Dagster."""
        return {
            "spark/jobs": self.jobs_done,
            "spark/stages": self.stages_done,
            "spark/tasks": self.tasks_done,
            "spark/tasks_failed": self.tasks_failed,
            "spark/executors": self.executors,
            "spark/shuffle_bytes": self.shuffle_bytes,
        }


class SparkUi:
    """The REST API of a driver.

    Args:
        api: the API server.
        namespace: the driver's.
        port: of the driver's UI.
    """

    def __init__(self, api: KubernetesApi, namespace: str, port: int = UI_PORT) -> None:
        self._api = api
        self._namespace = namespace
        self._port = port

    def progress(self, driver_pod: str, spark_id: str) -> Progress | None:
        """Return how far an application is; None where its UI shows none or another one.

        Args:
            driver_pod: the name of the pod.
            spark_id: Spark's id of the application: pods on the host's network share its ports.

        Raises:
            KubernetesApiError: the UI does not answer (yet, or any more), or may not be asked.
        """
        known = self._get(driver_pod, "api/v1/applications")
        if spark_id not in [each["id"] for each in known]:
            return None
        jobs = self._get(driver_pod, f"api/v1/applications/{spark_id}/jobs")
        executors = self._get(driver_pod, f"api/v1/applications/{spark_id}/executors")
        return summed_up(jobs, [each for each in executors if each["id"] != "driver"])

    def _get(self, pod: str, path: str) -> list[Mapping[str, Any]]:
        name = f"{pod}:{self._port}"
        target = Target("get", "pods/proxy", self._namespace, name, tail=path)
        text = self._api.text(target, {}, _ANSWER_SECONDS)
        # Before the context is up, and behind some proxies, a page of HTML answers.
        return json.loads(text) if text.startswith("[") else []


def summed_up(
    jobs: Iterable[Mapping[str, Any]], executors: Iterable[Mapping[str, Any]]
) -> Progress:
    """Return what the REST API says about all jobs and executors as one."""
    jobs, alive = list(jobs), list(executors)

    def total(field: str) -> int:
        return sum(job.get(field, 0) for job in jobs)

    return Progress(
        jobs=len(jobs),
        jobs_done=sum(job["status"] == "SUCCEEDED" for job in jobs),
        stages=sum(len(job["stageIds"]) for job in jobs) - total("numSkippedStages"),
        stages_done=total("numCompletedStages"),
        tasks=total("numTasks") - total("numSkippedTasks"),
        tasks_done=total("numCompletedTasks"),
        tasks_failed=total("numFailedTasks"),
        executors=len(alive),
        cores=sum(each.get("totalCores", 0) for each in alive),
        shuffle_bytes=sum(each.get("totalShuffleWrite", 0) for each in alive),
    )
