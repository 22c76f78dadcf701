"""What a failed build means: whether the same rows and the same code would fail again."""

import sys
from collections.abc import Sequence


class RemoteBuildError(RuntimeError):
    """A build failed in another process, by an error whose type is not at hand in this one.

    Args:
        kind: the error's type there.
        message: what it said.
        transient: whether the same build may succeed when it is tried again.
    """

    def __init__(self, kind: str, message: str, *, transient: bool) -> None:
        """Say what the other process said."""
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.transient = transient


def is_permanent(failure: BaseException) -> bool:
    """Whether the same rows and the same code fail again: a person has to look.

    An error that knows says so by its attribute `transient`.
    """
    from dataplatform.lake.build import AuditFailedError
    from dataplatform.lake.jvm import JavaNotFoundError
    from dataplatform.lake.schema import SchemaChangeError

    transient = getattr(failure, "transient", None)
    if isinstance(transient, bool):
        return not transient
    # Where pyspark is not loaded, nor installed perhaps, no error is one of its own.
    spark = sys.modules.get("pyspark.errors")
    wrong_sql = (spark.AnalysisException,) if spark else ()
    kinds = (AuditFailedError, SchemaChangeError, JavaNotFoundError, *wrong_sql)
    return isinstance(failure, kinds)


def members(error: BaseException) -> Sequence[BaseException]:
    """Return the failures of a build: a group's members, or the one error."""
    return error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
