"""The custom messages of an application, for whoever iterates over them."""

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from dagster._core.pipes.client import PipesClientCompletedInvocation


class ApplicationStream(Iterator[Any]):
    """The custom messages of an application, as they come.

    Ending the iteration early (by leaving a `with` block of it, `close`, or dropping it) cancels the
    application.

    Attributes:
        invocation: results and metadata; None until the application has completed.
    """

    def __init__(self, messages: "Callable[[ApplicationStream], Generator[Any]]") -> None:
        self.invocation: PipesClientCompletedInvocation | None = None
        self.metadata: Mapping[str, Any] = {}
        self._messages = messages(self)

    def __next__(self) -> Any:
        """Return the next payload, in the order in which the driver reported them."""
        return next(self._messages)

    def close(self) -> None:
        """Delete the application with its pods if it has not ended, and wait a bounded time."""
        self._messages.close()

    def __enter__(self) -> "ApplicationStream":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Close; an error of the block carries what could not be deleted as a note."""
        if error is None:
            self.close()
            return
        try:
            self._messages.throw(error)
        except BaseException as raised:
            if raised is not error:
                raise
