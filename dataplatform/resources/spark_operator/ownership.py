"""Whose an application is: its labels, its name, and who may take it over."""

import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dagster import (
    AssetExecutionContext,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    OpExecutionContext,
    RunRecord,
    RunsFilter,
)
from dagster_pipes import PipesExtras

from .spec import SparkApplication

Context = OpExecutionContext | AssetExecutionContext

RUN_LABEL: Final = "dagster/run-id"
ROOT_RUN_LABEL: Final = "dagster/root-run-id"
STEP_LABEL: Final = "dagster/step-key"
LOCATION_LABEL: Final = "dagster/code-location"
INSTANCE_LABEL: Final = "dagster/instance"
MANAGED_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "dagster"
DIGEST_ANNOTATION: Final = "dagster/spec-digest"
NONCE_ANNOTATION: Final = "dagster/submission"

_ROOT_RUN_TAG: Final = "dagster/root_run_id"

# Spark appends `-<16 hex>-driver-svc` (28 characters) for a service, which may have 63, and
# `-<16 hex>` for executors, whose prefix may have 47.
NAME_LENGTH: Final = 30
_LABEL_LENGTH: Final = 63
_LABEL: Final = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")


def op_context(context: Context) -> OpExecutionContext:
    """Return the op's context: of an asset's, Dagster's own Pipes calls deprecated properties."""
    if isinstance(context, AssetExecutionContext):
        return context.op_execution_context
    return context


@dataclass(frozen=True)
class Owner:
    """The step of a run that an application works for.

    Attributes:
        run_id: of the run.
        root_run_id: of the run that this one retries, or of the run itself.
        step_key: of the step.
        code_location: where the step's code is loaded from; None where it is not known.
        instance: of Dagster; None where it has no identity.
    """

    run_id: str
    root_run_id: str
    step_key: str
    code_location: str | None = None
    instance: str | None = None

    @classmethod
    def of(cls, context: OpExecutionContext) -> "Owner":
        """Return whom a context stands for."""
        run = context.run
        return cls(
            run.run_id,
            run.root_run_id or run.tags.get(_ROOT_RUN_TAG) or run.run_id,
            context.get_step_execution_context().step.key,
            code_location(run),
            instance_id(context.instance),
        )

    def labels(self) -> dict[str, str]:
        """Return the labels of the application, its driver and its executors."""
        return self._shared() | {RUN_LABEL: label_value(self.run_id)}

    def selector(self) -> str:
        """Return the label selector of all attempts at this step, in whichever run."""
        return ",".join(f"{key}={value}" for key, value in self._shared().items())

    def new_name(self, prefix: str | None = None) -> str:
        """Return a name that no other run or attempt has.

        Args:
            prefix: what the name begins with; None, the step's key.
        """
        run = re.sub(r"[^a-z0-9]", "", self.run_id.lower())[:8]
        suffix = f"-{run}-{secrets.token_hex(3)}"
        readable = re.sub(r"[^a-z0-9]+", "-", (prefix or self.step_key).lower())
        # A service's name begins with a letter.
        readable = re.sub(r"^[^a-z]+", "", readable)[: NAME_LENGTH - len(suffix)].strip("-")
        return f"{readable or 'spark'}{suffix}"

    def _shared(self) -> dict[str, str]:
        labels = {
            MANAGED_LABEL: MANAGED_BY,
            ROOT_RUN_LABEL: label_value(self.root_run_id),
            STEP_LABEL: label_value(self.step_key),
        }
        if self.code_location:
            labels[LOCATION_LABEL] = label_value(self.code_location)
        if self.instance:
            labels[INSTANCE_LABEL] = self.instance
        return labels


def code_location(run: DagsterRun) -> str | None:
    """Return the name of the code location that a run was launched from."""
    origin = run.remote_job_origin
    if origin:
        return origin.repository_origin.code_location_origin.location_name
    return os.environ.get("DAGSTER_CLOUD_LOCATION_NAME")


def instance_id(instance: DagsterInstance) -> str | None:
    """Return what tells an instance of Dagster from others: whose database its runs are in.

    None where the storage has no identity, as that of Dagster+ has none.
    """
    ask = getattr(instance.run_storage, "get_run_storage_id", None)
    return hashlib.sha256(ask().encode()).hexdigest()[:16] if ask else None


def family(instance: DagsterInstance, root_run_id: str) -> list[RunRecord]:
    """Return a run and all that retry it, as far as they are known."""
    root = instance.get_run_record_by_id(root_run_id)
    retries = instance.get_run_records(RunsFilter(tags={_ROOT_RUN_TAG: root_run_id}))
    return [*([root] if root else []), *retries]


def active_runs(instance: DagsterInstance, root_run_id: str) -> set[str]:
    """Return the ids of the runs that are not finished, of a run and all that retry it."""
    runs = [record.dagster_run for record in family(instance, root_run_id)]
    return {run.run_id for run in runs if not run.is_finished}


def is_retried_when_interrupted(instance: DagsterInstance, run_id: str) -> bool:
    """Return whether Dagster runs it again when its process is told to end.

    So it is with what a launcher started, unless somebody cancelled it: a node is drained. What a
    person started in a shell or a script nobody begins again.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.remote_job_origin is None:
        return False
    canceled = run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
    return not canceled and (instance.run_retries_enabled or instance.run_will_resume(run_id))


def digest_of(
    context: OpExecutionContext, application: SparkApplication, extras: PipesExtras
) -> str:
    """Return by what the next attempt at a step knows that an application does the same work."""
    return application.digest(_without(context.run_id, extras), _selection(context))


def _without(run_id: str, value: Any) -> Any:
    """Return extras without the run's id: it is all that a retry changes."""
    if isinstance(value, str):
        return value.replace(run_id, "")
    if isinstance(value, Mapping):
        return {key: _without(run_id, each) for key, each in value.items()}
    return [_without(run_id, each) for each in value] if isinstance(value, list | tuple) else value


def _selection(context: OpExecutionContext) -> list[Any]:
    keys = sorted(map(str, context.selected_asset_keys)) if context.has_assets_def else []
    return [keys, str(context.partition_key_range) if context.has_partition_key else None]


def label_value(text: str) -> str:
    """Return `text` as a label may hold it; texts that differ stay different.

    See https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set.
    """
    if not text or _LABEL.match(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[: _LABEL_LENGTH - 9].strip("-._")
    return f"{kept}-{digest}" if kept else digest
