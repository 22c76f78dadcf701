"""A sensor that deletes applications which no run owns any more.

An application outlives its run when the Dagster pod was killed, and nobody tried the run again. Its
labels say whose it was. Its messages outlive it, when nobody is there to delete them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunRecord,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from . import errors
from .ownership import (
    INSTANCE_LABEL,
    LOCATION_LABEL,
    ROOT_RUN_LABEL,
    RUN_LABEL,
    family,
    instance_id,
    label_value,
)

if TYPE_CHECKING:
    from .client import Application, SparkApplicationClient
    from .messages import PipesBucket, PipesFolder
    from .resource import SparkOperatorResource

GRACE_SECONDS: Final = 600.0
"""What a run has left is kept for so long: its retry may be about to begin."""
RETRY_SECONDS: Final = 6 * 3600.0
"""The same where Dagster has said that it will retry the run: its daemon may be down."""
PATIENCE_SECONDS: Final = 10.0
"""For an API server that does not answer: the next round comes by itself."""
RETRY_TAG: Final = "dagster/will_retry"


@dataclass(frozen=True)
class Reaped:
    """What one round did.

    Attributes:
        deleted: names of applications.
        failed: names, each with why it could not be deleted.
        cleared: names of applications that are gone, whose messages were left.
    """

    deleted: tuple[str, ...]
    failed: tuple[str, ...]
    cleared: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as a sentence."""
        parts = [f"Deleted {', '.join(self.deleted)}."] if self.deleted else []
        parts += [f"Cleared the messages of {', '.join(self.cleared)}."] if self.cleared else []
        parts += [f"Not deleted: {each}" for each in self.failed]
        return " ".join(parts) or "Every application has its run."


def reap(
    client: "SparkApplicationClient",
    instance: DagsterInstance,
    code_location: str | None = None,
    grace: float = GRACE_SECONDS,
    bucket: "PipesBucket | None" = None,
) -> Reaped:
    """Delete this instance's applications whose run, and all that retry it, are finished or unknown.

    Those that have ended stay until their `time_to_live` is over; without one they go as well. What
    another instance of Dagster runs in the same namespace is left alone.

    Args:
        client: of the namespace.
        instance: knows the runs.
        code_location: only the applications of this one, and those of runs that have none, such as
            `dagster asset materialize`; None, of all.
        grace: seconds since the creation, and since the end of its runs, at least.
        bucket: where messages are: those of applications that are gone are deleted; None, none are.

    Raises:
        KubernetesApiError: the applications can't be listed.
        MessagesUnreadableError: the messages can't be listed.
    """
    # Before the applications: of what is created meanwhile, no folder is seen.
    folders = bucket.folders(client.namespace) if bucket else {}
    applications = client.find(patience=PATIENCE_SECONDS)
    failed: list[str] = []
    deleted = [
        app.name
        for app in applications
        if _is_ours(app, instance, code_location)
        and _is_due(app, instance, grace)
        and _is_done(app.name, failed, partial(client.delete, app.name, wait=0))
    ]
    left = {name for name, written in folders.items() if _age(written) > grace}
    cleared = [
        name
        for name in sorted(left - {app.name for app in applications})
        if bucket
        and _is_done(name, failed, partial(_clear, bucket.folder(client.namespace, name), instance))
    ]
    return Reaped(tuple(deleted), tuple(failed), tuple(cleared))


def build_reaper_sensor(
    name: str = "spark_application_reaper",
    resource_key: str = "spark_operator",
    minimum_interval_seconds: int = 300,
    grace: float = GRACE_SECONDS,
    default_status: DefaultSensorStatus = DefaultSensorStatus.RUNNING,
) -> SensorDefinition:
    """Return a sensor that deletes what no run of its instance and code location owns.

    Args:
        name: of the sensor.
        resource_key: the SparkOperatorResource in the definitions.
        minimum_interval_seconds: between two rounds.
        grace: as of `reap`.
        default_status: RUNNING, it works from the first deployment on.
    """

    @sensor(
        name=name,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys={resource_key},
        description="Deletes Spark applications whose run has ended or is unknown.",
    )
    def reaper(context: SensorEvaluationContext) -> SkipReason:
        operator: SparkOperatorResource = getattr(context.resources, resource_key)
        origin = context.code_location_origin
        location = origin.location_name if origin else None
        reaped = reap(operator.client(), context.instance, location, grace, operator.bucket())
        for each in reaped.failed:
            context.log.error("%s", each)
        return SkipReason(str(reaped))

    return reaper


def _is_ours(app: "Application", instance: DagsterInstance, code_location: str | None) -> bool:
    ours = instance_id(instance)
    location = app.labels.get(LOCATION_LABEL)
    return (
        ours is not None
        and app.labels.get(INSTANCE_LABEL) == ours
        and RUN_LABEL in app.labels
        and (not code_location or location in (None, label_value(code_location)))
    )


def _is_due(app: "Application", instance: DagsterInstance, grace: float) -> bool:
    goes_by_itself = app.state.is_final and app.manifest["spec"].get("timeToLiveSeconds")
    if goes_by_itself or app.is_deleting:
        return False
    roots = {app.labels.get(ROOT_RUN_LABEL) or app.labels[RUN_LABEL], app.labels[RUN_LABEL]}
    runs = [record for root in roots for record in family(instance, root)]
    if any(not record.dagster_run.is_finished for record in runs):
        return False
    ends = [datetime.fromtimestamp(record.end_time, UTC) for record in runs if record.end_time]
    age = min(map(_age, [datetime.fromisoformat(app.created_at), *ends]))
    return age > (max(grace, RETRY_SECONDS) if _is_retry_promised(runs) else grace)


def _is_retry_promised(runs: "Sequence[RunRecord]") -> bool:
    """Return whether Dagster will retry one of them, and has not begun to."""
    retried = {record.dagster_run.parent_run_id for record in runs}
    promised = [each.dagster_run for each in runs if each.dagster_run.tags.get(RETRY_TAG) == "true"]
    return any(run.run_id not in retried for run in promised)


def _clear(folder: "PipesFolder", instance: DagsterInstance) -> bool:
    """Delete messages of a run of this instance; another one may share the bucket."""
    context = folder.read_context() or {}
    run = instance.get_run_by_id(context["run_id"]) if context.get("run_id") else None
    if run is None or not run.is_finished:
        return False
    folder.clear()
    return True


def _is_done(name: str, failed: list[str], act: "Callable[[], bool | None]") -> bool:
    """Return whether `act` did it; why it could not goes to `failed`."""
    try:
        return act() is not False
    except errors.SparkOperatorError as error:
        failed.append(f"{name}: {error}")
        return False


def _age(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
