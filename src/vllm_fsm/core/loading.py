"""Whose weights will be read in a moment: pure, for whoever reads them ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vllm_fsm.core import policy
from vllm_fsm.core.states import Engine, Phase

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Snapshot, Target

_BEFORE: Final = (Phase.IMPORTS, Phase.CONFIGURATION, Phase.PROCESSES)
"""Phases of a start after which weights are read."""


def loading(snapshot: Snapshot) -> Target | None:
    """Return what the engine will load, or the next one as soon as nothing of the last is left; None if nothing.

    It is certain: a wish is not enough, nor a start that waits for its time. Once the engine reads, it reads by itself.
    """
    if snapshot.engine is Engine.ALIVE:
        before = not snapshot.phases or snapshot.phases[-1].phase in _BEFORE
        return snapshot.active if before and snapshot.proven_at is None else None
    return snapshot.active if snapshot.engine is Engine.TERMINATING and policy.may_start(snapshot) else None
