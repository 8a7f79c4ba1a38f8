"""When to try again: pure functions of the settings, the record of failures and the time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vllm_fsm.core.events import RestartDue
from vllm_fsm.core.snapshot import Finding
from vllm_fsm.core.states import Phase

if TYPE_CHECKING:
    from vllm_fsm.core.events import PulseTaken
    from vllm_fsm.core.snapshot import Snapshot, Target

PORT_TAKEN = "PortTaken"
HUNG = "EngineHung"
"""A start stood still. That takes so long to be seen that the last one counts, however long ago it was."""
ENGINE_DEAD = "EngineDead"
ENGINE_STOPPED = "EngineStopped"
"""What is known of the end of an engine that said nothing of a cause before it was ended."""
FILE_MISSING = "FileMissing"
"""An engine ended because a file was not in the cache, perhaps one that nobody could know of beforehand."""
ONCE = frozenset(
    {
        "ArgumentsRefused",
        HUNG,
        "EngineVanished",
        "GpuMemoryFull",
        "GpuMemoryFullUnmeasured",
        "MachineMemoryFull",
        "MachineMemoryShort",
        "MachineMemoryShortUnmeasured",
    }
)
"""What may have passed by the second try, and will not when it stands in the way of that one too."""
GPU_MEMORY = frozenset({"GpuBusy", "GpuBusyUnmeasured", "GpuMemoryTaken", "GpuMemoryFull", "GpuMemoryFullUnmeasured"})
"""There was too little free GPU memory for the start: something may be about to give some back."""
MOST_MEMORY: Final = 1e6
"""GiB that no machine has: what the engine names beyond that is no need."""
PATIENCE: Final = {Phase.COMPILATION: 3.0, Phase.GRAPHS: 3.0}
"""How much longer than others a phase may be silent: a compiler or a GPU may work where nobody sees it."""


@dataclass(frozen=True, slots=True)
class Again:
    """Start the same engine again after `delay` seconds."""

    delay: float
    online: bool = False
    """With the hub, which was switched off for the last start."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Give up for now; look again after `delay` seconds, or never by itself when None."""

    delay: float | None
    resting: bool = False
    """The restart intensity was exceeded."""


def jitter(seed: int, number: int) -> float:
    """Spread `number` over [0.8, 1.2), the same for the same seed (a Weyl sequence: golden-ratio steps)."""
    return 0.8 + 0.4 * ((seed * 0.7548776662466927 + number * 0.6180339887498949) % 1.0)


def recent(snapshot: Snapshot, now: float) -> tuple[float, ...]:
    """Return the failures that still count: in the window, and after the last long enough time of Ready."""
    settings = snapshot.settings
    if steady(snapshot, now):
        return ()
    return tuple(t for t in snapshot.crashes if now - t < settings.restart_window)


def steady(snapshot: Snapshot, now: float) -> bool:
    """Whether the engine has been ready so long that its record is clean."""
    at = snapshot.proven_at
    return at is not None and now - at >= snapshot.settings.restart_reset


def judged(snapshot: Snapshot, now: float, finding: Finding) -> Finding:
    """Return `finding`, permanent if the next try would end the same way.

    What is worth one more try only is permanent when it comes again in the window. An engine that has served can
    serve: what ends it then is transient, whatever it printed, unless the same has ended it before.
    """
    served = snapshot.proven_at is not None
    doubted = finding.permanent if served else not finding.permanent and finding.reason in ONCE
    if not doubted:
        return finding
    counted = len(recent(snapshot, now))
    if finding.reason == HUNG and snapshot.crashes:
        counted = max(counted, 1)
    repeated = counted > 0 and finding.reason in snapshot.causes[-counted:]
    return finding if finding.permanent is repeated else replace(finding, permanent=repeated)


def explained(snapshot: Snapshot, now: float, finding: Finding) -> Finding:
    """Judge why an engine died whose death is the latest of the failures: `finding` is what its output says of it."""
    before = replace(snapshot, crashes=snapshot.crashes[:-1], causes=snapshot.causes[:-1])
    return judged(before, now, finding)


def after_failure(snapshot: Snapshot, now: float, finding: Finding) -> Again | Rest:
    """Decide what follows a failed start or an engine that ended unasked.

    A permanent failure waits for the user. A transient one is repeated: the first in the window at once, then with
    growing, jittered delays; when the restart intensity is exceeded, only slowly (the rule of OTP's supervisors).
    A taken port is looked at every few seconds and counts as no failure of the engine. An engine that missed a file
    with the hub switched off is tried once with the hub.
    """
    settings = snapshot.settings
    finding = judged(snapshot, now, finding)
    if finding.reason == PORT_TAKEN:
        return Rest(settings.port_retry)
    if finding.reason == FILE_MISSING and snapshot.offline:
        return Again(0.0, online=True)
    if finding.permanent:
        return Rest(None)
    if snapshot.resting and not steady(snapshot, now):
        return Rest(settings.slow_retry, resting=True)
    count = len(recent(snapshot, now))
    if count >= settings.restart_intensity:
        return Rest(settings.slow_retry, resting=True)
    if count == 0:
        return Again(0.0)
    delay = min(settings.restart_longest, settings.restart_first * 2.0 ** (count - 1))
    return Again(min(settings.restart_longest, delay * jitter(settings.seed, snapshot.epoch)))


def may_start(snapshot: Snapshot) -> bool:
    """Whether something is to run, and nothing else than the last engine is in its way."""
    return snapshot.active is not None and not snapshot.failed and snapshot.due(RestartDue) is None


def silence_limit(snapshot: Snapshot) -> float:
    """Seconds without any sign of life after which the starting engine hangs, in its present phase."""
    phase = snapshot.phase
    return snapshot.settings.silence * (PATIENCE.get(phase.phase, 1.0) if phase is not None else 1.0)


def memory_needed(snapshot: Snapshot) -> float | None:
    """GiB of GPU memory that the last start lacked, 0.0 where it did not say; None if that is not why it failed."""
    finding = snapshot.finding
    if finding is None or finding.reason not in GPU_MEMORY:
        return None
    try:
        needed = float(dict(finding.message.params).get("needed", 0.0))
    except ValueError:  # it is the engine's word
        return 0.0
    return needed if 0.0 <= needed < MOST_MEMORY else 0.0


def hang(snapshot: Snapshot, pulse: PulseTaken) -> Finding | None:
    """Return what to say of a starting engine that does nothing, None if it moves or is not silent for too long."""
    silent = pulse.at - snapshot.moved_at
    if pulse.moved or silent < silence_limit(snapshot):
        return None
    phase = snapshot.phase.phase if snapshot.phase is not None else Phase.IMPORTS
    return Finding.of(HUNG, evidence=pulse.last, phase=phase.value, minutes=minutes(silent))


def minutes(seconds: float) -> float:
    """Return a time for people: whole minutes where it is a whole number of them."""
    exact = round(seconds / 60.0, 1)
    return int(exact) if exact == int(exact) else exact


def falls_back(snapshot: Snapshot, target: Target | None) -> bool:
    """Whether what was ready last may take over from `target`, and is something else."""
    good = snapshot.last_good
    return (
        snapshot.settings.fallback and good is not None and target is not None and not good.target.same_but_key(target)
    )


def download_delay(snapshot: Snapshot, retry_after: float, moved: bool = False) -> float:
    """Seconds until the next download attempt: growing, jittered, and never sooner than the hub asked.

    After an attempt that `moved` they begin to grow anew.
    """
    settings = snapshot.settings
    tries = 0 if moved else snapshot.fetch_tries
    delay = settings.download_first * 2.0 ** min(tries, 20)
    spread = min(settings.download_longest, delay) * jitter(settings.seed, snapshot.fetch + tries)
    return max(spread, retry_after)


def download_goes_on(snapshot: Snapshot, finding: Finding, moved: bool) -> bool:
    """Whether a failed attempt is followed by another: transient, and not too many in a row without a new byte."""
    if finding.permanent:
        return False
    return moved or snapshot.fetch_tries + 1 < snapshot.settings.download_tries
