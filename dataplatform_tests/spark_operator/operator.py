"""The Spark Operator and a driver in a thread: it replays what the real operator wrote.

The recordings are status sequences of spark-operator 2.5.2; the driver in between is a function that
speaks Dagster Pipes with the code that a driver uses.
"""

import io
import json
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from dagster_pipes import (
    PipesContext,
    PipesMappingParamsLoader,
    PipesS3ContextLoader,
    PipesS3MessageWriter,
)

from dataplatform_tests.spark_operator.api_server import APPS, ApiServer, Json

TRACES = Path(__file__).parents[1] / "kubernetes/data/spark-operator/traces"
ENV = "spark.kubernetes.driverEnv."
ENDING = ("SUCCEEDING", "FAILING", "SUSPENDING", "INVALIDATING")
"""A driver that ran ends before these."""

Driver = Callable[[PipesContext], None]


class MemoryS3:
    """The calls of a boto3 client that are used here, over a dictionary.

    Attributes:
        objects: their contents.
        written: when each was written.
        refuse: an error's code by operation.
        undeletable: whether a deletion is answered well, with an error for each key: a key that
            may not delete is told so.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.written: dict[str, datetime] = {}
        self.refuse: dict[str, str] = {}
        self.undeletable = False

    def put_object(self, Bucket: str, Key: str, Body: bytes | str) -> None:  # noqa: N803
        self._check("PutObject")
        self.objects[f"{Bucket}/{Key}"] = Body.encode() if isinstance(Body, str) else Body
        self.written[f"{Bucket}/{Key}"] = datetime.now(UTC)

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self._check("GetObject")
        if f"{Bucket}/{Key}" not in self.objects:
            raise _error("NoSuchKey", 404, "GetObject")
        return {"Body": io.BytesIO(self.objects[f"{Bucket}/{Key}"])}

    def delete_objects(self, Bucket: str, Delete: Json) -> Json:  # noqa: N803
        self._check("DeleteObjects")
        keys = [each["Key"] for each in Delete["Objects"]]
        if self.undeletable:
            refused = {"Code": "AccessDenied", "Message": "Access Denied."}
            return {"Errors": [{"Key": key, **refused} for key in keys]}
        for key in keys:
            self.objects.pop(f"{Bucket}/{key}", None)
        return {"Deleted": [{"Key": key} for key in keys]}

    def get_paginator(self, _operation: str) -> "MemoryS3":
        return self

    def paginate(self, Bucket: str, Prefix: str) -> list[Json]:  # noqa: N803
        self._check("ListObjectsV2")
        keys = [key.removeprefix(f"{Bucket}/") for key in self.objects]
        found = [
            {"Key": key, "LastModified": self.written[f"{Bucket}/{key}"]}
            for key in keys
            if key.startswith(Prefix)
        ]
        return [{"Contents": found}] if found else [{}]

    def _check(self, operation: str) -> None:
        if operation in self.refuse:
            code = self.refuse[operation]
            raise _error(code, 403 if code == "AccessDenied" else 503, operation)


def _error(code: str, status: int, operation: str) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, operation)


def trace(recording: str, name: str) -> list[Json]:
    """Return the statuses of a recording, for an application of this name."""
    text = (TRACES / f"{recording}.jsonl").read_text().replace(f"{recording}-", f"{name}-")
    return [json.loads(line)["status"] for line in text.splitlines()]


def state(status: Json | None) -> str:
    return ((status or {}).get("applicationState") or {}).get("state", "")


def submission(status: Json) -> str:
    return status.get("submissionID") or str(status["executionAttempts"])


class StandIn:
    """Takes up each application that is created and plays a recording for it.

    Attributes:
        server: where the applications are.
        recording: silver, failing or badsubmit; or the statuses themselves.
        driver: runs between RUNNING and what follows, once for each submission; what it raises
            ends it.
        stop_at: a state that no other follows.
        before: called before each status is written.
    """

    def __init__(self, server: ApiServer, s3: MemoryS3) -> None:
        self.server = server
        self.s3 = s3
        self.recording: str | Sequence[Json] = "silver"
        self.driver: Driver = lambda _pipes: None
        self.opens_pipes = True
        self.closes_pipes = True
        self.stop_at: str | None = None
        self.before: Callable[[str], None] = lambda _state: None
        self.played: list[str] = []
        self._over = threading.Event()

    def play(self) -> None:
        seen: set[str] = set()
        while not self._over.wait(0.005):
            for name in self.server.names():
                app = self.server.objects.get((APPS, name))
                if app and app["metadata"]["uid"] not in seen:
                    seen.add(app["metadata"]["uid"])
                    if not app.get("status"):
                        self._play_one(name, app)

    def end(self) -> None:
        self._over.set()

    def _play_one(self, name: str, app: Json) -> None:
        statuses = (
            trace(self.recording, name) if isinstance(self.recording, str) else self.recording
        )
        running = ""
        for status in statuses:
            if state(status) == "RUNNING":
                running = submission(status)
            elif state(status) in ENDING and running == submission(status):
                running = ""
                self._drive(app)
            if (APPS, name) not in self.server.objects:
                return
            self.before(state(status))
            self.server.set_status(name, status)
            self.played.append(state(status))
            if state(status) == self.stop_at:
                return
            time.sleep(0.005)

    def _drive(self, app: Json) -> None:
        conf = app["spec"]["sparkConf"]
        env: Mapping[str, str] = {
            key.removeprefix(ENV): value for key, value in conf.items() if key.startswith(ENV)
        }
        if not self.opens_pipes:
            return
        pipes = PipesContext(
            PipesMappingParamsLoader(env),
            PipesS3ContextLoader(self.s3),
            PipesS3MessageWriter(self.s3, interval=0.01),
        )
        try:
            self.driver(pipes)
        except ValueError as error:
            pipes.__exit__(ValueError, error, error.__traceback__)
        else:
            if self.closes_pipes:
                pipes.close()
            else:
                self._wait_for_a_chunk()

    def _wait_for_a_chunk(self) -> None:
        """Let the writer, which compares whole seconds, upload what was reported."""
        there, deadline = self._chunks(), time.monotonic() + 30
        while self._chunks() == there and time.monotonic() < deadline:
            time.sleep(0.02)

    def _chunks(self) -> int:
        return len([key for key in list(self.s3.objects) if "/messages/" in key])


@contextmanager
def working(server: ApiServer, s3: MemoryS3) -> Generator[StandIn]:
    operator = StandIn(server, s3)
    thread = threading.Thread(target=operator.play)
    thread.start()
    try:
        yield operator
    finally:
        operator.end()
        thread.join()
