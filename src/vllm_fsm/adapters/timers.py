"""Timers of the event loop, one of each class at most."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock, Post
    from vllm_fsm.core.effects import ArmTimer, CancelTimer
    from vllm_fsm.core.events import Timer


class Timers:
    """Posts each armed timer when it is due."""

    def __init__(self, post: Post, clock: Clock) -> None:
        self._post = post
        self._clock = clock
        self._handles: dict[type[Timer], asyncio.TimerHandle] = {}

    def arm(self, effect: ArmTimer) -> None:
        """Post `effect.timer` at `effect.due`, monotonic seconds."""
        self._forget(effect.timer)
        delay = max(0.0, effect.due - self._clock())
        self._handles[effect.timer] = asyncio.get_running_loop().call_later(delay, self._fire, effect)

    def cancel(self, effect: CancelTimer) -> None:
        """Do not post it."""
        self._forget(effect.timer)

    def _forget(self, timer: type[Timer]) -> None:
        handle = self._handles.pop(timer, None)
        if handle is not None:
            handle.cancel()

    def _fire(self, effect: ArmTimer) -> None:
        self._handles.pop(effect.timer, None)
        self._post(effect.timer(self._clock(), effect.due))
