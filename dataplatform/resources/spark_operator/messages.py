"""Dagster Pipes through S3: the context that a driver reads, the messages that it writes.

Keys are made from the application's name, so that they outlive a dead driver and a dead Dagster
pod: whoever follows the application next reads the same messages from the first one on. When an
application was followed to its end, a marker says so, and then they are deleted.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from dagster import DagsterError, PipesMessageHandler
from dagster_aws.pipes import PipesS3ContextInjector, PipesS3MessageReader
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD, PipesContextData, PipesParams

from .api import Clock
from .errors import MessagesUnreadableError

S3Client = Any
"""A boto3 client of S3; boto3 has no types of its own."""

_CONTEXT: Final = "context.json"
_MESSAGES: Final = "messages"
_DRIVER: Final = "driver"
_DONE: Final = "done"
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_FINAL_PAUSE: Final = 0.1
_LAST_READ_SECONDS: Final = 30.0
_PAGE: Final = 1000


@dataclass(frozen=True)
class PipesBucket:
    """Where the contexts and messages of applications are.

    Attributes:
        bucket: its name.
        prefix: the folder, without slashes at its ends.
        connect: returns a boto3 client of S3; asked when it is needed first.
    """

    bucket: str
    prefix: str
    connect: Callable[[], S3Client]

    def folder(self, namespace: str, name: str) -> "PipesFolder":
        """Return the place of one application."""
        parts = [self.prefix.strip("/"), namespace, name]
        return PipesFolder(self.bucket, "/".join(part for part in parts if part), self.connect())

    def folders(self, namespace: str) -> dict[str, datetime]:
        """Return the applications of a namespace that have a folder, and when each was written last.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        root = self.folder(namespace, "")
        found: dict[str, datetime] = {}
        for each in root.objects():
            name = each["Key"].removeprefix(f"{root.prefix}/").partition("/")[0]
            found[name] = max(each["LastModified"], found.get(name, each["LastModified"]))
        return found


@dataclass(frozen=True)
class PipesFolder:
    """The context and the messages of one application."""

    bucket: str
    prefix: str
    s3: S3Client

    @property
    def context_key(self) -> str:
        """The key of the context."""
        return f"{self.prefix}/{_CONTEXT}"

    @property
    def messages_prefix(self) -> str:
        """What the keys of the messages begin with: `…/1.json` follows."""
        return f"{self.prefix}/{_MESSAGES}"

    def __str__(self) -> str:
        """Return its address."""
        return f"s3://{self.bucket}/{self.prefix}"

    def write_context(self, context: Mapping[str, Any]) -> None:
        """Write what the driver is told.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        self._write(_CONTEXT, json.dumps(context))

    def read_context(self) -> Mapping[str, Any] | None:
        """Return what the driver was told; None where nothing was written.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        body = self._read(self.context_key)
        return None if body is None else json.loads(body)

    def is_open(self) -> bool:
        """Return whether the application can be followed, and was not to its end yet."""
        done = self._read(f"{self.prefix}/{_DONE}") is not None
        return not done and self._read(self.context_key) is not None

    def close(self) -> None:
        """Mark that the application was followed to its end.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        self._write(_DONE, "")

    def write_driver(self, submission: str) -> None:
        """Keep which driver writes the messages.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        self._write(_DRIVER, submission)

    def read_driver(self) -> str | None:
        """Return which driver wrote the messages; None where none was seen to run."""
        body = self._read(f"{self.prefix}/{_DRIVER}")
        return None if body is None else body.decode()

    def read_messages(self, index: int) -> str | None:
        """Return the chunk of messages with this number, from 1; None while it is not written."""
        body = self._read(f"{self.messages_prefix}/{index}.json")
        return None if body is None else body.decode()

    def clear(self) -> None:
        """Mark the application as followed to its end, and delete context and messages.

        Raises:
            MessagesUnreadableError: the store refused it; the mark stays.
        """
        self.close()
        done = f"{self.prefix}/{_DONE}"
        keys = [key for each in self.objects() if (key := each["Key"]) != done]
        for start in range(0, len(keys), _PAGE):
            self._delete(keys[start : start + _PAGE])
        self._delete([done])

    def objects(self) -> list[Mapping[str, Any]]:
        """Return what is in it, as S3 lists it.

        Raises:
            MessagesUnreadableError: the store refused it.
        """
        with self._explained("list"):
            pages = self.s3.get_paginator("list_objects_v2")
            found = pages.paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
            return [each for page in found for each in page.get("Contents", [])]

    def _delete(self, keys: Sequence[str]) -> None:
        objects = [{"Key": key} for key in keys]
        with self._explained("delete the messages in"):
            answer = self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": objects})
            # The answer is 200 even where each key is refused.
            for refused in answer.get("Errors") or ():
                raise ClientError({"Error": refused}, "DeleteObjects")

    def _write(self, name: str, text: str) -> None:
        with self._explained(f"take `{name}` for"):
            key = f"{self.prefix}/{name}"
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode())

    def _read(self, key: str) -> bytes | None:
        with self._explained("read"):
            try:
                return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return None
                raise

    @contextmanager
    def _explained(self, verb: str) -> Generator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise MessagesUnreadableError(
                str(self),
                f"the object store did not {verb} it: {error}",
                "look whether it is up, the bucket exists, and the key may get, put, delete and list"
                " below the prefix: without list, some stores refuse what does not exist yet",
            ) from error


class FolderContextInjector(PipesS3ContextInjector):
    """Writes the context to an application's folder.

    Args:
        folder: the application's.
        write: False, leave the context of the attempt before, which the driver has or will read.
    """

    def __init__(self, folder: PipesFolder, write: bool = True) -> None:
        super().__init__(bucket=folder.bucket, client=folder.s3, key_prefix=folder.prefix)
        self._folder = folder
        self._write = write

    @contextmanager
    def inject_context(self, context: PipesContextData) -> Generator[PipesParams]:
        """Write the context and give its place."""
        if self._write:
            self._folder.write_context(context)
        yield {"bucket": self._folder.bucket, "key": self._folder.context_key}


class Bell:
    """Wakes whoever waits for messages; silent until somebody does."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None

    def ring(self) -> None:
        """Wake the listener."""
        if self.listener:
            self.listener()


class FolderMessageReader(PipesS3MessageReader):
    """Reads the messages from an application's folder as they come, and the last ones at the end.

    Unlike the reader of dagster-aws, it ends at once when the driver is done, and a store that
    refuses a read is an error, not silence.

    Args:
        folder: the application's.
        bell: rung after each chunk, from the reader's thread.
        poll: seconds between two looks.
        patience: seconds for a store that does not answer.
    """

    def __init__(
        self,
        folder: PipesFolder,
        bell: Bell,
        poll: float = 1.0,
        patience: float = 120,
    ) -> None:
        super().__init__(interval=poll, bucket=folder.bucket, client=folder.s3)
        self._folder = folder
        self._bell = bell
        self._patience = patience
        self._ending = threading.Event()
        self._grace = Clock(None)
        self._thread: threading.Thread | None = None
        self.failure: Exception | None = None
        self.closing_exception: Mapping[str, Any] | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Generator[PipesParams]:
        """Read in a thread until the block ends; gives the place where the driver writes."""
        self._thread = threading.Thread(
            target=self._run, args=(handler,), name=f"messages of {self._folder}", daemon=True
        )
        self._thread.start()
        try:
            yield {"bucket": self._folder.bucket, "key_prefix": self._folder.messages_prefix}
        finally:
            self.finish(0)

    def finish(self, grace: float) -> None:
        """Read what is there, and end: the driver writes no more.

        Args:
            grace: seconds to go on looking where the closing message is missing.
        """
        if self._thread and not self._ending.is_set():
            self._grace = Clock(grace)
            self._ending.set()
            self._thread.join(grace + _LAST_READ_SECONDS)
            if self._thread.is_alive():
                self.failure = MessagesUnreadableError(
                    str(self._folder),
                    f"the object store did not answer for {_LAST_READ_SECONDS:.0f} s",
                    "look whether it is up; the messages stay there for the next attempt",
                )

    def _run(self, handler: PipesMessageHandler) -> None:
        try:
            self._read_all(handler)
        except (MessagesUnreadableError, DagsterError, TypeError, ValueError, KeyError) as error:
            self.failure = error
            handler.report_pipes_framework_exception("messages of the Spark driver", sys.exc_info())
        finally:
            self._bell.ring()

    def _read_all(self, handler: PipesMessageHandler) -> None:
        while True:
            # Asked before the look: what was written before the end is seen by this look.
            ending = self._ending.is_set()
            if self._read_next(handler):
                continue
            if handler.received_closed_message or (ending and self._grace.is_over):
                return
            if ending:
                time.sleep(_FINAL_PAUSE)
            else:
                self._ending.wait(self.interval)

    def _read_next(self, handler: PipesMessageHandler) -> bool:
        chunk = self._patiently(self.counter)
        if chunk is None:
            return False
        self.counter += 1
        for line in chunk.splitlines():
            self._handle(handler, json.loads(line))
        self._bell.ring()
        return True

    def _patiently(self, index: int) -> str | None:
        """Read a chunk; a store that does not answer is asked again for a while."""
        clock = Clock(self._patience)
        while True:
            try:
                return self._folder.read_messages(index)
            except MessagesUnreadableError as error:
                final = not _is_transient(error) or clock.is_over
                if final or self._ending.is_set():
                    raise
                self._ending.wait(self.interval)

    def _handle(self, handler: PipesMessageHandler, message: Any) -> None:
        if PIPES_PROTOCOL_VERSION_FIELD not in message:
            raise ValueError(f"{self._folder} holds something that is no Pipes message")
        if message["method"] == "closed":
            self.closing_exception = (message.get("params") or {}).get("exception")
        handler.handle_message(message)

    @property
    def expected_writer_count(self) -> int:
        """One driver writes. Dagster's own answer is the same, with a warning in each step's log."""
        return 1

    def no_messages_debug_text(self) -> str:
        """Return where messages were looked for."""
        return (
            f"Looked for messages in {self._folder}. Where no driver ran, the error says why. One that"
            " ran has to open Pipes with PipesS3ContextLoader and PipesS3MessageWriter, and its key has"
            " to be allowed to read and write there."
        )


def _is_transient(error: MessagesUnreadableError) -> bool:
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return True
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return status >= 500 or status == 429  # noqa: PLR2004
