"""The measuring act behind Ready: wait until the engine listens, then ask it everything that makes it proven."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, TypeVar

from vllm_fsm.adapters.probes import answers, http
from vllm_fsm.adapters.probes.api import SIGHTINGS, port_taken
from vllm_fsm.adapters.probes.listeners import Ownership
from vllm_fsm.arguments import served_names
from vllm_fsm.core.events import PortTaken, ProbePassed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from vllm_fsm.adapters.ports import Clock, Log, Post
    from vllm_fsm.adapters.probes.api import EngineApi
    from vllm_fsm.adapters.probes.pace import Pace
    from vllm_fsm.core.effects import StartProbes

T = TypeVar("T")

_COST_SHARE: Final = 50
"""Waiting for the listener takes at most one such part of a core, however slow a look is here."""
_NOT_OURS: Final = (401, 403, 429)
"""Refusals that say nothing about whether the model generates."""


class Doubt(Exception):
    """A check that did not pass."""

    def __init__(self, why: str, *, foreign: bool = False, holder: str | None = None) -> None:
        super().__init__(why)
        self.foreign = foreign
        self.holder = holder


class Readiness:
    """Probes one engine start until it is proven."""

    def __init__(self, api: EngineApi, effect: StartProbes, pace: Pace, post: Post, clock: Clock, log: Log) -> None:
        self._api = api
        self._effect = effect
        self._pace = pace
        self._post = post
        self._clock = clock
        self._log = log
        self._names = served_names(effect.target.arguments, effect.target.model)
        self._check = ""
        self._spent: dict[str, float] = {}
        self._generated = False
        self.model = self._names[0]
        """The name to ask for; once `/v1/models` was read, as it is listed there."""

    async def run(self) -> None:
        """Look and ask until everything passes, then post ProbePassed; PortTaken once for each lasting sighting."""
        wait = self._pace.retry
        last: tuple[str, str] | None = None
        sightings = 0
        while True:
            await self._until_listening()
            found = self._clock()
            try:
                await self._prove()
                break
            except (Doubt, http.NoAnswer) as doubt:
                seen = (self._check, str(doubt))
                foreign = isinstance(doubt, Doubt) and doubt.foreign
                holder = doubt.holder if isinstance(doubt, Doubt) else None
            wait = self._pace.retry if seen != last else min(2 * wait, self._pace.late_look)
            if seen != last:
                self._log("probe-failed", epoch=self._effect.epoch, check=seen[0], why=seen[1])
            last = seen
            sightings = sightings + 1 if foreign else 0
            if sightings == SIGHTINGS:
                finding = port_taken(self._api.port, holder)
                self._post(PortTaken(self._clock(), self._effect.epoch, finding))
            if sightings >= SIGHTINGS or self._late():
                wait = self._pace.late_look
            await asyncio.sleep(wait)
        self._log(
            "probe-passed",
            epoch=self._effect.epoch,
            model=self.model,
            milliseconds=round(1e3 * (self._clock() - found), 1),
            answers={name: round(1e3 * seconds, 1) for name, seconds in self._spent.items()},
        )
        self._post(ProbePassed(self._clock(), self._effect.epoch))

    async def _until_listening(self) -> None:
        while True:
            began = time.thread_time()
            try:
                if self._api.listeners():
                    return
            except OSError:
                return  # it cannot be looked at: the questions find out
            cost = time.thread_time() - began
            wait = max(self._pace.look, min(_COST_SHARE * cost, self._pace.late_look))
            await asyncio.sleep(self._pace.late_look if self._late() else wait)

    def _late(self) -> bool:
        return self._clock() >= self._effect.deadline

    async def _prove(self) -> None:
        """Pass all checks in order. Raises Doubt or http.NoAnswer; `_check` names the one that failed."""
        await self._listener()
        open_door = await self._asked("key", self._api.models(key=False))
        if open_door.status != 401:
            raise Doubt(f"/v1/models answered {open_door.status} without a key")
        models = await self._asked("models", self._api.models(key=True))
        if models.status != 200:
            raise Doubt(f"/v1/models answered {models.status} with our key")
        model = answers.listed_model(models.body, self._names, self._effect.target.model)
        if model is None:
            raise Doubt(f"/v1/models does not name {' or '.join(self._names)}")
        self.model = model
        health = await self._asked("health", self._api.health())
        if health != 200:
            raise Doubt(f"/health answered {health}")
        await self._token()
        # The port may have changed hands while we asked.
        await self._listener()

    async def _listener(self) -> None:
        self._check = "listener"
        survey = await self._api.owner()
        if survey.ownership is Ownership.NONE:
            raise Doubt("nobody listens")
        if survey.ownership is Ownership.FOREIGN:
            raise Doubt(f"held by {survey.holder}", foreign=True, holder=survey.holder)

    async def _token(self) -> None:
        if self._generated:
            return
        rest = self._effect.deadline - self._clock()
        answer = await self._asked("token", self._api.token(self.model, max(rest, self._pace.canary_limit)))
        if answer.status == 200 and not answers.generated(answer.body):
            raise Doubt("/v1/completions answered 200 without a completion")
        if answer.status != 200:
            if not 400 <= answer.status < 500 or answer.status in _NOT_OURS:
                raise Doubt(f"/v1/completions answered {answer.status}")
            self._log("probe-no-generation", epoch=self._effect.epoch, status=answer.status)
        self._generated = True

    async def _asked(self, check: str, question: Awaitable[T]) -> T:
        self._check = check
        began = self._clock()
        try:
            return await question
        finally:
            self._spent[check] = self._clock() - began
