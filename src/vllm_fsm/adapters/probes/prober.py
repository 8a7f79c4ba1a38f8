"""Tells whether the engine's port is free, whether the engine is ready, and whether it stays so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vllm_fsm.adapters.aside import aside
from vllm_fsm.adapters.probes.api import EngineApi, port_taken
from vllm_fsm.adapters.probes.listeners import listening, survey
from vllm_fsm.adapters.probes.liveness import Liveness
from vllm_fsm.adapters.probes.pace import Pace
from vllm_fsm.adapters.probes.readiness import Readiness
from vllm_fsm.core.events import EffectFailed, PortFree, PortTaken
from vllm_fsm.core.snapshot import Finding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vllm_fsm.adapters.ports import Clock, Log, Post
    from vllm_fsm.core.effects import CheckPort, EngineEffect, StartProbes, StopProbes, WatchLiveness


class Prober:
    """Probes one engine start at a time; `host` and `port` are what the engine is told to listen on.

    Every method returns at once. What is found comes as an event with the epoch of the effect that asked; after `stop`
    or another `start` nothing more comes about the earlier one. `guard_all`: the engine asks for the key everywhere.
    `intervals` are the fields of `Pace`.
    """

    def __init__(
        self, post: Post, clock: Clock, log: Log, host: str, port: int, guard_all: bool = False, **intervals: float
    ) -> None:
        self._post = post
        self._clock = clock
        self._log = log
        self._host = host
        self._port = port
        self._guard_all = guard_all
        self._pace = Pace(**intervals)
        self._epoch: int | None = None
        self._api: EngineApi | None = None
        self._readiness: Readiness | None = None
        self._probing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        """Everything that has not ended yet, what was cancelled included."""

    def start(self, effect: StartProbes) -> None:
        """Probe until the engine is proven → ProbePassed; PortTaken when somebody else listens instead of it."""
        self._cancel()
        key = effect.target.key
        limit = self._pace.answer_limit
        api = EngineApi(self._host, self._port, effect.pid, key, self._clock, limit, guard_all=self._guard_all)
        self._epoch, self._api = effect.epoch, api
        self._readiness = Readiness(api, effect, self._pace, self._post, self._clock, self._log)
        self._probing = self._begin(self._readiness.run, effect)

    def watch(self, effect: WatchLiveness) -> None:
        """See that the engine stays alive and steps → EngineDead, PortTaken, EngineStuck, EngineStepped."""
        if effect.epoch != self._epoch or self._api is None or self._readiness is None:
            error = "this engine start was never probed"
            self._log("effect-failed", epoch=effect.epoch, effect=type(effect).__name__, error=error)
            finding = Finding.of("EffectFailed", effect=type(effect).__name__, error=error)
            self._post(EffectFailed(self._clock(), effect.epoch, effect, finding))
            return
        self._cancel()
        watched = Liveness(
            self._api, effect.epoch, self._readiness.model, self._pace, self._post, self._clock, self._log
        )
        self._probing = self._begin(watched.run, effect)

    def stop(self, effect: StopProbes) -> None:
        """Ask this engine nothing more."""
        if effect.epoch == self._epoch:
            self._cancel()
            self._epoch = self._api = self._readiness = None

    def check_port(self, effect: CheckPort) -> None:
        """Look who listens on the port now → PortFree, PortTaken."""
        self._begin(lambda: self._look(effect), effect)

    async def close(self) -> None:
        """End all probing and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, effect: CheckPort) -> None:
        try:
            rows = listening(self._port, self._host)
        except OSError as error:
            # Unknown is not taken: an engine that finds the port in use says so and ends.
            self._log("port-unknown", epoch=effect.epoch, error=repr(error))
            rows = ()
        if not rows:
            self._post(PortFree(self._clock(), effect.epoch))
            return
        found = await aside(survey, rows, None)
        self._post(PortTaken(self._clock(), effect.epoch, port_taken(self._port, found.holder)))

    def _begin(self, act: Callable[[], Awaitable[None]], effect: EngineEffect) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._do(act, effect), name=type(effect).__name__)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _do(self, act: Callable[[], Awaitable[None]], effect: EngineEffect) -> None:
        """Do `act`; begin it anew when it fails: the core waits for what it finds, however wrong we are in here."""
        while True:
            try:
                await act()
                return
            except Exception as error:
                # Only its kind and place: the text may quote what was sent.
                self._log("probe-error", epoch=effect.epoch, effect=type(effect).__name__, error=_place(error))
            await asyncio.sleep(self._pace.late_look)

    def _cancel(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None


def _place(error: BaseException) -> str:
    """Say what kind of exception it is and where it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" in {trace.tb_frame.f_code.co_qualname}, line {trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
