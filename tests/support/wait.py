"""Waiting on a condition, never for luck."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
STEP = 0.01
LIMIT = 25.0
"""Seconds after which what does not come counts as not coming; only a test that fails waits so long.

On an overloaded machine a process may stand still for seconds, and several in a row. It is less than what comes by
itself in the end: the controller looks at its files every 30 s, and kills an engine that does not end after 60 s.
"""


def wait_for(condition: Callable[[], T], timeout: float = LIMIT, what: str = "") -> T:
    """Return the first truthy value of `condition`; fail after `timeout` seconds, naming `what`."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(STEP)


async def await_for(condition: Callable[[], T], timeout: float = LIMIT, what: str = "") -> T:
    """Do what `wait_for` does, and let the event loop run meanwhile."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        await asyncio.sleep(STEP)
