"""The operator's queue: one worker a key, no key lost."""

import time
from threading import Thread

from dataplatform_tests.kubernetes.workqueue import WorkQueue


def test_a_key_waits_once_and_the_earliest_comes_first() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("late", after=0.05)
    queue.add("soon")
    queue.add("soon", after=60)
    assert [queue.take(), queue.take()] == ["soon", "late"]


def test_a_key_that_a_worker_has_is_handed_out_when_it_is_given_back() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("one")
    assert queue.take() == "one"
    queue.add("one")
    taken: list[str] = []
    waiting = Thread(target=lambda: taken.append(queue.take()), daemon=True)
    waiting.start()
    time.sleep(0.05)
    assert taken == []
    queue.done("one")
    waiting.join(5)
    assert taken == ["one"]
