"""A queue of keys for workers: a key is with one worker at a time, and waits once however often it is added."""

import time
from collections.abc import Hashable
from threading import Condition
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """The work queue of Kubernetes controllers, with delays."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._taken: set[Key] = set()
        self._changed = Condition()

    def add(self, key: Key, after: float = 0.0) -> None:
        """Hand a key out in `after` seconds, or earlier where it was to be earlier."""
        due = time.monotonic() + after
        with self._changed:
            self._due[key] = min(due, self._due.get(key, due))
            self._changed.notify()

    def take(self) -> Key:
        """Wait for the next key that is due and that no worker has."""
        with self._changed:
            while True:
                free = {key: due for key, due in self._due.items() if key not in self._taken}
                if free:
                    key = min(free, key=lambda key: free[key])
                    wait = free[key] - time.monotonic()
                    if wait <= 0:
                        del self._due[key]
                        self._taken.add(key)
                        return key
                    self._changed.wait(wait)
                else:
                    self._changed.wait()

    def done(self, key: Key) -> None:
        """Give a key back; added meanwhile, it is handed out again."""
        with self._changed:
            self._taken.discard(key)
            self._changed.notify()
