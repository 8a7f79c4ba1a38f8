"""What the next start has to do with the present moment: pure, for whoever prepares it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_fsm.core import policy
from vllm_fsm.core.states import Download, Engine, Service

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Snapshot


def calm(snapshot: Snapshot) -> bool:
    """Whether what is wanted serves and nothing else goes on: there is time to prepare."""
    return snapshot.state is Service.READY and snapshot.download is Download.IDLE and not snapshot.pending


def soon(snapshot: Snapshot) -> bool:
    """Whether what is wanted starts as soon as the engine that is being ended is gone."""
    return snapshot.engine is Engine.TERMINATING and policy.may_start(snapshot) and not snapshot.pending
