"""The rotation job: one operation that goes through the secrets and says when each was rotated."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    Config,
    DefaultScheduleStatus,
    Failure,
    JobDefinition,
    MetadataValue,
    OpExecutionContext,
    ScheduleDefinition,
    in_process_executor,
    job,
    op,
)
from pydantic import Field

from dataplatform.lake.secrets import SecretError
from dataplatform.resources.rotation import RotationResource
from dataplatform.resources.vault import VaultResource

if TYPE_CHECKING:
    from dataplatform.vault.rotation import Rotated

JOB: Final = "rotation_job"


class RotationConfig(Config):
    """What to rotate.

    Attributes:
        secrets: paths such as `minio/platform`; all where empty.
        min_age_days: a secret younger than this is not replaced, since the slot that would be
            overwritten may still be in use. Long-lived servers have to be restarted after a
            rotation and before the next.
    """

    secrets: list[str] = Field(default_factory=list)
    min_age_days: float = Field(default=7.0, ge=0)


@op
def rotate_secrets(
    context: OpExecutionContext,
    config: RotationConfig,
    rotation: RotationResource,
    rotation_vault: VaultResource,
) -> None:
    """Rotate each secret; one that can't be rotated does not keep the others from it.

    Raises:
        Failure: a secret could not be rotated. It is as it was, and running again goes on there.
    """
    from dataplatform.vault.rotation import Rotation

    consumers = rotation.consumers(rotation_vault)
    mechanism = Rotation(rotation_vault.client, timedelta(days=config.min_age_days))
    left_out = rotation.left_out
    for path in left_out:
        context.log.info("%s: left, as %s is no MinIO", path, rotation.s3_endpoint)
    done: list[Rotated] = []
    failed: list[SecretError] = []
    for path in _chosen(config.secrets, list(consumers)):
        try:
            done.append(mechanism.rotate(consumers[path]))
        except SecretError as error:
            failed.append(error)
    for each in done:
        context.log.info("%s: %s", each.path, _said(each, config.min_age_days))
    if failed:
        said = "\n".join(map(str, failed))
        raise Failure(f"not rotated:\n{said}", _metadata(done, left_out), allow_retries=False)
    context.add_output_metadata(_metadata(done, left_out))


def build_rotation_job() -> JobDefinition:
    """Return the job that rotates the secrets; runs that are under way keep working."""

    @job(
        name=JOB,
        description=(
            "Gives MinIO's users and PostgreSQL's logins new secrets, and takes over a new CoinGecko"
            " key that was staged; what is in use stays valid until the next rotation."
        ),
        executor_def=in_process_executor,
    )
    def _rotation() -> None:
        rotate_secrets()

    return _rotation


def build_rotation_schedule(job: JobDefinition) -> ScheduleDefinition:
    """Return the monthly schedule, stopped: who starts it restarts the servers after it."""
    return ScheduleDefinition(
        name="rotation_schedule",
        job=job,
        cron_schedule="20 4 1 * *",
        execution_timezone="UTC",
        default_status=DefaultScheduleStatus.STOPPED,
        description="On the first of each month: new secrets for MinIO and PostgreSQL.",
    )


def _chosen(wanted: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    unknown = set(wanted) - set(known)
    if unknown:
        raise ValueError(
            f"no such secret here: {', '.join(sorted(unknown))}; there are {', '.join(known)}"
        )
    return wanted or known


def _said(each: "Rotated", min_age_days: float) -> str:
    """Return what became of a secret, in words."""
    now = f"version {each.version}" if each.version else "none is current"
    why = {
        "rotated": "",
        "young": f"; less than {min_age_days:g} days old (min_age_days)",
        "waiting": f"; no new one is staged at rotation/{each.path}",
    }
    return f"{each.outcome}, {now}{why[each.outcome]}"


def _metadata(done: "Sequence[Rotated]", left_out: Sequence[str]) -> Mapping[str, Any]:
    another_store = {path: MetadataValue.json({"outcome": "another store"}) for path in left_out}
    return another_store | {
        each.path: MetadataValue.json(
            {
                "outcome": each.outcome,
                "version": each.version,
                "rotated_at": each.rotated_at.isoformat() if each.rotated_at else None,
            }
        )
        for each in done
    }
