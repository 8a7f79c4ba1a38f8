"""Waiting on a condition, never for luck."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
STEP = 0.01


def wait_for(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Return the first truthy value of `condition`; fail after `timeout` seconds, naming `what`."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(STEP)


async def await_for(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Do what `wait_for` does, and let the event loop run meanwhile."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        await asyncio.sleep(STEP)
