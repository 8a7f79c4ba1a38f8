"""The measuring act behind staying Ready: the server says that its engine lives, and the engine steps."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING

from vllm_fsm.adapters.probes import http
from vllm_fsm.adapters.probes.api import SIGHTINGS, port_taken
from vllm_fsm.adapters.probes.listeners import Ownership
from vllm_fsm.core.events import EngineDead, EngineStepped, EngineStuck, PortTaken
from vllm_fsm.core.snapshot import Finding

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Clock, Log, Post
    from vllm_fsm.adapters.probes.answers import Steps
    from vllm_fsm.adapters.probes.api import EngineApi
    from vllm_fsm.adapters.probes.pace import Pace


class _Canary(Enum):
    ANSWERED = "answered"
    UNANSWERED = "unanswered"
    UNASKED = "unasked"
    """We could not ask, or somebody else listens: this says nothing about the engine."""


class Liveness:
    """Watches one proven engine; `model` is its name in `/v1/models`."""

    def __init__(self, api: EngineApi, epoch: int, model: str, pace: Pace, post: Post, clock: Clock, log: Log) -> None:
        self._api = api
        self._epoch = epoch
        self._model = model
        self._pace = pace
        self._post = post
        self._clock = clock
        self._log = log
        self._noted: dict[str, str] = {}

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_health())
            group.create_task(self._watch_steps())

    # --- does the server say that its engine lives? ---

    async def _watch_health(self) -> None:
        sightings = 0
        status: int | None = None
        while True:
            await asyncio.sleep(
                min(self._pace.late_look, self._pace.health_every)
                if 0 < sightings < SIGHTINGS
                else self._pace.health_every
            )
            survey = await self._api.owner()
            self._note("listener", survey.ownership.value)
            if survey.ownership is Ownership.FOREIGN:
                sightings += 1
                if sightings == SIGHTINGS:
                    finding = port_taken(self._api.port, survey.holder)
                    self._post(PortTaken(self._clock(), self._epoch, finding))
                continue
            sightings = 0
            before, status = status, None
            try:
                status = await self._api.health()
            except http.NoAnswer as error:
                # Not a verdict: the end of the process is noticed elsewhere, a hang by the canary.
                self._note("health", str(error))
                continue
            self._note("health", str(status))
            if status == 503 and before != 503:
                # vLLM answers 503 when its engine is dead and at no other time (`serve/instrumentator/health.py`).
                self._post(EngineDead(self._clock(), self._epoch, Finding.of("EngineDead")))

    # --- does the engine step? ---

    async def _watch_steps(self) -> None:
        seen = await self._steps()
        answered = self._clock()  # the token that proved it
        while True:
            await asyncio.sleep(self._pace.step_every)
            seen, moved = await self._moved(seen)
            if moved:
                self._stepped("counter")
            elif self._clock() - answered >= self._pace.canary_idle:
                seen, by_canary = await self._ask_until_known(seen)
                if by_canary:
                    answered = self._clock()

    async def _ask_until_known(self, seen: Steps | None) -> tuple[Steps | None, bool]:
        """Send canaries until it is known how the engine is; EngineStuck for each one in vain.

        Returns what was last seen of the engine's steps, and whether a canary was answered.
        """
        while True:
            canary = await self._canary()
            if canary is _Canary.UNASKED:
                await asyncio.sleep(self._pace.canary_retry)
                continue
            # Read afterwards: the canary's own token must not count as a movement later.
            seen, moved = await self._moved(seen)
            if canary is _Canary.ANSWERED or moved:
                self._stepped("canary" if canary is _Canary.ANSWERED else "counter")
                return seen, canary is _Canary.ANSWERED
            self._post(EngineStuck(self._clock(), self._epoch))

    async def _canary(self) -> _Canary:
        """Ask for one token until somebody answers, at most for the canary's time.

        4xx is an answer (the model does not generate, or there are too many requests: the server handles them). 5xx,
        a closed connection and a refused one are none: no token came, and `/health` may say 200 to it for ever. They
        come at once, though, so they are asked again within the same time, and a short disturbance is no strike.
        """
        end = self._clock() + self._pace.canary_limit
        verdict = _Canary.UNANSWERED
        while (left := end - self._clock()) > 0:
            if (await self._api.owner()).ownership is Ownership.FOREIGN:
                return _Canary.UNASKED
            try:
                status = (await self._api.token(self._model, left)).status
            except http.Unable as error:
                self._note("canary", str(error))
                verdict = _Canary.UNASKED
            except http.NoAnswer as error:
                self._note("canary", str(error))
            else:
                self._note("canary", str(status))
                if status == 200 or 400 <= status < 500:
                    return _Canary.ANSWERED
            await asyncio.sleep(max(0.0, min(self._pace.canary_retry, end - self._clock())))
        return verdict

    async def _moved(self, seen: Steps | None) -> tuple[Steps | None, bool]:
        """Read the counters: what to compare with next time, and whether they moved; unreadable is unmoved."""
        now = await self._steps()
        return (seen if now is None else now), None not in (seen, now) and now != seen

    async def _steps(self) -> Steps | None:
        if (await self._api.owner()).ownership is Ownership.FOREIGN:
            return None
        steps = await self._api.steps()
        self._note("metrics", "unreadable" if steps is None else "read")
        return steps

    def _stepped(self, how: str) -> None:
        self._note("steps", how)
        self._post(EngineStepped(self._clock(), self._epoch))

    def _note(self, check: str, what: str) -> None:
        """Log what a check shows when it shows something else than before."""
        if self._noted.get(check) != what:
            self._noted[check] = what
            self._log("liveness", epoch=self._epoch, check=check, shows=what)
