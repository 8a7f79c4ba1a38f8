"""What went wrong, by a name for each: of an event and what it met."""

from __future__ import annotations

from vllm_fsm.core import events as ev
from vllm_fsm.core import policy
from vllm_fsm.core.machine import late
from vllm_fsm.core.snapshot import Finding, Snapshot
from vllm_fsm.core.states import Engine

BY_KIND: dict[type[ev.Event], str] = {
    ev.StartFailed: "a start fails",
    ev.EngineExited: "the engine ends by itself",
    ev.PulseTaken: "the start stands still",
    ev.EngineDead: "the engine is dead behind its server",
    ev.EngineStuck: "the engine generates nothing",
    ev.UnresponsiveDue: "the engine stays silent",
    ev.PortTaken: "a stranger has the port",
    ev.DeadlinePassed: "the start takes too long",
    ev.NudgeDue: "SIGTERM may be lost",
    ev.GraceExpired: "the engine is deaf",
    ev.EffectFailed: "an effect fails",
    ev.DownloadFailed: "a fetch fails",
}
LATE = "late"


def name(before: Snapshot, event: ev.Event) -> str:
    """Name the fault that `event` is to whoever knows `before`; empty when it is none."""
    if late(before, event):
        return f"{LATE}: {type(event).__name__}"
    kind = BY_KIND.get(type(event), "")
    if isinstance(event, ev.EngineExited) and before.engine is Engine.TERMINATING:
        return ""
    if isinstance(event, ev.PulseTaken) and event.moved:
        return ""
    if isinstance(event, ev.EffectFailed):
        return f"{kind}: {type(event.effect).__name__}"
    if isinstance(event, ev.StartFailed | ev.EngineExited | ev.DownloadFailed):
        return kind + how(event.finding)
    return kind


def how(finding: Finding) -> str:
    """Tell apart what decisions tell apart."""
    if finding.reason in (policy.PORT_TAKEN, policy.FILE_MISSING):
        return f": {finding.reason}"
    if finding.permanent:
        return ": for good"
    return ": once more" if finding.reason in policy.ONCE else ""
