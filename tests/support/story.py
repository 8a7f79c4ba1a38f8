"""Telling a story to the core: events in, with the numbers filled in; what happened is remembered."""

from __future__ import annotations

from typing import Any

from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core import naming
from vllm_fsm.core.machine import step
from vllm_fsm.core.snapshot import Finding, Secret, Settings, Snapshot, Target

KEY = Secret("a" * 22)
OTHER_KEY = Secret("b" * 22)
CRASH = Finding.of("EngineExited", status=1, line="nothing")
WRONG = Finding.of("BadArguments", permanent=True, detail="unrecognized arguments: --oops")
FULL = Finding.of("GpuMemoryFullUnmeasured")
TAKEN = Finding.of("PortTaken", port=8000, holder="nginx (pid 7)")
HUB_DOWN = Finding.of("HubUnreachable", host="hub.example")
MISSED = Finding.of("FileMissing", line="LocalEntryNotFoundError")


def target(model: str = "org/one", *arguments: str, key: Secret = KEY, problem: Finding | None = None) -> Target:
    """Make a target."""
    return Target((model, *arguments), (), key, model, problem)


class Story:
    """A controller in somebody's hands."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.snapshot = Snapshot(settings=Settings(**settings), since=self.now)
        self.effects: tuple[fx.Effect, ...] = ()

    @property
    def state(self) -> str:
        return self.snapshot.state.value

    def wait(self, seconds: float) -> Story:
        """Let time pass; nothing fires by itself."""
        self.now += seconds
        return self

    def happens(self, kind: type[ev.Event], *fields: Any) -> Story:
        """Feed an event whose time and number are filled in."""
        numbers: tuple[Any, ...] = ()
        if issubclass(kind, ev.EngineEvent):
            numbers = (self.snapshot.epoch,)
        elif issubclass(kind, ev.FetchEvent):
            numbers = (self.snapshot.fetch,)
        return self.feed(kind(self.now, *numbers, *fields))

    def feed(self, event: ev.Event) -> Story:
        """Feed an event as it is."""
        self.snapshot, self.effects = step(self.snapshot, event)
        assert self.snapshot.state is naming.name(self.snapshot)
        return self

    def fires(self, timer: type[ev.Timer]) -> Story:
        """Let an armed timer fire in time."""
        due = self.snapshot.due(timer)
        assert due is not None, f"{timer.__name__} is not armed"
        self.now = max(self.now, due)
        return self.feed(timer(self.now, due))

    def does(self, kind: type[fx.Effect]) -> bool:
        """Whether the last event led to such an effect."""
        return any(isinstance(effect, kind) for effect in self.effects)

    def the(self, kind: type[fx.Effect]) -> Any:
        """Return the only such effect of the last event."""
        (effect,) = [effect for effect in self.effects if isinstance(effect, kind)]
        return effect

    # --- chapters ------------------------------------------------------------------------------------------------

    def wants(self, wanted: Target | None) -> Story:
        return self.happens(ev.WantedChanged, wanted)

    def loading(self, wanted: Target | None = None) -> Story:
        """The files ask for something that is cached; its engine is executed."""
        self.wants(wanted or target()).happens(ev.WeightsComplete)
        return self.happens(ev.EngineStarted, 77)

    def ready(self, wanted: Target | None = None) -> Story:
        return self.loading(wanted).wait(20).happens(ev.ProbePassed)

    def crashes(self, finding: Finding = CRASH) -> Story:
        return self.happens(ev.EngineExited, 1, finding).happens(ev.EngineVacated)

    def swapping(self, wanted: Target | None = None) -> Story:
        """Ready, and another model is downloading."""
        self.ready().wants(wanted or target("org/two"))
        return self.happens(ev.WeightsMissing)
