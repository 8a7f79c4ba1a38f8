"""Why the cache was not read or a model not deleted."""

from __future__ import annotations

import os

from vllm_fsm.core.snapshot import Message
from vllm_fsm.messages import text as sentence


class Refused(Exception):
    """Something was not done, or not all of it; `message` and the exception's text say what and why."""

    def __init__(self, message: Message) -> None:
        super().__init__(sentence(message))
        self.message = message


def reason(error: OSError) -> str:
    """Return the operating system's words for `error`."""
    return os.strerror(error.errno) if error.errno else type(error).__name__
