"""What a build in another process is told to do, and what it tells of it: JSON both ways.

Each message is sent as soon as what it tells is done, so a process that dies has told of all that it
published. A failure comes back as the error that it was, as far as its type is known here.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, TypeAdapter

from dataplatform.lake.build import AuditFailedError, CommitConflictError, TableResult
from dataplatform.lake.failures import RemoteBuildError, is_permanent
from dataplatform.lake.jvm import JavaNotFoundError
from dataplatform.lake.maintenance import (
    Maintained,
    MaintenanceError,
    Retention,
    RetentionTooShortError,
)
from dataplatform.lake.manifest import Origin
from dataplatform.lake.place import NotConfiguredError
from dataplatform.lake.schema import SchemaChangeError
from dataplatform.lake.secrets import SecretError
from dataplatform.lake.server_errors import ServerFailedError, server_failure
from dataplatform.lake.writer_lock import LakeBusyError, LockLostError


class BuildOrder(BaseModel):
    """Build these tables of the lake of `origin`; `run_id` is named to those who wait for it."""

    do: Literal["build"] = "build"
    tables: list[str]
    origin: Origin
    run_id: str


class MaintainOrder(BaseModel):
    """Maintain these tables of the lake of `origin`."""

    do: Literal["maintain"] = "maintain"
    tables: list[str]
    origin: Origin
    run_id: str
    retention: Retention = Retention()


Order = BuildOrder | MaintainOrder


class ResultMessage(BaseModel):
    """A table was published, or is up to date."""

    kind: Literal["result"] = "result"
    result: TableResult


class MaintainedMessage(BaseModel):
    """A table was maintained; `done` is None where it is not built yet."""

    kind: Literal["maintained"] = "maintained"
    table: str
    done: Maintained | None


class FailureMessage(BaseModel):
    """A table, or all of the work, failed; `result` holds the checks of a failed audit."""

    kind: Literal["failure"] = "failure"
    type: str
    message: str
    permanent: bool
    result: TableResult | None = None

    @classmethod
    def of(cls, failure: BaseException) -> "FailureMessage":
        """Describe a failure; one by a server names it and what to do."""
        permanent = is_permanent(failure)
        told = failure if permanent else server_failure(failure) or failure
        result = told.result if isinstance(told, AuditFailedError) else None
        name = type(told).__name__
        return cls(type=name, message=str(told), permanent=permanent, result=result)

    def error(self) -> Exception:
        """Return the error that this tells of."""
        if self.result is not None:
            return AuditFailedError(self.result)
        kind = _KNOWN.get(self.type)
        if kind is None:
            return RemoteBuildError(self.type, self.message, transient=not self.permanent)
        # Not by its own constructor, which would write the message that is there already.
        return kind.__new__(kind, self.message)


Message = Annotated[ResultMessage | MaintainedMessage | FailureMessage, Field(discriminator="kind")]
_ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="do")])
_MESSAGE: Final[TypeAdapter[ResultMessage | MaintainedMessage | FailureMessage]] = TypeAdapter(
    Message
)
_KNOWN: Final[dict[str, type[Exception]]] = {
    kind.__name__: kind
    for kind in (
        CommitConflictError,
        JavaNotFoundError,
        LakeBusyError,
        LockLostError,
        MaintenanceError,
        NotConfiguredError,
        RetentionTooShortError,
        SchemaChangeError,
        SecretError,
        ServerFailedError,
    )
}


def read_order(extras: Any) -> Order:
    """Return the order that JSON holds.

    Raises:
        pydantic.ValidationError: it holds none.
    """
    return _ORDER.validate_python(extras)


def read_message(payload: Any) -> ResultMessage | MaintainedMessage | FailureMessage:
    """Return the message that JSON holds.

    Raises:
        pydantic.ValidationError: it holds none.
    """
    return _MESSAGE.validate_python(payload)


def raise_failures(told: Sequence[FailureMessage], cause: BaseException | None) -> None:
    """Raise what was told, as the build itself would have; nothing where there is none.

    Args:
        told: each failure.
        cause: how the process ended.

    Raises:
        Exception: the one failure.
        ExceptionGroup: several.
    """
    errors = [one.error() for one in told]
    if len(errors) > 1:
        causes = "; ".join(str(one).splitlines()[0] for one in errors)
        raise ExceptionGroup(f"{len(errors)} failed: {causes}", errors) from cause
    for error in errors:
        raise error from cause
