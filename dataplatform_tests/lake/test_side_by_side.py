"""Work that partly depends on each other, in threads."""

import threading
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


def test_what_needs_a_failed_one_is_not_begun_and_all_else_is() -> None:
    begun: list[str] = []

    def work(name: str) -> str:
        begun.append(name)
        if name == "a":
            raise ValueError("broken")
        return name

    with pytest.raises(ValueError, match="broken"):
        run(work)
    assert sorted(begun) == ["a", "x", "y"]


def test_several_failures_are_raised_together() -> None:
    def work(name: str) -> str:
        if name in "ax":
            raise ValueError(name)
        return name

    with pytest.raises(ExceptionGroup, match=r"2 of 5 failed: (a: a; x: x|x: x; a: a)") as raised:
        run(work)
    assert {str(failure) for failure in raised.value.exceptions} == {"a", "x"}


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
