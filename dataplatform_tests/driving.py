"""Runs the driver's program in a process of its own, without Dagster, through Pipes in files."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    encode_param,
)
from pydantic import BaseModel

from dataplatform.lake.manifest import RawZone
from dataplatform.raw import all_endpoints
from dataplatform.raw.recorded import land_recordings

# As `-m` does it, on a machine that has no Dagster.
_PROGRAM: Final = (
    "import runpy, sys; sys.modules['dagster'] = None;"
    " runpy.run_module('dataplatform.lake.driver', run_name='__main__')"
)
LANDED: Final = ("global", "coins_list", "coins_markets")
TABLES: Final = ("global_market", "coins", "market_snapshots")


def land(zone: RawZone) -> None:
    """Land the recordings that the tables read."""
    for name in LANDED:
        land_recordings(zone, all_endpoints()[name])


@dataclass(frozen=True)
class Driven:
    """How the program ended: what it told, as JSON, and what it printed."""

    code: int
    told: list[Any]
    closed: bool
    printed: str


class DriverProcess:
    """The driver over a local lake, started."""

    def __init__(
        self,
        home: Path,
        work: Path,
        order: BaseModel | dict[str, Any],
        command: Sequence[str] = (sys.executable, "-c", _PROGRAM),
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        extras = order.model_dump(mode="json") if isinstance(order, BaseModel) else order
        context, self._messages = work / "context.json", work / "messages.jsonl"
        context.write_text(json.dumps({"run_id": "r", "extras": extras}))
        self._messages.touch()
        env = {k: v for k, v in os.environ.items() if not k.startswith("DATAPLATFORM_")}
        env |= {
            "DATAPLATFORM_HOME": str(home),
            "DATAPLATFORM_SPARK_MEMORY": "512m",
            DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({"path": str(context)}),
            DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({"path": str(self._messages)}),
        }
        self.process = subprocess.Popen(
            list(command),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self) -> Driven:
        printed, _ = self.process.communicate(timeout=240)
        messages = [json.loads(line) for line in self._messages.read_text().splitlines()]
        told = [m["params"]["payload"] for m in messages if m["method"] == "report_custom_message"]
        closed = any(m["method"] == "closed" for m in messages)
        return Driven(self.process.returncode, told, closed, printed)
