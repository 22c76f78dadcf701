"""A step of a run that is cancelled ends for good.

Dagster goes by a step's retry policy when it is interrupted, too: in the process of a cancelled run
the tables were begun again after 30 s, and their second SparkApplication outlived the run's pod.
"""

from collections.abc import Generator
from contextlib import contextmanager

from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterRunStatus,
    Failure,
)


@contextmanager
def not_retried_if_cancelled(context: AssetExecutionContext) -> Generator[None]:
    """Let an interrupt of a cancelled run fail the step, past its retry policy.

    Any other interrupt, such as that of a node that is drained, is raised as it is.

    Args:
        context: of the step.

    Raises:
        Failure: the run is being cancelled.
    """
    try:
        yield
    except DagsterExecutionInterruptedError as interrupt:
        run = context.instance.get_run_by_id(context.run.run_id)
        if run is None or run.status is not DagsterRunStatus.CANCELING:
            raise
        raise Failure("The run was cancelled.", allow_retries=False) from interrupt
