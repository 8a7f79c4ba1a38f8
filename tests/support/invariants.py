"""What must hold after every event. The seeded world and the exhaustive search ask the same questions.

Each is a predicate of what was seen of one step; its docstring is the promise that is broken when it is false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core import naming, policy
from vllm_fsm.core.snapshot import Snapshot, Target
from vllm_fsm.core.states import Download, Engine, Service

ENDING = (fx.TerminateEngine, fx.KillSession)
BEGINNING = (fx.StartEngine, fx.CheckWeights, fx.StartDownload)


@dataclass(slots=True)
class Seen:
    """One step, and what is true around the core after its effects."""

    before: Snapshot
    event: ev.Event
    after: Snapshot
    effects: tuple[fx.Effect, ...]
    living: int
    """Engines of which something lives."""
    serving: Target | None
    """What the process of the latest start was started with; None: there is no such process."""
    passed: bool
    """That process passed its probes."""
    timers: Mapping[type[ev.Timer], float]
    """Those that the clock holds."""


def named(seen: Seen) -> bool:
    """the table names the state as the rule does"""
    return seen.after.state is naming.name(seen.after)


def single(seen: Seen) -> bool:
    """at most one engine"""
    return seen.living <= 1


def proven(seen: Seen) -> bool:
    """Ready only after this epoch's probe"""
    return not seen.after.proven or (seen.serving is not None and seen.passed)


def living(seen: Seen) -> bool:
    """Ready only with a living engine"""
    return not seen.after.proven or seen.after.engine is Engine.ALIVE


def active(seen: Seen) -> bool:
    """what serves is the active one"""
    return not seen.after.proven or seen.serving == seen.after.active


def owned(seen: Seen) -> bool:
    """a living engine is the active one, and something is wanted"""
    return seen.after.engine is not Engine.ALIVE or (seen.after.active is not None and seen.after.target is not None)


def vacant(seen: Seen) -> bool:
    """absent means that nothing is left"""
    return seen.after.engine is not Engine.ABSENT or not seen.living


def underway(seen: Seen) -> bool:
    """what is to run is there or has its time set"""
    after = seen.after
    idle = after.engine is Engine.ABSENT and after.active is not None and not after.failed
    return not idle or after.due(ev.RestartDue) is not None


def explained(seen: Seen) -> bool:
    """Failed says why"""
    return seen.after.state is not Service.FAILED or seen.after.finding is not None


def final(seen: Seen) -> bool:
    """what is permanent is not tried again by itself"""
    after = seen.after
    permanent = after.failed and after.finding is not None and after.finding.permanent
    return not permanent or after.due(ev.RestartDue) is None


def content(seen: Seen) -> bool:
    """Ready has no failure to tell"""
    return seen.after.state is not Service.READY or seen.after.finding is None


def moderate(seen: Seen) -> bool:
    """the restart intensity is kept"""
    after = seen.after
    # Beside the starts in the window: the last failure, and the one try with the hub after a file was missed.
    return len(counted(after)) <= after.settings.restart_intensity + 1 + (policy.FILE_MISSING in after.causes)


def punctual(seen: Seen) -> bool:
    """armed timers are those of the snapshot"""
    return dict(seen.after.timers) == seen.timers


def one_start(seen: Seen) -> bool:
    """one start a step"""
    return len(seen.effects) < 2 or sum(isinstance(effect, fx.StartEngine) for effect in seen.effects) <= 1


def measured(seen: Seen) -> bool:
    """never above 100 %"""
    progress = seen.after.progress
    return progress is None or 0 <= progress.done <= (progress.total or 0)


def spared(seen: Seen) -> bool:
    """what serves goes on until the next one is there"""
    before, event = seen.before, seen.event
    if not isinstance(event, ev.WantedChanged) or not before.proven or not before.settings.swap_after_download:
        return True
    assert before.active is not None
    stopped = any(isinstance(effect, ENDING) for effect in seen.effects)
    return not stopped or before.stopping or event.target is None or event.target.key != before.active.key


def keyed(seen: Seen) -> bool:
    """what is started has the key in force, and nothing speaks against it"""
    for effect in seen.effects:
        if isinstance(effect, fx.StartEngine):
            target = seen.after.target
            return target is not None and effect.target.key == target.key and effect.target.problem is None
    return True


def apart(seen: Seen) -> bool:
    """what is looked for is not what runs already"""
    return seen.after.download is Download.IDLE or seen.after.active is None or seen.after.pending


def ending(seen: Seen) -> bool:
    """a controller that ends begins nothing"""
    return not seen.after.stopping or not any(isinstance(effect, BEGINNING) for effect in seen.effects)


def justified(seen: Seen) -> bool:
    """a fallback is asked for, is not the target, and has a reason that lasts"""
    after = seen.after
    if not after.fallen_back:
        return True
    problem = after.next_problem
    return after.settings.fallback and after.pending and problem is not None and problem.permanent


def moving(seen: Seen) -> bool:
    """a start that stands still is ended"""
    after, event = seen.after, seen.event
    if after.phase is None or not isinstance(event, ev.PulseTaken) or event.epoch != after.epoch:
        return True
    return event.at - after.moved_at < policy.silence_limit(after)


def past(seen: Seen) -> bool:
    """what belongs to the past changes nothing but its count"""
    before, event, after = seen.before, seen.event, seen.after
    if isinstance(event, ev.EngineEvent):
        late = event.epoch != before.epoch
    elif isinstance(event, ev.FetchEvent):
        late = event.fetch != before.fetch
    else:
        late = isinstance(event, ev.Timer) and before.due(type(event)) != event.due
    if not late:
        return True
    same = before.copy()
    object.__setattr__(same, "dropped", before.dropped + 1)
    return not seen.effects and after == same


INVARIANTS: list[Callable[[Seen], bool]] = [
    named,
    single,
    proven,
    living,
    active,
    owned,
    vacant,
    underway,
    explained,
    final,
    content,
    moderate,
    punctual,
    one_start,
    measured,
    spared,
    keyed,
    apart,
    ending,
    justified,
    moving,
    past,
]


def broken(seen: Seen) -> str | None:
    """Return the first promise that does not hold, None when all do."""
    for invariant in INVARIANTS:
        if not invariant(seen):
            return invariant.__doc__ or invariant.__name__
    return None


def counted(snapshot: Snapshot) -> tuple[float, ...]:
    """Return the failures that the snapshot itself says still count."""
    if snapshot.resting or not snapshot.crashes:
        return ()
    window = snapshot.settings.restart_window
    return tuple(t for t in snapshot.crashes if snapshot.crashes[-1] - t < window)
