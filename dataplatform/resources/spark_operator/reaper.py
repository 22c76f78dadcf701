"""A sensor that deletes applications which no run owns any more.

An application outlives its run when the Dagster pod was killed, and nobody tried the run again. Its
labels say whose it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from dataplatform.resources.spark_operator import errors
from dataplatform.resources.spark_operator.ownership import (
    LOCATION_LABEL,
    MANAGED_BY,
    MANAGED_LABEL,
    ROOT_RUN_LABEL,
    RUN_LABEL,
    active_runs,
    label_value,
)

if TYPE_CHECKING:
    from dataplatform.resources.spark_operator.client import Application, SparkApplicationClient
    from dataplatform.resources.spark_operator.resource import SparkOperatorResource

GRACE_SECONDS: Final = 600.0
"""An application is left alone for so long: its run's retry may be about to begin."""


@dataclass(frozen=True)
class Reaped:
    """What one round did.

    Attributes:
        deleted: names of applications.
        failed: names, each with why it could not be deleted.
    """

    deleted: tuple[str, ...]
    failed: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as a sentence."""
        parts = [f"Deleted {', '.join(self.deleted)}."] if self.deleted else []
        parts += [f"Not deleted: {each}" for each in self.failed]
        return " ".join(parts) or "Every application has its run."


def reap(
    client: "SparkApplicationClient",
    instance: DagsterInstance,
    code_location: str | None = None,
    grace: float = GRACE_SECONDS,
    forget: "Callable[[Application], None] | None" = None,
) -> Reaped:
    """Delete the applications whose run, and all that retry it, are finished or unknown.

    Those that have ended stay until their `time_to_live` is over; without one they go as well.

    Args:
        client: of the namespace.
        instance: knows the runs.
        code_location: only the applications of this one; None, of all.
        grace: seconds that an application has to be old at least.
        forget: called for each that was deleted: its messages may go too.

    Raises:
        KubernetesApiError: the applications can't be listed.
    """
    selector = f"{MANAGED_LABEL}={MANAGED_BY},{RUN_LABEL}"
    if code_location:
        selector += f",{LOCATION_LABEL}={label_value(code_location)}"
    deleted, failed = [], []
    for app in client.find(selector):
        if not _is_due(app, grace) or _is_owned(app, instance):
            continue
        try:
            client.delete(app.name, wait=0)
            if forget:
                forget(app)
            deleted.append(app.name)
        except errors.SparkOperatorError as error:
            failed.append(f"{app.name}: {error}")
    return Reaped(tuple(deleted), tuple(failed))


def build_reaper_sensor(
    name: str = "spark_application_reaper",
    resource_key: str = "spark_operator",
    minimum_interval_seconds: int = 300,
    grace: float = GRACE_SECONDS,
    default_status: DefaultSensorStatus = DefaultSensorStatus.RUNNING,
) -> SensorDefinition:
    """Return a sensor that deletes what no run of its code location owns.

    Args:
        name: of the sensor.
        resource_key: the SparkOperatorResource in the definitions.
        minimum_interval_seconds: between two rounds.
        grace: seconds that an application has to be old at least.
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
        bucket = operator.bucket()
        reaped = reap(
            operator.client(),
            context.instance,
            origin.location_name if origin else None,
            grace,
            lambda app: bucket.folder(app.namespace, app.name).clear(),
        )
        for each in reaped.failed:
            context.log.error("%s", each)
        return SkipReason(str(reaped))

    return reaper


def _is_due(app: "Application", grace: float) -> bool:
    created = datetime.fromisoformat(app.created_at)
    old = (datetime.now(UTC) - created).total_seconds() > grace
    goes_by_itself = app.state.is_final and app.manifest["spec"].get("timeToLiveSeconds")
    return old and not goes_by_itself and not app.is_deleting


def _is_owned(app: "Application", instance: DagsterInstance) -> bool:
    """Return whether a run that is not finished may still want it."""
    root = app.labels.get(ROOT_RUN_LABEL) or app.labels[RUN_LABEL]
    return bool(active_runs(instance, root) | active_runs(instance, app.labels[RUN_LABEL]))
