"""Waiting for the GPU memory of the last engine: the driver gives it back some time after the processes are gone."""

import asyncio
from collections.abc import Awaitable, Callable

from vllm_fsm.adapters.ports import Clock, Log
from vllm_fsm.adapters.process.pauses import pauses

FreeMemory = Callable[[], Awaitable[int | None]]
"""Free GPU memory in bytes, None where it cannot be known. Being cancelled tells it that the driver is silent."""
ANSWER_LIMIT = 5.0
"""Seconds after which a question counts as not answered."""


class MemoryReturn:
    """Asks `free_memory`, which may be None, fail or hang.

    Whoever waits may be cancelled at any time: the question then still gets its ANSWER_LIMIT.
    """

    def __init__(self, free_memory: FreeMemory | None, *, clock: Clock, log: Log) -> None:
        self._free_memory = free_memory
        self._clock = clock
        self._log = log
        self._questions: set[asyncio.Task[int | None]] = set()
        self._patience: asyncio.Timeout | None = None

    async def free(self) -> int | None:
        """Return the free bytes, None if there is no answer."""
        if self._free_memory is None:
            return None
        question = asyncio.create_task(self._ask(self._free_memory))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)
        await asyncio.wait((question,))
        return question.result()

    async def wait(self, wanted: int | None, limit: float) -> None:
        """Return when `wanted` bytes are free, or after `limit` seconds with a line that says so."""
        if wanted is None or limit <= 0:
            return
        began = self._clock()
        free = None
        try:
            async with asyncio.timeout(limit) as self._patience:
                for pause in pauses():
                    free = await self.free()
                    if free is None or free >= wanted:
                        return
                    await asyncio.sleep(pause)
        except TimeoutError:
            self._log("gpu-memory-not-back", free=free, wanted=wanted, waited=round(self._clock() - began, 3))
        finally:
            self._patience = None

    def shorten(self, limit: float) -> None:
        """Let a running `wait` end within `limit` seconds from now."""
        patience = self._patience
        if patience is None or patience.expired():
            return
        due = asyncio.get_running_loop().time() + limit
        patience.reschedule(min(due, patience.when() or due))

    async def close(self) -> None:
        """Ask nothing more."""
        questions = tuple(self._questions)
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    async def _ask(self, free_memory: FreeMemory) -> int | None:
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                return await free_memory()
        except Exception as error:
            self._log("gpu-memory-unknown", error=repr(error))
            return None
