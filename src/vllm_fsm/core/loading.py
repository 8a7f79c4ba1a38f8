"""Whose weights are being read, or will be in a moment: pure, for whoever reads them ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vllm_fsm.core.events import RestartDue
from vllm_fsm.core.states import Engine, Phase

if TYPE_CHECKING:
    from vllm_fsm.core.snapshot import Snapshot, Target

_NOT_LOADED: Final = (Phase.IMPORTS, Phase.CONFIGURATION, Phase.PROCESSES, Phase.WEIGHTS)
"""Phases of a start after which, or in which, weights are read."""


def loading(snapshot: Snapshot) -> Target | None:
    """Return what is loaded now, or as soon as nothing of the last engine is left; None if that is not certain.

    A wish is not, nor a start that waits for its time.
    """
    if snapshot.engine is Engine.ALIVE:
        begun = not snapshot.phases or snapshot.phases[-1].phase in _NOT_LOADED
        return snapshot.active if begun and snapshot.proven_at is None else None
    if snapshot.engine is Engine.TERMINATING and not snapshot.failed and snapshot.due(RestartDue) is None:
        return snapshot.active
    return None
