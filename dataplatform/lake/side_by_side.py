"""Runs work that partly depends on each other, several at once."""

from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from typing import Final, TypeVar

Result = TypeVar("Result")
_INTERRUPT_SECONDS: Final = 0.5


def side_by_side(
    needs: Mapping[str, Collection[str]],
    work: Callable[[str], Result],
    *,
    workers: int,
    interrupt: Callable[[], None],
) -> Generator[Result]:
    """Yield the result of `work(name)` for every name, as each ends.

    A name is begun when all that it needs has ended, the one that most others wait for first. After
    a failure nothing more is begun; what is under way ends, is yielded, and then the failure is
    raised. Others that failed meanwhile are notes on it.

    Args:
        needs: name → the names that must have ended before it.
        work: called in a thread.
        workers: how many run at once.
        interrupt: called again and again until all threads have ended, where the caller stops
            reading (Ctrl-C, a closed generator).
    """
    order, weight = TopologicalSorter(needs), _waiting(needs)
    order.prepare()
    ready: list[str] = []
    running: dict[Future[Result], str] = {}
    ended: list[Future[Result]] = []
    failures: list[BaseException] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                ready = sorted([*ready, *order.get_ready()], key=lambda name: -weight[name])
                while ready and len(running) < workers and not failures:
                    name = ready.pop(0)
                    running[pool.submit(work, name)] = name
                # After the next are begun: the caller takes its time.
                yield from (future.result() for future in ended if not future.exception())
                if not running:
                    break
                ended = list(wait(running, return_when=FIRST_COMPLETED).done)
                for future in ended:
                    name, failure = running.pop(future), future.exception()
                    if failure is None:
                        order.done(name)
                    else:
                        failures.append(failure)
        finally:
            _stop(running, interrupt)
    if failures:
        raise _with_notes(failures)


def _waiting(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return how many names wait for each, directly or not."""
    before: dict[str, set[str]] = {}
    for name in TopologicalSorter(needs).static_order():
        direct = set(needs.get(name, ()))
        before[name] = direct.union(*(before[other] for other in direct))
    return {name: sum(name in others for others in before.values()) for name in before}


def _stop(running: Collection[Future[Result]], interrupt: Callable[[], None]) -> None:
    while any(not future.done() for future in running):
        interrupt()
        wait(running, timeout=_INTERRUPT_SECONDS)


def _with_notes(failures: list[BaseException]) -> BaseException:
    first, *others = failures
    for other in others:
        first.add_note(f"Meanwhile: {type(other).__name__}: {other}")
    return first
