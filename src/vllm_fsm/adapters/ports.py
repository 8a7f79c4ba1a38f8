"""What every adapter is given: a way to post events, a clock, a way to log."""

from collections.abc import Callable
from typing import Protocol

from vllm_fsm.core.events import Post

Clock = Callable[[], float]
"""Monotonic seconds."""


class Log(Protocol):
    """Write one structured line: a stable word and its fields. Secrets are redacted behind it."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write the line."""


__all__ = ["Clock", "Log", "Post"]
