"""A seeded world around the core: engine, hub, files, port and clock, with faults. The real `step`, nothing else real.

    python -m support.world SEED [EVENTS]     replay a seed, printing each event as Python

A world is driven by virtual time: whatever an effect causes is scheduled, and comes back as an event. Every step is
followed by all the invariants of `check`.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from support.invariants import Seen, broken
from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.machine import step
from vllm_fsm.core.snapshot import Finding, Message, Progress, Secret, Settings, Snapshot, Target
from vllm_fsm.core.states import Engine, Phase, Service

KEYS = [Secret(f"{letter * 22}") for letter in "kqz"]
MODELS = ["org/one", "org/two", "org/three"]
BAD = Finding.of("BadArguments", permanent=True, detail="no model")
TRANSIENT = Finding.of("EngineExited", status=1, line="nothing")
PASSED = [
    TRANSIENT,
    *(Finding.of(reason) for reason in ("GpuBusyUnmeasured", "GpuMemoryFullUnmeasured", "MachineMemoryFull")),
    *(Finding.of(reason) for reason in ("EngineVanished", "PortInUse")),
]
"""Why an engine ends that may start the next time; some of it is not believed twice."""
PERMANENT = Finding.of("BadArguments", permanent=True, detail="unrecognized arguments")
MISSED = Finding.of("FileMissing", line="LocalEntryNotFoundError")
PASSING = [
    Finding.of(reason)
    for reason in ("HubUnreachable", "HubRateLimited", "HubError", "DownloadStalled", "DownloadCut", "CacheLocked")
]
"""What ends an attempt at a download and may pass by itself."""
WRONG_BYTES = Finding.of("ChecksumWrong")
HOPELESS = [
    Finding.of(reason, permanent=True)
    for reason in ("GatedRepo", "ModelNotFound", "RevisionNotFound", "TokenRefused", "DiskFull", "CacheNotWritable")
]
"""What ends it until somebody changes something."""
TAKEN = Finding.of("PortTaken", port=8000, holder="stranger (pid 7)")


@dataclass
class Process:
    """An engine process with its session, as the kernel sees it."""

    epoch: int
    target: Target
    offline: bool = False
    executed: bool = False
    leader: bool = True
    """The leader lives."""
    session: bool = True
    """Something of its session lives."""
    listens: bool = False
    hangs: bool = False
    """Answers `/health`, generates nothing."""
    deaf: int = 0
    """SIGTERMs it will swallow."""
    passed: bool = False
    """A probe of this epoch passed."""
    probed: bool = False
    watched: bool = False
    silent: bool = False
    """Does nothing at all, although it has not got to its end."""


@dataclass
class Faults:
    """How rude the world is: probabilities."""

    refuse_start: float = 0.05
    hang_start: float = 0.05
    exit_early: float = 0.15
    permanent: float = 0.2
    never_listen: float = 0.05
    silent: float = 0.05
    die_when_ready: float = 0.3
    hang: float = 0.1
    wake: float = 0.5
    deaf: float = 0.2
    survivors: float = 0.2
    effect_fails: float = 0.1
    missing: float = 0.4
    download_fails: float = 0.4
    check_fails: float = 0.03
    misses: float = 0.1
    """An engine with the hub switched off looks for a file that nobody could know of."""
    stranger: float = 0.03
    repeat: float = 0.05
    """A past event comes once more, late."""

    @classmethod
    def none(cls) -> Faults:
        return cls(**dict.fromkeys(cls.__dataclass_fields__, 0.0))


class Broken(AssertionError):
    """An invariant does not hold; the message replays it."""


@dataclass
class World:
    """One controller and everything around it."""

    seed: int = 0
    settings: Settings | None = None
    """None: as the seed says."""
    faults: Faults = field(default_factory=Faults)
    edits: bool = True
    """Files change by themselves, requests come."""
    restarts: bool = True
    """After the controller ended in order, the next one begins."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.meddling = (0.15, 0.03, 0.002)[self.seed % 3]
        self.settings = self.settings or Settings(
            swap_after_download=self.seed % 4 != 0,
            download_tries=3 if self.seed % 5 else 10,
            fallback=self.seed % 3 == 1,
        )
        self.now = 0.0
        self.serial = 0
        self.queue: list[tuple[float, int, ev.Event]] = []
        self.log: list[ev.Event] = []
        self.keep_log = False
        self.counts: Counter[tuple[str, str]] = Counter()
        """Events by the state that they met."""
        self.struck: Counter[str] = Counter()
        """How often it was rude, in which way."""
        self.snapshot = Snapshot(settings=self.settings)
        self.processes: list[Process] = []
        self.cached: set[str] = set()
        self.fetching: int | None = None
        """The check or download that is under way."""
        self.missed: Target | None = None
        """What an engine with the hub switched off was to serve when it missed a file."""
        self.port_taken_until = -1.0
        self.timers: dict[type[ev.Timer], float] = {}
        self.wanted: Target | None = None
        self.key = KEYS[0]
        self.starts: list[float] = []
        self.starting: Target | None = None
        """What was started last."""
        self.exits = 0
        self.old: ev.Event | None = None
        if self.edits:
            self.schedule(0.0, ev.WantedChanged(0.0, self.some_target()))

    # --- time ----------------------------------------------------------------------------------------------------

    def schedule(self, delay: float, event: ev.Event) -> None:
        self.serial += 1
        heapq.heappush(self.queue, (self.now + delay, self.serial, event))

    def run(self, events: int) -> None:
        """Let `events` events happen."""
        for _ in range(events):
            if not self.turn():
                return

    def settle(self, seconds: float) -> None:
        """End all faults and edits and let `seconds` pass."""
        self.edits = False
        self.faults = Faults.none()
        self.port_taken_until = -1.0
        for process in self.processes:
            process.hangs = process.silent = False
            process.deaf = 0
            if process.leader and process.passed:
                self.schedule(1.0, ev.EngineStepped(0.0, process.epoch))
            elif process.leader and process.probed:
                process.listens = True
                self.schedule(1.0, ev.ProbePassed(0.0, process.epoch))
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.turn()
        self.now = end

    def turn(self) -> bool:
        """Take the next event; False when nothing is left to happen."""
        if self.edits and self.random.random() < self.meddling:
            self.meddle()
        while not self.queue:
            if not self.edits:
                return False
            self.meddle()
        at, _, event = heapq.heappop(self.queue)
        self.now = max(self.now, at)
        if isinstance(event, ev.Timer):
            if self.timers.get(type(event)) != event.due:
                event = type(event)(self.now, event.due)  # fires although it was cancelled: a race in the loop
            else:
                event = type(event)(self.now, event.due)
                del self.timers[type(event)]
        else:
            event = stamped(event, self.now)
            if isinstance(event, ev.WantedChanged):
                event = ev.WantedChanged(self.now, self.wanted)  # what is read is what stands there now
            if not self.world_allows(event):
                return True
        exits = self.exits
        self.feed(event)
        if self.exits != exits:
            return True  # what was of the last controller is forgotten
        if self.old is not None and self.fault("repeat"):
            self.feed(stamped(self.old, self.now))
            self.old = None
        elif self.random.random() < 0.1 and isinstance(event, NUMBERED):
            self.old = event
        return True

    def fault(self, name: str) -> bool:
        """Whether the world is rude now, in the way that `name` says."""
        if self.random.random() < getattr(self.faults, name):
            self.struck[name] += 1
            return True
        return False

    # --- the controller ------------------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Hand one event to the core, check everything, do what it says."""
        before = self.snapshot
        if self.keep_log:
            self.log.append(event)
        try:
            self.snapshot, effects = step(before, event)
        except Exception as error:
            raise Broken(f"{error!r} at {event!r}: seed {self.seed}, {before!r}") from error
        self.counts[before.state.value, type(event).__name__] += 1
        for effect in effects:
            self.perform(effect)
        self.check(before, event, effects)

    def perform(self, effect: fx.Effect) -> None:
        handler = HANDLERS[type(effect)]
        if self.faults.effect_fails and type(effect) in FALLIBLE and self.fault("effect_fails"):
            finding = Finding.of("EffectFailed", effect=type(effect).__name__)
            self.schedule(0.0, ev.EffectFailed(0.0, effect.epoch, effect, finding))  # type: ignore[attr-defined]
            return
        handler(self, effect)

    def check(self, before: Snapshot, event: ev.Event, effects: tuple[fx.Effect, ...]) -> None:
        """All the invariants."""
        process = self.process(self.snapshot.epoch)
        promise = broken(
            Seen(
                before,
                event,
                self.snapshot,
                effects,
                living=sum(p.session for p in self.processes),
                serving=process and process.target,
                passed=process is not None and process.passed,
                timers=self.timers,
            )
        )
        if promise:
            raise Broken(f"{promise}: seed {self.seed}, {len(self.log)} events, {event!r}, {self.snapshot!r}")

    def settled(self) -> str | None:
        """What is still not as the files ask, None when all is."""
        s = self.snapshot
        if self.wanted is None:
            good = s.state is Service.NO_MODEL and s.engine is Engine.ABSENT
        elif self.wanted.problem:
            good = s.state is Service.FAILED or (s.state is Service.READY and s.active != s.target)
        else:
            good = s.state is Service.READY and s.active == self.wanted
            blamed = s.finding is not None and s.finding.permanent and s.state is Service.FAILED
            held = s.next_problem is not None and s.next_problem.permanent and s.state is Service.READY
            good = good or blamed or held
        return None if good else f"wanted {self.wanted}, is {s!r}"

    # --- the engine ----------------------------------------------------------------------------------------------

    def process(self, epoch: int) -> Process | None:
        for process in reversed(self.processes):
            if process.epoch == epoch:
                return process
        return None

    def start_engine(self, effect: fx.StartEngine) -> None:
        if any(p.session for p in self.processes):
            raise Broken(f"start beside a living session: seed {self.seed}, {effect!r}")
        if effect.offline and effect.target == self.missed:
            raise Broken(f"once more without the hub after a file was missed: seed {self.seed}, {effect!r}")
        if self.now < self.port_taken_until:
            self.schedule(0.01, ev.StartFailed(0.0, effect.epoch, TAKEN))
            return
        self.note_start(effect)
        if self.fault("refuse_start"):
            self.schedule(0.01, ev.StartFailed(0.0, effect.epoch, self.some_finding()))
            return
        self.processes = [Process(effect.epoch, effect.target, offline=effect.offline)]
        process = self.processes[0]
        if self.fault("deaf"):
            process.deaf = self.random.choice([1, 1, 99])
        execution = 600.0 if self.fault("hang_start") else 0.02
        self.schedule(execution, ev.EngineStarted(0.0, effect.epoch, 1000 + effect.epoch))

    def note_start(self, effect: fx.StartEngine) -> None:
        """See that the policy alone does not start too often. Another target, or an act of a person, counts anew."""
        assert self.settings is not None
        if self.starting != effect.target:
            self.starting = effect.target
            self.starts.clear()
        window = self.settings.restart_window
        self.starts = [at for at in self.starts if self.now - at < window] + [self.now]
        # The first, those of the intensity, once more with the hub, and the one that rests.
        if len(self.starts) > self.settings.restart_intensity + 3:
            raise Broken(f"too many starts within {window:g} s: seed {self.seed}, {effect!r}, {self.starts}")

    def start_probes(self, effect: fx.StartProbes) -> None:
        process = self.process(effect.epoch)
        if process is None:
            return
        process.probed = True
        r = self.random.random
        if process.offline and self.fault("misses"):
            self.schedule(r() * 30, ev.EngineExited(0.0, effect.epoch, 1, MISSED))
        elif self.fault("exit_early"):
            self.schedule(r() * 30, ev.EngineExited(0.0, effect.epoch, 1, self.some_finding()))
        elif self.fault("never_listen"):
            pass
        elif self.fault("silent"):
            process.silent = True
        else:
            # Some come up after the deadline.
            slow = 40.0 if r() < 0.9 or not self.faults.never_listen else 6000.0
            process.listens = True
            for phase in self.random.sample(PHASES, 2):
                message = Message.of(f"Phase{phase.value}")
                self.schedule(r() * slow, ev.PhaseEntered(0.0, effect.epoch, phase, message))
            self.schedule(r() * slow, ev.ProbePassed(0.0, effect.epoch))

    def take_pulse(self, effect: fx.TakePulse) -> None:
        process = self.process(effect.epoch)
        moved = process is not None and not process.silent and self.random.random() < 0.8
        self.schedule(0.0, ev.PulseTaken(0.0, effect.epoch, moved, "the last line"))

    def watch(self, effect: fx.WatchLiveness) -> None:
        process = self.process(effect.epoch)
        if process is None:
            return
        process.watched = True
        r = self.random.random
        if self.fault("die_when_ready"):
            status = self.random.choice([0, 0, -9, 1])
            dead = ev.EngineDead(0.0, effect.epoch, Finding.of("EngineDead"))
            last = ev.EngineExited(0.0, effect.epoch, status, self.random.choice(PASSED))
            self.schedule(r() * self.random.choice([10, 1000]), self.random.choice([dead, last]))
        elif self.fault("hang"):
            process.hangs = True
            for i in range(1, 4):
                self.schedule(180.0 * i, ev.EngineStuck(0.0, effect.epoch))
            if self.fault("wake"):
                self.schedule(r() * 600.0, ev.EngineStepped(0.0, effect.epoch))
        else:
            self.schedule(60.0, ev.EngineStepped(0.0, effect.epoch))

    def terminate(self, effect: fx.TerminateEngine) -> None:
        process = self.process(effect.epoch)
        if process is None or not process.leader:
            return
        if process.deaf:
            process.deaf -= 1
            return
        self.schedule(0.3, ev.EngineExited(0.0, effect.epoch, 0, TRANSIENT))

    def kill(self, effect: fx.KillSession) -> None:
        process = self.process(effect.epoch)
        if process is None:
            return
        if not process.executed:
            self.processes.remove(process)
            self.schedule(0.01, ev.StartFailed(0.0, effect.epoch, TRANSIENT))
        elif process.leader:
            self.schedule(0.01, ev.EngineExited(0.0, effect.epoch, -9, TRANSIENT))

    def confirm(self, effect: fx.ConfirmVacancy) -> None:
        memory = effect.memory_wait * self.random.random() if self.fault("survivors") else 0.0
        self.schedule(0.01 + memory, ev.EngineVacated(0.0, effect.epoch))

    def check_port(self, effect: fx.CheckPort) -> None:
        if self.now < self.port_taken_until:
            self.schedule(0.0, ev.PortTaken(0.0, effect.epoch, TAKEN))
        else:
            self.schedule(0.0, ev.PortFree(0.0, effect.epoch))

    # --- the hub -------------------------------------------------------------------------------------------------

    def begin_fetch(self, effect: fx.CheckWeights | fx.StartDownload) -> None:
        if self.fetching is not None:
            raise Broken(f"two fetches at a time: seed {self.seed}, {effect!r} beside number {self.fetching}")
        self.fetching = effect.fetch

    def cancel_fetch(self, _effect: fx.CancelDownload) -> None:
        self.fetching = None

    def check_weights(self, effect: fx.CheckWeights) -> None:
        self.begin_fetch(effect)
        if self.fault("check_fails"):
            self.schedule(0.01, ev.DownloadFailed(0.0, effect.fetch, self.random.choice([*PASSING, *HOPELESS])))
        elif effect.target.model in self.cached or not self.fault("missing"):
            self.schedule(0.01, ev.WeightsComplete(0.0, effect.fetch, offline=self.random.random() < 0.8))
        else:
            self.schedule(0.01, ev.WeightsMissing(0.0, effect.fetch))

    def start_download(self, effect: fx.StartDownload) -> None:
        self.begin_fetch(effect)
        r = self.random.random
        at = 0.0
        for i in range(self.random.randrange(4)):
            at += r() * 30
            self.schedule(at, ev.DownloadProgressed(0.0, effect.fetch, Progress(effect.target.model, i * 1000, 4000)))
        at += r() * 30
        if self.fault("download_fails"):
            finding = self.random.choice(HOPELESS if self.fault("permanent") else [*PASSING, WRONG_BYTES])
            wait = self.random.choice([0.0, 0.0, 30.0])
            moved = finding != WRONG_BYTES and r() < 0.3
            self.schedule(at, ev.DownloadFailed(0.0, effect.fetch, finding, wait, moved))
        else:
            self.cached.add(effect.target.model)
            self.schedule(at, ev.WeightsComplete(0.0, effect.fetch, offline=r() < 0.8))

    # --- the rest ------------------------------------------------------------------------------------------------

    def arm(self, effect: fx.ArmTimer) -> None:
        self.timers[effect.timer] = effect.due
        self.schedule(effect.due - self.now, effect.timer(0.0, effect.due))

    def cancel(self, effect: fx.CancelTimer) -> None:
        del self.timers[effect.timer]

    def exit(self, _effect: fx.Exit) -> None:
        """The controller ends; the next one begins with nothing."""
        self.exits += 1
        if any(p.session for p in self.processes):
            raise Broken(f"the controller left an engine behind: seed {self.seed}")
        if not self.restarts:
            return
        self.queue.clear()
        self.old = None
        self.timers.clear()
        self.processes.clear()
        self.fetching = self.missed = None
        self.snapshot = Snapshot(settings=self.settings)
        self.schedule(0.5, ev.WantedChanged(0.0, self.wanted))

    def nothing(self, _effect: fx.Effect) -> None:
        """An effect whose end is silent."""

    def world_allows(self, event: ev.Event) -> bool:
        """Whether the event can still happen in this world, and what it does to it."""
        if isinstance(event, ev.FetchEvent):
            # Also what was cancelled may still arrive, as something that was posted already.
            if event.fetch == self.fetching and not isinstance(event, ev.DownloadProgressed):
                self.fetching = None
            if isinstance(event, ev.WeightsComplete):
                self.missed = None
        if isinstance(event, ev.EngineEvent):
            process = self.process(event.epoch)
            if isinstance(event, ev.EngineStarted):
                if process is None:
                    return False
                process.executed = True
            elif isinstance(event, ev.EngineExited):
                if process is None or not process.leader:
                    return False
                process.leader = process.listens = False
                # What an engine says that was asked to end counts for nothing.
                if process.offline and event.finding == MISSED and self.snapshot.engine is Engine.ALIVE:
                    self.missed = process.target
            elif isinstance(event, ev.EngineVacated):
                if process is not None:
                    if process.leader:
                        return False
                    process.session = False
            elif isinstance(event, ev.ProbePassed):
                if process is None or not process.leader or not process.listens:
                    return False
                process.passed = True
            elif isinstance(event, WATCHED):
                if process is None or not process.leader:
                    return False
                if isinstance(event, ev.EngineStepped):
                    process.hangs = False
                    if process.watched and not self.faults.hang and not self.faults.die_when_ready:
                        return True
                    self.schedule(60.0, ev.EngineStepped(0.0, event.epoch))
                elif isinstance(event, ev.EngineStuck) and not process.hangs:
                    return False
        return True

    def some_finding(self) -> Finding:
        return PERMANENT if self.fault("permanent") else self.random.choice(PASSED)

    def some_target(self) -> Target | None:
        dice = self.random.random()
        if dice < 0.1:
            target = None
        elif dice < 0.2:
            target = Target(("--oops",), (), self.key, "", BAD)
        else:
            model = self.random.choice(MODELS)
            extra = self.random.choice([(), ("--max-model-len", "256")])
            target = Target((model, *extra), (), self.key, model)
        self.wanted = target
        return target

    def meddle(self) -> None:
        """Somebody does something."""
        self.starts.clear()
        dice = self.random.random()
        if dice < 0.5:
            self.schedule(0.0, ev.WantedChanged(0.0, self.some_target()))
        elif dice < 0.6:
            self.key = self.random.choice(KEYS)
            if self.wanted is not None:
                old = self.wanted
                self.wanted = Target(old.arguments, old.environment, self.key, old.model, old.problem)
                self.schedule(0.0, ev.WantedChanged(0.0, self.wanted))
        elif dice < 0.75:
            self.schedule(0.0, ev.RetryRequested(0.0))
        elif dice < 0.8:
            self.struck["cache_lost"] += 1
            self.cached.discard(self.random.choice(MODELS))
        elif dice < 0.85:
            broken = Message.of("StoreBroken", detail="line 1")
            self.schedule(0.0, ev.WarningsChanged(0.0, self.random.choice([(), (broken,)])))
        elif dice < 0.85 + self.faults.stranger:
            self.struck["stranger"] += 1
            self.port_taken_until = self.now + self.random.random() * 60
            if self.snapshot.engine is Engine.ALIVE and self.random.random() < 0.3:
                self.schedule(0.0, ev.PortTaken(0.0, self.snapshot.epoch, TAKEN))
        elif dice > 0.99:
            self.schedule(0.0, ev.StopRequested(0.0))
            if self.random.random() < 0.3:
                self.schedule(self.random.random(), ev.StopRequested(0.0))


def stamped(event: ev.Event, now: float) -> ev.Event:
    """Return the event as if it happened now."""
    values = [getattr(event, name) for name in event.__dataclass_fields__]
    values[0] = now
    return type(event)(*values)


NUMBERED = (ev.EngineEvent, ev.FetchEvent)
PHASES = [phase for phase in Phase if phase is not Phase.READY]
WATCHED = (ev.EngineDead, ev.EngineStuck, ev.EngineStepped)
FALLIBLE = (fx.TerminateEngine, fx.KillSession, fx.ConfirmVacancy, fx.StartProbes, fx.WatchLiveness)
HANDLERS = {
    fx.StartEngine: World.start_engine,
    fx.TerminateEngine: World.terminate,
    fx.KillSession: World.kill,
    fx.TakePulse: World.take_pulse,
    fx.ConfirmVacancy: World.confirm,
    fx.StartProbes: World.start_probes,
    fx.WatchLiveness: World.watch,
    fx.StopProbes: World.nothing,
    fx.CheckPort: World.check_port,
    fx.CheckWeights: World.check_weights,
    fx.StartDownload: World.start_download,
    fx.CancelDownload: World.cancel_fetch,
    fx.ArmTimer: World.arm,
    fx.CancelTimer: World.cancel,
    fx.Exit: World.exit,
}


def main() -> None:
    """Replay a seed."""
    seed, events = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    world = World(seed)
    world.keep_log = True
    try:
        world.run(events)
        world.settle(7200.0)
    finally:
        for event in world.log[-40:]:
            print(event)
    print("settled" if world.settled() is None else world.settled())


if __name__ == "__main__":
    main()
