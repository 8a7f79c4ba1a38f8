"""Every situation that can be reached, breadth first: the real `step` among a small model of the world around it.

    python -m support.search [--states N] [--depth N] [--settle N] [--immediate]

A *situation* is a snapshot with what is true around it: the process, what was asked of it, the fetch under way, the
effects that failed. From each, every event that could come is fed, with each of its values; so are the late and the
repeated ones, and each effect that can fail also fails. After every step all of `support.invariants` must hold. Two
situations that look the same (`look`) are one: times are only "counts still" or not, numbers of starts and fetches do
not matter, models and keys are named in the order in which they appear. Of those that look the same, the first found
stands for all.

The alphabet is made from `core.events` and the cells from `core.table`: a new event or row takes part by itself. What
an event may say follows from the types of its fields; a type that is not known here is an error that says so.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any

from support import faults
from support.invariants import Seen, broken
from support.rows import counting, never_taken, shown
from support.world import (
    BAD,
    KEYS,
    MISSED,
    MODELS,
    PERMANENT,
    TAKEN,
    TRANSIENT,
    Broken,
    Faults,
    Process,
    World,
)
from vllm_fsm import health
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core import policy
from vllm_fsm.core.machine import late, step
from vllm_fsm.core.snapshot import Finding, Message, Progress, Settings, Snapshot, Start, Target
from vllm_fsm.core.states import Download, Engine, Phase, Service
from vllm_fsm.core.table import SERVICE, SERVICE_TRIGGERS, trigger_name
from vllm_fsm.driver import failure

SMALL = Settings(restart_intensity=2, download_tries=2, unresponsive_strikes=2)
"""The default times, and the smallest numbers that leave a first, a last and one in between."""
SHORT, LONG = 0.01, max(SMALL.restart_window, SMALL.restart_reset)
"""Seconds between two events; and those after which no failure counts any more."""
PATIENCE = 7200.0
"""Simulated seconds in which a situation without further faults must settle."""
HOPELESS = Finding.of("GatedRepo", permanent=True, repo="org/one")
PASSING = Finding.of("HubUnreachable", host="hub.example")
FULL = Finding.of("GpuMemoryFullUnmeasured")
DEAD = Finding.of("EngineDead")
NOTE = Message.of("FetchedByEngine", model="org/one", what="code")


class Life(Enum):
    """Of the one engine process, as the kernel has it."""

    NONE = "none"
    EXECUTING = "being executed"
    RUNNING = "running"
    LEFT = "its leader is reaped"


@dataclass(frozen=True, slots=True)
class Outside:
    """What is true around the core."""

    life: Life = Life.NONE
    target: Target | None = None
    """What the process was started with."""
    offline: bool = False
    killed: bool = False
    probed: bool = False
    watched: bool = False
    passed: bool = False
    confirming: bool = False
    looking: bool = False
    """At the port."""
    fetching: type[fx.Effect] | None = None
    missed: Target | None = None
    """What was to be served without the hub by the engine that missed a file."""
    failed: tuple[fx.Effect, ...] = ()
    """Effects that could not be begun, and of which that was not said yet."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the core knows, and what it does not."""

    snapshot: Snapshot
    outside: Outside
    now: float
    over: bool = False
    """The controller ended."""


# --- the look of a situation -------------------------------------------------------------------------------------


class Names:
    """Models and keys, called by the order in which they appear."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def of(self, target: Target | None) -> Any:
        if target is None:
            return None
        known = self.known
        what = known.setdefault(target.arguments, len(known))
        return what, known.setdefault(target.key.reveal(), len(known)), target.problem is not None


def cause(finding: Finding) -> tuple[bool, bool, bool]:
    """What decisions depend on of a failure."""
    return finding.permanent, finding.reason == policy.PORT_TAKEN, finding.reason in policy.ONCE


def steadiness(snapshot: Snapshot, now: float) -> bool | None:
    return None if snapshot.proven_at is None else policy.steady(snapshot, now)


def silence(snapshot: Snapshot, now: float) -> bool:
    pulse = ev.PulseTaken(now, snapshot.epoch, moved=False)
    return snapshot.phase is not None and policy.hang(snapshot, pulse) is not None


def failures(snapshot: Snapshot, now: float) -> Any:
    count = len(policy.recent(snapshot, now))
    return (count, *sorted(set(snapshot.causes[-count:]) & policy.ONCE)) if count else 0


NOT_LOOKED_AT = {
    "settings",
    "since",
    "epoch",
    "fetch",
    "dropped",
    "warnings",
    "causes",
    "note",
    "progress",
    "fetch_finding",
}
"""No decision depends on it, or another field stands for it."""

LOOKED_AT_AS: dict[str, Callable[[Snapshot, float], Any]] = {
    "phases": lambda snapshot, _now: snapshot.phase.phase.value if snapshot.phase else "",
    "moved_at": silence,
    "pid": lambda snapshot, _now: snapshot.pid is not None,
    "proven_at": steadiness,
    "crashes": failures,
    "timers": lambda snapshot, _now: tuple(sorted([kind.__name__ for kind, _ in snapshot.timers])),
}
OF_SNAPSHOT = attrgetter(*(f.name for f in fields(Snapshot) if f.name not in {*NOT_LOOKED_AT, *LOOKED_AT_AS}))
OF_OUTSIDE = attrgetter(*(f.name for f in fields(Outside)))
PLAIN: dict[type, Callable[[Any, Names], Any]] = {
    Target: lambda value, names: names.of(value),
    Finding: lambda value, _names: cause(value),
    Message: lambda value, _names: value.id,
    Start: lambda value, names: (*names.of(value.target), value.offline),
    tuple: lambda value, _names: tuple([type(one).__name__ for one in value]),
    type: lambda value, _names: value.__name__,
    **{kind: lambda value, _names: value._name_ for kind in (Service, Engine, Download, Life)},
}
"""How values of other types than numbers and words are looked at."""


def look(situation: Situation) -> tuple[Any, ...]:
    """Return what two situations must share to be taken for the same."""
    snapshot, outside, now, names = situation.snapshot, situation.outside, situation.now, Names()
    found: list[Any] = [situation.over, *(special(snapshot, now) for special in LOOKED_AT_AS.values())]
    for value in (*OF_SNAPSHOT(snapshot), *OF_OUTSIDE(outside)):
        how = PLAIN.get(type(value))
        found.append(how(value, names) if how else value)
    return tuple(found)


# --- what can happen ---------------------------------------------------------------------------------------------

KINDS: list[type[ev.Event]] = [
    kind
    for _, kind in inspect.getmembers(ev, inspect.isclass)
    if issubclass(kind, ev.Event) and not kind.__subclasses__()
]
AGAIN = "what was said comes again"
VALUES: dict[str, tuple[Any, ...]] = {
    "bool": (False, True),
    "int": (1,),
    "float": (0.0,),
    "str": ("word",),
    "Finding": (TRANSIENT,),
    "Finding | None": (None, TRANSIENT),
    "Message": (NOTE,),
    "Message | None": (None, NOTE),
    "tuple[Message, ...]": ((), (NOTE,)),
    "Phase": (Phase.WEIGHTS,),
    "Progress": (Progress("org/one", 1000, 4000),),
}
"""What a field may hold, by its type."""
ESPECIALLY: dict[tuple[type[ev.Event], str], tuple[Any, ...]] = {
    (ev.EngineExited, "finding"): (TRANSIENT, PERMANENT, FULL, MISSED),
    (ev.StartFailed, "finding"): (TRANSIENT, PERMANENT, TAKEN),
    (ev.EngineDead, "finding"): (DEAD,),
    (ev.PortTaken, "finding"): (TAKEN,),
    (ev.DownloadFailed, "finding"): (PASSING, HOPELESS),
    (ev.WeightsComplete, "note"): (None,),
}
NUMBERS = {"at", "epoch", "fetch", "due"}
Contents = list[dict[str, Any]]


def contents_of(kind: type[ev.Event]) -> Contents:
    """Return all that an event of `kind` may say, apart from its time and number."""
    if kind in (ev.WantedChanged, ev.EffectFailed):
        return []  # follow from the situation
    choices: dict[str, tuple[Any, ...]] = {}
    for f in fields(kind):
        if f.name not in NUMBERS:
            found = ESPECIALLY.get((kind, f.name), VALUES.get(str(f.type)))
            if found is None:
                raise LookupError(f"say in `VALUES` what a {f.type} may be: {kind.__name__}.{f.name}")
            choices[f.name] = found
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


CONTENTS: dict[type[ev.Event], Contents] = {kind: contents_of(kind) for kind in KINDS}

Can = Callable[[Outside], bool]
EXECUTED: Can = lambda o: o.life is Life.RUNNING  # noqa: E731
CAN_BE: dict[type[ev.Event], Can] = {
    ev.EngineStarted: lambda o: o.life is Life.EXECUTING,
    ev.StartFailed: lambda o: o.life is Life.EXECUTING,
    ev.EngineExited: EXECUTED,
    ev.EngineVacated: lambda o: o.confirming and o.life in (Life.LEFT, Life.NONE),
    ev.PhaseEntered: EXECUTED,
    ev.PulseTaken: EXECUTED,
    ev.EffectFailed: lambda o: bool(o.failed),
    ev.PortFree: lambda o: o.looking,
    ev.PortTaken: lambda o: o.looking or (o.life is Life.RUNNING and (o.probed or o.watched)),
    ev.ProbePassed: lambda o: o.life is Life.RUNNING and o.probed,
    ev.WeightsMissing: lambda o: o.fetching is fx.CheckWeights,
    ev.DownloadProgressed: lambda o: o.fetching is fx.StartDownload,
}
"""When an event can be new; what is not named here follows from its parent class."""
CAN_BE_BY_PARENT: list[tuple[type[ev.Event], Can]] = [
    (ev.ProbeEvent, lambda o: o.life is Life.RUNNING and o.watched),
    (ev.EngineEvent, EXECUTED),
    (ev.FetchEvent, lambda o: o.fetching is not None),
    (ev.Event, lambda _o: True),
]
CAN: dict[type[ev.Event], Can] = {
    kind: CAN_BE.get(kind) or next(can for parent, can in CAN_BE_BY_PARENT if issubclass(kind, parent))
    for kind in KINDS
}
WISHES: list[Target | None] = [
    None,
    *(Target((model,), (), key, model) for model in MODELS for key in KEYS[:2]),
    *(Target(("--oops",), (), key, "", BAD) for key in KEYS[:2]),
    Target(("--alas",), (), KEYS[0], "", BAD),
]
"""What the files may ask for."""


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that can happen."""

    event: ev.Event | None
    """None: time passes, and nothing else."""
    outside: Outside
    again: bool = False
    """It was said before."""


def moves(situation: Situation) -> Iterator[Move]:
    """Yield all that can happen now."""
    snapshot, outside, now = situation.snapshot, situation.outside, situation.now + SHORT
    yield Move(None, outside)
    for kind in KINDS:
        if issubclass(kind, ev.Timer):
            due = snapshot.due(kind)
            if due is not None:
                yield Move(kind(max(now, due), due), outside)
            yield Move(kind(now, -1.0), outside)
        elif kind is ev.WantedChanged:
            for wish in WISHES:
                yield Move(ev.WantedChanged(now, wish), outside)
        elif kind is ev.EffectFailed:
            for effect in outside.failed:
                event = failure(effect, OSError("no"), now)
                assert event is not None
                left = tuple(other for other in outside.failed if other is not effect)
                yield Move(event, replace(outside, failed=left))
        else:
            yield from said(kind, situation, now)


def said(kind: type[ev.Event], situation: Situation, now: float) -> Iterator[Move]:
    """Yield what may be said by an event of `kind`: new, again, and late."""
    snapshot, outside = situation.snapshot, situation.outside
    can = CAN[kind](outside)
    numbered = issubclass(kind, ev.EngineEvent | ev.FetchEvent)
    number = "epoch" if issubclass(kind, ev.EngineEvent) else "fetch"
    for content in CONTENTS[kind]:
        if not numbered:
            yield Move(kind(at=now, **content), outside)
        elif can:
            event: ev.Event = kind(at=now, **{number: getattr(snapshot, number)}, **content)
            if possible(event, outside):
                yield Move(event, after(event, outside, snapshot))
    if not numbered:
        return
    content = CONTENTS[kind][0]
    yield Move(kind(at=now, **{number: getattr(snapshot, number) - 1}, **content), outside)
    if not can and was(kind, situation):
        yield Move(kind(at=now, **{number: getattr(snapshot, number)}, **content), outside, again=True)


def possible(event: ev.Event, outside: Outside) -> bool:
    """Whether an event that can be may say this."""
    if isinstance(event, ev.EngineExited):
        return event.finding != MISSED or outside.offline
    return True


def was(kind: type[ev.Event], situation: Situation) -> bool:
    """Whether an event of `kind` may have been said of this start or fetch before."""
    life = situation.outside.life
    if kind is ev.EngineStarted:
        return life in (Life.RUNNING, Life.LEFT)
    if kind in (ev.StartFailed, ev.EngineVacated):
        return situation.snapshot.engine is Engine.ABSENT
    if issubclass(kind, ev.ProbeEvent | ev.EngineExited):
        return life is Life.LEFT or situation.snapshot.engine is Engine.TERMINATING
    # A fetch that was cancelled has a new number by then, one that ended has not.
    return issubclass(kind, ev.FetchEvent) and situation.outside.fetching is None


def after(event: ev.Event, outside: Outside, snapshot: Snapshot) -> Outside:
    """Return what is true around the core once `event` happened; `snapshot` is what the core knew before."""
    match event:
        case ev.EngineStarted():
            return replace(outside, life=Life.RUNNING)
        case ev.StartFailed():
            return replace(outside, life=Life.NONE, target=None, offline=False, killed=False)
        case ev.EngineExited():
            # What an engine says that was asked to end counts for nothing.
            counts = event.finding == MISSED and snapshot.engine is Engine.ALIVE
            missed = outside.target if counts else outside.missed
            return replace(outside, life=Life.LEFT, killed=False, probed=False, watched=False, missed=missed)
        case ev.EngineVacated():
            return Outside(fetching=outside.fetching, missed=outside.missed, failed=outside.failed)
        case ev.ProbePassed():
            return replace(outside, passed=True, probed=False)
        case ev.PortFree() | ev.PortTaken():
            return replace(outside, looking=False)
        case ev.WeightsComplete():
            return replace(outside, fetching=None, missed=None)
        case ev.WeightsMissing() | ev.DownloadFailed():
            return replace(outside, fetching=None)
        case _:
            return outside


def performed(effect: fx.Effect, outside: Outside) -> Outside:
    """Return what is true around the core once `effect` is done. Raises `Broken` where it must not be done."""
    match effect:
        case fx.StartEngine():
            if outside.life is not Life.NONE:
                raise Broken(f"start beside a living session: {effect!r}")
            if effect.offline and effect.target == outside.missed:
                raise Broken(f"once more without the hub after a file was missed: {effect!r}")
            return Outside(
                Life.EXECUTING,
                effect.target,
                effect.offline,
                fetching=outside.fetching,
                missed=outside.missed,
                failed=outside.failed,
            )
        case fx.KillSession():
            return replace(outside, killed=outside.life in (Life.EXECUTING, Life.RUNNING))
        case fx.ConfirmVacancy():
            return replace(outside, confirming=True)
        case fx.StartProbes():
            return replace(outside, probed=outside.life is Life.RUNNING)
        case fx.WatchLiveness():
            return replace(outside, watched=outside.life is Life.RUNNING)
        case fx.StopProbes():
            return replace(outside, probed=False, watched=False)
        case fx.CheckPort():
            return replace(outside, looking=True)
        case fx.CheckWeights() | fx.StartDownload():
            if outside.fetching is not None:
                raise Broken(f"two fetches at a time: {effect!r}")
            return replace(outside, fetching=type(effect))
        case fx.CancelDownload():
            return replace(outside, fetching=None)
        case _:
            return outside


def can_fail(effect: fx.Effect) -> bool:
    """Whether the failure of `effect` comes back as what says only that; other failures are moves of their own."""
    kind = type(effect)
    if kind not in CAN_FAIL:
        CAN_FAIL[kind] = isinstance(failure(effect, OSError("no"), 0.0), ev.EffectFailed)
    return CAN_FAIL[kind]


CAN_FAIL: dict[type[fx.Effect], bool] = {}


def outcomes(effects: tuple[fx.Effect, ...], outside: Outside) -> Iterator[Outside]:
    """Yield what may be true after `effects`: all done; and for each that can fail, all but that one.

    Of two failures at a time the first is told before the next effect fails.
    """
    may_fail = [effect for effect in effects if can_fail(effect)] if not outside.failed else []
    for failing in (None, *may_fail):
        around = outside
        for effect in effects:
            around = replace(around, failed=(effect,)) if effect is failing else performed(effect, around)
        yield around


# --- the search --------------------------------------------------------------------------------------------------


@dataclass
class Search:
    """Breadth first, from a controller that has just begun."""

    settings: Settings = SMALL
    states: int = 1_000_000
    """Where to stop at the latest."""
    depth: int = 1_000
    until: float = math.inf
    """Monotonic time at which to stop."""
    situations: list[Situation] = field(default_factory=list)
    origins: list[tuple[int, Move | None]] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    edges: int = 0
    expanded: int = 0
    cells: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.seen: set[tuple[Any, ...]] = set()
        self.add(Situation(Snapshot(settings=self.settings), Outside(), 0.0), -1, None)

    @property
    def complete(self) -> bool:
        """Whether nothing is left that was found and not gone on from."""
        return self.expanded == len(self.situations)

    def add(self, situation: Situation, origin: int, move: Move | None) -> None:
        """Take in a situation unless one that looks the same is known."""
        known = len(self.seen)
        self.seen.add(look(situation))
        if len(self.seen) == known:
            return
        self.situations.append(situation)
        self.origins.append((origin, move))
        self.depths.append(self.depths[origin] + 1 if move else 0)
        tell(situation)

    def run(self) -> Search:
        """Go on until everything is visited, or a limit reached."""
        began = time.monotonic()
        while self.expanded < len(self.situations):
            if len(self.situations) >= self.states or self.depths[self.expanded] >= self.depth:
                break
            if time.monotonic() > self.until:
                break
            self.expand(self.expanded)
            self.expanded += 1
        self.seconds = time.monotonic() - began
        return self

    def expand(self, index: int) -> None:
        """Let everything happen that can happen in one situation."""
        situation = self.situations[index]
        if situation.over:
            return
        for move in moves(situation):
            self.edges += 1
            try:
                for following in self.follow(situation, move):
                    self.add(following, index, move)
            except Exception as error:
                raise Broken(f"{error}\n{self.program(index, move)}") from error

    def follow(self, situation: Situation, move: Move) -> Iterator[Situation]:
        """Yield what one event leads to."""
        before, event = situation.snapshot, move.event
        if event is None:
            yield replace(situation, now=situation.now + LONG)
            return
        state = before.state.value
        fault = AGAIN if move.again else faults.name(before, event)
        if fault:
            self.faults[fault, state] += 1
        past = late(before, event)
        if not past and not (before.stopping and not isinstance(event, ev.StopRequested)):
            self.cells[state, type(event).__name__] += 1
        snapshot, effects = step(before, event)
        over = any(isinstance(effect, fx.Exit) for effect in effects)
        same = not effects and (snapshot is before or past)
        for outside in outcomes(effects, move.outside):
            running = outside.life is not Life.NONE
            promise = broken(
                Seen(
                    before,
                    event,
                    snapshot,
                    effects,
                    living=int(running),
                    serving=outside.target,
                    passed=outside.passed,
                    timers=dict(snapshot.timers),
                )
            )
            if promise or (over and running):
                raise Broken(promise or "the controller left an engine behind")
            if not same or outside is not situation.outside:
                yield Situation(snapshot, outside, event.at, over)

    def settle(self, index: int) -> float:
        """Let the faults end in one situation; return after how many simulated seconds its state was the last."""
        try:
            return settling(self.situations[index])
        except Broken as error:
            raise Broken(f"{error}\n{self.program(index)}") from error

    def program(self, index: int, *last: Move) -> str:
        """Return the events that lead to a situation, as Python."""
        path: list[Move] = list(last)
        while index >= 0:
            index, move = self.origins[index]
            if move is not None:
                path.insert(0, move)
        return "\n".join(repr(move.event) if move.event else f"time passes: {LONG} s" for move in path)

    def __str__(self) -> str:
        how = "nothing new is left" if self.complete else f"all within {self.depths[self.expanded]} of them"
        return (
            f"{len(self.situations):,} situations up to {self.depths[-1]} events from the start, {how}; "
            f"{self.edges:,} events fed to {self.expanded:,} of them"
        )


def wall(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def tell(situation: Situation) -> None:
    """Health can be told in every situation, and never tells the key."""
    text = json.dumps(health.document(situation.snapshot, wall, "boot"))
    if any(key.reveal() in text for key in KEYS):
        raise Broken(f"a key is told: {text}")


# --- and then all is well ----------------------------------------------------------------------------------------


def world_of(situation: Situation) -> World:
    """Return a kind world in this situation: nobody edits, nothing fails, what is under way ends well."""
    snapshot, outside = situation.snapshot, situation.outside
    world = World(0, settings=snapshot.settings, faults=Faults.none(), edits=False)
    world.now, world.snapshot, world.wanted, world.missed = situation.now, snapshot, snapshot.target, outside.missed
    for timer, due in snapshot.timers:
        world.timers[timer] = due
        world.schedule(max(0.0, due - world.now), timer(0.0, due))
    epoch = snapshot.epoch
    if outside.life is not Life.NONE:
        assert outside.target is not None
        executed, leader = outside.life is not Life.EXECUTING, outside.life is not Life.LEFT
        process = Process(epoch, outside.target, outside.offline, executed, leader)
        process.probed, process.watched, process.passed = outside.probed, outside.watched, outside.passed
        world.processes = [process]
        if outside.killed:
            world.kill(fx.KillSession(epoch))
        elif not executed:
            world.schedule(SHORT, ev.EngineStarted(0.0, epoch, 1))
    if outside.confirming:
        world.schedule(SHORT, ev.EngineVacated(0.0, epoch))
    if outside.looking:
        world.schedule(SHORT, ev.PortFree(0.0, epoch))
    if outside.fetching is not None:
        world.fetching = snapshot.fetch
        found = ev.WeightsMissing if outside.fetching is fx.CheckWeights else ev.WeightsComplete
        world.schedule(SHORT, found(0.0, snapshot.fetch))
    for effect in outside.failed:
        event = failure(effect, OSError("no"), 0.0)
        assert event is not None
        world.schedule(0.0, event)
    return world


def settling(situation: Situation) -> float:
    """Let the faults end; return after how many simulated seconds the last change of state came.

    Raises `Broken` if the world is not as the files ask in the end, or an invariant did not hold on the way.
    """
    if situation.over:
        return 0.0
    world = world_of(situation)
    world.settle(PATIENCE)
    wrong = world.settled()
    if situation.snapshot.stopping and not world.exits:
        wrong = f"asked to end, and did not: {world.snapshot!r}"
    if wrong:
        raise Broken(f"does not settle: {wrong}")
    return max(0.0, world.snapshot.since - situation.now)


# --- the report --------------------------------------------------------------------------------------------------

CELLS = [(state.value, trigger_name(trigger)) for trigger in SERVICE_TRIGGERS for state in Service]
REASONS = {(row.source.value, trigger_name(row.trigger)): row.why for row in SERVICE}


def unmet(search: Search) -> list[str]:
    """Return the cells of the service table that were not met, each with what the table says of it."""
    return [f"{event} in {state}: {REASONS[state, event]}" for state, event in CELLS if not search.cells[state, event]]


def main() -> None:
    """Search, settle, print."""
    parser = argparse.ArgumentParser(description="visit every situation that can be reached")
    parser.add_argument("--states", type=int, default=20_000, help="where to stop")
    parser.add_argument("--depth", type=int, default=1_000, help="where to stop")
    parser.add_argument("--settle", type=int, default=10, metavar="N", help="settle every Nth situation")
    parser.add_argument("--immediate", action="store_true", help="with swaps at once, and a fallback")
    options = parser.parse_args()
    with counting() as rows:
        settings = replace(SMALL, swap_after_download=not options.immediate, fallback=options.immediate)
        search = Search(settings, options.states, options.depth).run()
    print(f"{search}; {search.seconds:.1f} s")
    print("cells not met:", *unmet(search), sep="\n  ")
    print("rows not taken:", *map(shown, never_taken(rows)), sep="\n  ")
    longest = max(search.settle(index) for index in range(0, len(search.situations), options.settle))
    print(f"settled; the longest took {longest:,.0f} simulated seconds")


if __name__ == "__main__":
    main()
