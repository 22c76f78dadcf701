"""The program that builds or maintains tables in a process of its own, such as Spark's driver.

    python -m dataplatform.lake.driver

Dagster Pipes says what to do and hears of each table as soon as it is published: through files
where its parameters name a path, through the object store where they name a bucket. Dagster itself
is not needed here. The exit code is 0 only if everything was done. SIGTERM ends the work and frees
the writers' lock.
"""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from io import StringIO
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from dagster_pipes import (
    PipesContext,
    PipesContextLoader,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    PipesEnvVarParamsLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesS3ContextLoader,
    PipesS3MessageWriter,
    PipesS3MessageWriterChannel,
    open_dagster_pipes,
)

from dataplatform.profiles import Settings, lake_place

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pyspark.sql import SparkSession

    from dataplatform.lake.orders import BuildOrder, MaintainOrder
    from dataplatform.lake.place import LakePlace

_log: Final = logging.getLogger(__name__)

Tell = Callable[["BaseModel"], None]


def main() -> int:
    """Do what Dagster says; return the exit code."""
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    settings = Settings()
    with _open_pipes(settings) as pipes:

        def tell(message: "BaseModel") -> None:
            pipes.report_custom_message(message.model_dump(mode="json"))

        return _obey(settings, dict(pipes.extras), tell)


def _end(number: int, frame: FrameType | None) -> None:
    """Leave through every `finally`: jobs are cancelled, the lock is freed, messages are sent."""
    del frame
    sys.exit(128 + number)


def _obey(settings: Settings, extras: dict[str, Any], tell: Tell) -> int:
    from dataplatform.lake.failures import members
    from dataplatform.lake.orders import BuildOrder, FailureMessage, read_order

    try:
        order = read_order(extras)
        place = lake_place(settings, order.origin)
        if isinstance(order, BuildOrder):
            _build(settings, place, order, tell)
        else:
            _maintain(settings, place, order, tell)
    except Exception as error:  # noqa: BLE001  who waits for it hears of it by message only
        _log.exception("failed")
        for failure in members(error):
            tell(FailureMessage.of(failure))
        return 1
    return 0


def _build(settings: Settings, place: "LakePlace", order: "BuildOrder", tell: Tell) -> None:
    from dataplatform.lake.build import Builder
    from dataplatform.lake.orders import ResultMessage
    from dataplatform.lake.plan import Lake
    from dataplatform.lake.spark import start_session
    from dataplatform.raw import all_endpoints
    from dataplatform.tables import all_specs

    lake = Lake.at(place, all_endpoints())

    def session() -> "SparkSession":
        return start_session(place, settings.spark_memory)

    with place.writer_lock(order.run_id) as still_writer:
        builder = Builder(lake, all_specs(), session, still_writer)
        with closing(builder.build(order.tables)) as results:
            for result in results:
                _log.info("%s: %s, %d rows", result.table, result.status, result.rows)
                tell(ResultMessage(result=result))


def _maintain(settings: Settings, place: "LakePlace", order: "MaintainOrder", tell: Tell) -> None:
    from dataplatform.lake.maintenance import Maintenance
    from dataplatform.lake.orders import MaintainedMessage
    from dataplatform.lake.spark import start_session

    with place.writer_lock(order.run_id):
        session = start_session(place, settings.spark_memory)
        maintenance = Maintenance(place.open_catalog(), lambda: session, order.retention)
        for name in order.tables:
            done = maintenance.maintain(name)
            _log.info("%s: %s", name, "maintained" if done else "not built yet")
            tell(MaintainedMessage(table=name, done=done))


def _open_pipes(settings: Settings) -> PipesContext:
    params = PipesEnvVarParamsLoader()
    if not params.is_dagster_pipes_process():
        raise SystemExit(
            "Dagster did not start this program: its environment names no Pipes context."
            " Remedy: materialize tables by Dagster, on the profile cluster."
        )
    loader: PipesContextLoader = PipesDefaultContextLoader()
    writer: PipesMessageWriter[Any] = PipesDefaultMessageWriter()
    if "bucket" in params.load_context_params():
        loader = PipesS3ContextLoader(_s3(settings))
    if "bucket" in params.load_messages_params():
        writer = PromptS3MessageWriter(_s3(settings))
    return open_dagster_pipes(context_loader=loader, message_writer=writer, params_loader=params)


def _s3(settings: Settings) -> Any:
    from dataplatform.lake.store.s3 import s3_client
    from dataplatform.resources.servers import find_servers

    return s3_client(find_servers(settings).access)


class PromptS3MessageWriter(PipesS3MessageWriter):
    """Puts each message into the store before the work goes on; its parent gathers them in a thread.

    So nothing that was told is lost with a killed process, and a store that fails is noticed.
    """

    def make_channel(self, params: Any) -> PipesS3MessageWriterChannel:
        """Return the channel to the bucket and prefix that Dagster names."""
        return _PromptChannel(self._client, params["bucket"], params.get("key_prefix"))


class _PromptChannel(PipesS3MessageWriterChannel):
    def write_message(self, message: PipesMessage) -> None:
        """Put one message as an object of its own."""
        with _one_at_a_time:
            self.upload_messages_chunk(StringIO(json.dumps(message)), self._counter)
            self._counter += 1

    @contextmanager
    def buffered_upload_loop(self) -> Generator[None]:
        """Start no thread: nothing is gathered."""
        yield


_one_at_a_time: Final = threading.Lock()

if __name__ == "__main__":
    sys.exit(main())
