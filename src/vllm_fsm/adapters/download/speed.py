"""How fast bytes arrive, smoothed: an exponentially weighted mean over the time between two readings."""

from __future__ import annotations

from math import exp

MEMORY = 10.0
"""Seconds after which an earlier speed counts for a third."""
SOONEST = 2.0
"""Seconds of a download before its speed means anything."""


LONGEST = 30 * 24 * 3600.0
"""Seconds; what would take longer stands still, as while an earlier part is read again."""


def time_left(missing: int, speed: float | None) -> float | None:
    """Return the seconds that `missing` bytes take at `speed`, None where that means nothing."""
    return missing / speed if speed and missing < speed * LONGEST else None


class Speed:
    """Fed with the time and the bytes so far; `value` in bytes per second, None before it means anything."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._last = 0.0
        self._bytes = 0
        self._mean = 0.0
        self._weight = 0.0

    def feed(self, now: float, total: int) -> None:
        """Take note of `total` bytes at monotonic time `now`."""
        if self._began is None:
            self._began, self._last, self._bytes = now, now, total
            return
        elapsed = now - self._last
        if elapsed <= 0.0:
            return
        share = 1.0 - exp(-elapsed / MEMORY)
        self._mean += share * (max(0, total - self._bytes) / elapsed - self._mean)
        self._weight += share * (1.0 - self._weight)
        self._last, self._bytes = now, total

    @property
    def value(self) -> float | None:
        """Bytes per second, as if the speed had been measured from the beginning on and not begun at zero."""
        if self._began is None or self._last - self._began < SOONEST or self._weight == 0.0:
            return None
        return self._mean / self._weight
