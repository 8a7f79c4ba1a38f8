"""What somebody says, each with the moment when it was heard; filled by one thread and waited for by another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Said(Generic[T]):
    """A list that grows, of what was said and when, in seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._all: list[tuple[float, T]] = []
        self._news = threading.Condition()

    def add(self, what: T, at: float | None = None) -> None:
        """Note it; now, unless a time is given."""
        now = time.monotonic() if at is None else at
        with self._news:
            self._all.append((now, what))
            self._news.notify_all()

    def find(self, matches: Callable[[T], bool], since: float, limit: float) -> tuple[float, T] | None:
        """Return the first one at or after `since` that matches; None if there is none within `limit` seconds."""
        found: list[tuple[float, T]] = []

        def there() -> bool:
            found[:] = [(at, what) for at, what in self._all if at >= since and matches(what)][:1]
            return bool(found)

        with self._news:
            self._news.wait_for(there, limit)
        return found[0] if found else None

    def latest(self, matches: Callable[[T], bool]) -> T | None:
        """Return the last one that matches."""
        with self._news:
            return next((what for _, what in reversed(self._all) if matches(what)), None)

    def tail(self, count: int) -> list[T]:
        """Return the last `count`."""
        with self._news:
            return [what for _, what in self._all[-count:]]
