"""A Downloader with a fake hub in reach: effects in, what it posts out."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from support.wait import await_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.download.downloader import Downloader
from vllm_fsm.core import effects, events
from vllm_fsm.core.snapshot import Finding, Secret, Target

KEY = "kDownloadKey0123456789"
PATIENT = 600.0
"""Seconds of silence that no test waits for."""
LIMIT = 60.0
"""As in `support.wait`: the child that fetches is nice, and its imports take long on a busy machine."""
ENDINGS = (events.WeightsComplete, events.WeightsMissing, events.DownloadFailed)


class Rig:
    """`async with Rig(hub.url, models) as rig`: one downloader, all it posted and logged; nothing may be left of it.

    `pause`: seconds by which the downloader's clock goes on with each report, beside those that pass.
    """

    def __init__(
        self,
        endpoint: str,
        models: Path,
        *,
        silence: float = PATIENT,
        spare: int = 0,
        pause: float = 0.0,
        **options: Any,
    ) -> None:
        self.endpoint = endpoint
        self.models = models
        self.events: list[events.Event] = []
        self.logs: list[tuple[str, dict[str, object]]] = []
        self.fetch = 0
        self.passed = 0.0
        """Seconds by which the downloader's clock is ahead."""
        self._pause = pause
        self._change: tuple[float, int] | None = None
        self.downloader = Downloader(
            post=self._post,
            clock=lambda: time.monotonic() + self.passed,
            log=lambda event, /, **fields: self.logs.append((event, fields)),
            models=models,
            silence=silence,
            spare=spare,
            **options,
        )

    def _post(self, event: events.Event) -> None:
        self.events.append(event)
        if isinstance(event, events.DownloadProgressed):
            self.passed += self._pause
            if self._change is not None and event.progress.done >= self._change[1]:
                self.downloader._silence, self._change = self._change[0], None

    def allow(self, silence: float, after: int | None = None) -> None:
        """Let so much silence be too much, from now on or from the next report on that tells of `after` bytes."""
        self._change = None if after is None else (silence, after)
        if after is None:
            self.downloader._silence = silence

    def target(self, *arguments: str, **environment: str) -> Target:
        variables = {"HF_ENDPOINT": self.endpoint, **environment}
        return Target(arguments, tuple(sorted(variables.items())), Secret(KEY), arguments[0])

    def start(self, *arguments: str, **environment: str) -> None:
        """Begin an attempt at what `arguments` need."""
        self.fetch += 1
        self.downloader.start(effects.StartDownload(self.fetch, self.target(*arguments, **environment)))

    async def fetches(self, *arguments: str, timeout: float = LIMIT, **environment: str) -> Any:
        """Make an attempt and return the event that ends it."""
        self.start(*arguments, **environment)
        return await self.ending(timeout)

    def begin(self, *arguments: str, **environment: str) -> None:
        """Begin to look for what `arguments` need."""
        self.fetch += 1
        self.downloader.check(effects.CheckWeights(self.fetch, self.target(*arguments, **environment)))

    async def checks(self, *arguments: str, **environment: str) -> Any:
        """Look into the cache and return what came of it."""
        self.begin(*arguments, **environment)
        return await self.ending()

    async def fails(self, *arguments: str, **environment: str) -> Finding:
        """Make an attempt that fails and return why."""
        event = await self.fetches(*arguments, **environment)
        assert isinstance(event, events.DownloadFailed), event
        return event.finding

    async def ending(self, timeout: float = LIMIT) -> Any:
        def ended() -> events.Event | None:
            for event in self.events:
                if isinstance(event, ENDINGS) and event.fetch == self.fetch:
                    return event
            return None

        return await await_for(ended, timeout, f"an end of fetch {self.fetch}: {self.logs}")

    async def moves(self, least: int = 1, timeout: float = LIMIT) -> events.DownloadProgressed:
        """Wait until `least` bytes of the present attempt are there and return the report."""

        def moved() -> events.DownloadProgressed | None:
            for event in reversed(self.events):
                if isinstance(event, events.DownloadProgressed) and event.fetch == self.fetch:
                    return event if event.progress.total is not None and event.progress.done >= least else None
            return None

        return await await_for(moved, timeout, f"{least} bytes of fetch {self.fetch}")

    def children(self) -> list[procfs.Process]:
        """The processes that fetch for this test."""
        return [
            process
            for process in procfs.processes()
            if process.parent == os.getpid() and not process.gone and b"fetcher.py" in procfs.cmdline(process.pid)
        ]

    async def __aenter__(self) -> Rig:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.downloader.close()
        await await_for(lambda: not self.children(), what="nothing is left of the child")


def run(story: Any) -> None:
    """Run one coroutine to its end."""
    asyncio.run(story)
