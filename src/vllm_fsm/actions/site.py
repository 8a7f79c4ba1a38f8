"""Where actions act, and whom they ask about what they cannot read in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vllm_fsm.config import Config
    from vllm_fsm.hardware.machine import Machine

NOT_RUNNING: Final = "NotRunning"
"""The reason when there is no controller."""


@dataclass(frozen=True, slots=True)
class Site:
    """One service: its directories and engine, its health, and the machine that it runs on."""

    config: Config
    health: Callable[[], Mapping[str, Any]]
    """Gives the content of `health.json`, or what stands for it: `state` None, and `reason` says why."""
    detect: Callable[[], Machine]
    """Looks at the hardware; takes seconds when a driver hangs."""

    @property
    def running(self) -> bool:
        """Whether a controller holds the directories."""
        return bool(self.health()["reason"] != NOT_RUNNING)
