"""Waiting for the GPU memory of the last engine: the driver gives it back some time after the processes are gone."""

import asyncio
from collections.abc import Awaitable, Callable

from vllm_fsm.adapters.ports import Clock, Log
from vllm_fsm.adapters.process.pauses import pauses

FreeMemory = Callable[[], Awaitable[int | None]]
"""Free GPU memory in bytes, None where it cannot be known."""
SLACK = 1 << 30
"""Bytes that may be missing although nothing of ours is left: others use the GPU too."""
ANSWER_LIMIT = 5.0
"""Seconds after which a question counts as not answered."""


class MemoryReturn:
    """Asks `free_memory`, which may be None, fail or hang."""

    def __init__(self, free_memory: FreeMemory | None, *, clock: Clock, log: Log) -> None:
        self._free_memory = free_memory
        self._clock = clock
        self._log = log

    async def free(self) -> int | None:
        """Return the free bytes, None if there is no answer."""
        if self._free_memory is None:
            return None
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                return await self._free_memory()
        except Exception as error:
            self._log("gpu-memory-unknown", error=repr(error))
            return None

    async def wait(self, before: int | None, limit: float) -> None:
        """Return when as much is free as `before`, or after `limit` seconds with a line that says so."""
        if before is None:
            return
        end = self._clock() + limit
        for pause in pauses():
            free = await self.free()
            if free is None or free >= before - SLACK:
                return
            if self._clock() >= end:
                self._log("gpu-memory-not-back", free=free, before=before, waited=limit)
                return
            await asyncio.sleep(pause)
