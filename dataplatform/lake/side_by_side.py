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

    A name is begun when all that it needs has ended well, the one that most others wait for first.
    What needs a name that failed is never begun; all else is, and then the failure is raised.

    Args:
        needs: name → the names that must have ended before it.
        work: called in a thread.
        workers: how many run at once.
        interrupt: called again and again until all threads have ended, where the caller stops
            reading (Ctrl-C, a closed generator).

    Raises:
        Exception: what `work` raised; several as an ExceptionGroup.
    """
    order, weight = TopologicalSorter(needs), _waiting(needs)
    order.prepare()
    ready: list[str] = []
    running: dict[Future[Result], str] = {}
    ended: list[Future[Result]] = []
    failures: dict[str, BaseException] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                ready = sorted([*ready, *order.get_ready()], key=lambda name: -weight[name])
                while ready and len(running) < workers:
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
                        failures[name] = failure
        finally:
            _stop(running, interrupt)
    if len(failures) > 1:
        causes = "; ".join(f"{name}: {_first_line(one)}" for name, one in failures.items())
        raise BaseExceptionGroup(
            f"{len(failures)} of {len(needs)} failed: {causes}", list(failures.values())
        )
    for failure in failures.values():
        raise failure


def _first_line(error: BaseException) -> str:
    """Return what went wrong; py4j says first which call of its own it was."""
    lines = [line.lstrip(": ") for line in str(error).splitlines() if not line.startswith(_PY4J)]
    return next(iter(lines), type(error).__name__)


_PY4J: Final = "An error occurred while calling "


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
