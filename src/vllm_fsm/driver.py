"""The one reader of the inbox: event in, `step`, effects out. It decides nothing and waits for nobody.

An effect is handed to the adapter that does it; what comes of it is posted back. An effect that cannot even be handed
over comes back as the event that would end it. Observers are told of every step and may fail: that is logged once for
each and the loop goes on. A failure of `step` itself is a bug of ours: the caller ends the engine and exits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vllm_fsm.core import effects as fx
from vllm_fsm.core import events as ev
from vllm_fsm.core.machine import step
from vllm_fsm.core.snapshot import Finding, Snapshot

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock, Log

Handler = Callable[[Any], None]
Observer = Callable[[Snapshot, ev.Event, Snapshot], None]


class Driver:
    """Runs the core: owns the snapshot, the inbox, the handlers of effects and the observers."""

    def __init__(self, snapshot: Snapshot, clock: Clock, log: Log) -> None:
        self.snapshot = snapshot
        self.handlers: Mapping[type[fx.Effect], Handler] = {}
        self.observers: list[Observer] = []
        self._clock = clock
        self._log = log
        self._failing: set[Observer] = set()
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._exit: int | None = None

    def post(self, event: ev.Event) -> None:
        """Put `event` into the inbox."""
        self._inbox.put_nowait(event)

    async def run(self) -> int:
        """Take events until the core says that the controller ends; return the exit code.

        Raises:
            Exception: whatever `step` raised; the snapshot is the one before that event.
        """
        while self._exit is None:
            self.take(await self._inbox.get())
        return self._exit

    def settle(self) -> None:
        """Take what is in the inbox by now."""
        while self._exit is None and not self._inbox.empty():
            self.take(self._inbox.get_nowait())

    def take(self, event: ev.Event) -> None:
        """Decide on one event and start what follows from it."""
        before = self.snapshot
        self.snapshot, effects = step(before, event)
        self._tell(before, event)
        self._perform(effects)

    def _perform(self, effects: Sequence[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Exit):
                self._exit = effect.code
                continue
            try:
                self.handlers[type(effect)](effect)
            except Exception as error:
                self._log("effect-failed", effect=type(effect).__name__, error=repr(error))
                ending = failure(effect, error, self._clock())
                if ending is not None:
                    self.post(ending)

    def _tell(self, before: Snapshot, event: ev.Event) -> None:
        for observer in self.observers:
            try:
                observer(before, event, self.snapshot)
            except Exception as error:
                if observer not in self._failing:
                    self._failing.add(observer)
                    self._log("observer-failed", observer=observer.__qualname__, error=repr(error))


def failure(effect: fx.Effect, error: Exception, now: float) -> ev.Event | None:
    """The event that ends `effect` when it could not be begun; None where its failure changes nothing."""
    detail = f"{type(error).__name__}: {error}"
    finding = Finding.of("EffectFailed", effect=type(effect).__name__, error=detail)
    match effect:
        case fx.StartEngine():
            return ev.StartFailed(now, effect.epoch, Finding.of("EngineStartFailed", error=detail))
        case fx.CheckWeights() | fx.StartDownload():
            return ev.DownloadFailed(now, effect.fetch, Finding.of("DownloadFailed", error=detail))
        case fx.TakePulse():
            return ev.PulseTaken(now, effect.epoch, moved=True)  # what cannot be seen is no hang
        case fx.TerminateEngine() | fx.KillSession() | fx.ConfirmVacancy() | fx.StartProbes() | fx.WatchLiveness():
            return ev.EffectFailed(now, effect.epoch, effect, finding)
        case _:
            return None
