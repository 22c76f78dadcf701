"""Work that partly depends on each other, in threads."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from dataplatform.lake.side_by_side import side_by_side

CHAIN = {"a": [], "b": ["a"], "c": ["b"], "x": [], "y": []}


def nothing() -> None:
    """The interruption of work that needs none."""


def run(work: Callable[[str], str], workers: int = 2) -> list[str]:
    return list(side_by_side(CHAIN, work, workers=workers, interrupt=nothing))


def test_each_ends_after_those_it_needs() -> None:
    ended = run(lambda name: name)
    assert sorted(ended) == sorted(CHAIN)
    assert all(ended.index(one) < ended.index(other) for one, other in pairwise("abc"))


def test_what_most_others_wait_for_is_begun_first() -> None:
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        return name

    run(work, workers=1)
    assert begun[:2] == ["a", "b"]


def test_two_run_at_once_and_never_three() -> None:
    meeting = threading.Barrier(2, timeout=10)
    now, most, lock = 0, 0, threading.Lock()

    def work(name: str) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if name in "ax":
            meeting.wait()
        with lock:
            now -= 1
        return name

    list(side_by_side({"a": [], "x": [], "y": []}, work, workers=2, interrupt=nothing))
    assert most == 2


def test_after_a_failure_nothing_is_begun_and_what_is_under_way_ends() -> None:
    failing = threading.Event()
    begun: list[str] = []
    got: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        if name == "a":
            failing.set()
            raise ValueError("broken")
        failing.wait(10)
        time.sleep(0.1)
        return name

    results = side_by_side({"a": [], "x": [], "y": []}, work, workers=2, interrupt=nothing)
    with pytest.raises(ValueError, match="broken"):
        got.extend(results)
    assert (sorted(begun), len(got)) == (sorted(["a", *got]), 1)


def test_a_second_failure_is_a_note_on_the_first() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(name: str) -> str:
        both.wait()
        raise ValueError(name)

    with pytest.raises(ValueError, match=r"a|x") as raised:
        list(side_by_side({"a": [], "x": []}, work, workers=2, interrupt=nothing))
    (note,) = raised.value.__notes__
    assert {str(raised.value), note.rsplit(" ", 1)[1]} == {"a", "x"}


def test_who_stops_reading_interrupts_what_is_under_way() -> None:
    stopped = threading.Event()

    def work(name: str) -> str:
        if name == "x":
            assert stopped.wait(10)
        return name

    results = side_by_side({"a": [], "x": []}, work, workers=2, interrupt=stopped.set)
    assert next(results) == "a"
    results.close()
    assert stopped.is_set()
