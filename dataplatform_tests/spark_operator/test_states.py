import json

import pytest
from pydantic import ValidationError

from dataplatform.resources.spark_operator.client import Application
from dataplatform.resources.spark_operator.states import ApplicationState, Deadlines
from dataplatform_tests.spark_operator.operator import TRACES


def test_every_state_that_is_not_final_has_a_deadline() -> None:
    unbounded = [state for state in ApplicationState if Deadlines().of(state) is None]

    assert unbounded == [ApplicationState.COMPLETED, ApplicationState.FAILED]


def test_every_recorded_state_is_known_by_name() -> None:
    for trace in TRACES.glob("*.jsonl"):
        for line in trace.read_text().splitlines():
            status = json.loads(line)["status"]
            state = Application({"status": status}).state
            assert state is not ApplicationState.UNKNOWN
            assert state.value == ((status or {}).get("applicationState") or {}).get("state", "")


@pytest.mark.parametrize("text", ["HIBERNATING", "running"])
def test_a_state_of_a_newer_operator_is_unknown_and_has_a_deadline(text: str) -> None:
    assert ApplicationState.parse(text) is ApplicationState.UNKNOWN


@pytest.mark.parametrize("wrong", [{"submited": 5}, {"submitted": 0}, {"running": -1}])
def test_a_deadline_that_means_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Deadlines.model_validate(wrong)
