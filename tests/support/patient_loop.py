"""An event loop whose time passes only while nobody in it has anything to do.

A test whose client and server share one loop may then wait for milliseconds: while the machine lets the test stand
still, or a callback is at work, no time limit comes closer. What happens in other processes and in threads is waited
for like anything else, so its limits must stay generous.
"""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Waits(selectors.DefaultSelector):
    """Sums up the seconds that it waited, at most as many as it was asked to."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began = time.monotonic()
        found = super().select(timeout)
        lasted = time.monotonic() - began
        self.waited += lasted if timeout is None else min(lasted, max(0.0, timeout))
        return found


class PatientLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` is what its limits and sleeps count in."""

    def __init__(self) -> None:
        self._waits = _Waits()
        super().__init__(self._waits)

    def time(self) -> float:
        return self._waits.waited


def run(main: Coroutine[Any, Any, T]) -> T:
    """Do what `asyncio.run` does, in a patient loop."""
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(main)


def now() -> float:
    """The time of the running loop in seconds."""
    return asyncio.get_running_loop().time()
