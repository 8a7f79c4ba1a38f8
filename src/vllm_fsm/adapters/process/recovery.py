"""What engines left behind: those of an earlier controller, as far as they are provably ours, and failed starts."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import NamedTuple

from vllm_fsm.adapters.ports import Log
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.pauses import pauses
from vllm_fsm.adapters.process.purge import Purge
from vllm_fsm.adapters.process.scratch import Scratch

LIMIT = 10.0
"""Seconds to wait for the end of killed processes, each time; what hangs in the kernel for longer keeps its traces."""


class Leftover(NamedTuple):
    """Something to end and then to clear up."""

    purge: Purge
    clear: Callable[[], Awaitable[bool]]
    """Removes what it left, when nothing of it runs; False when its leader is not ready to be reaped yet."""


class Leftovers:
    """Ends them, and remembers those that do not end: nothing may be executed beside them.

    `folders`: where the marks are.
    """

    def __init__(self, folders: Iterable[str], scratch: Scratch, log: Log) -> None:
        self._folders = tuple(folders)
        self._scratch = scratch
        self._log = log
        self._items: list[Leftover] = []

    def add(self, purge: Purge, clear: Callable[[], Awaitable[bool]]) -> None:
        """Remember one that did not end in time."""
        self._items.append(Leftover(purge, clear))

    async def find(self) -> None:
        """Kill the processes that the marks prove to be ours, and remove what those engines left."""
        found: dict[str, Mark] = {}
        for folder in self._folders:
            try:
                found.update((mark.file, mark) for mark in marks.read_all(folder))
            except OSError as error:
                self._log("marks-unreadable", path=folder, error=str(error))
        for mark in found.values():
            if not mark.current:
                self._remove_traces(mark)
                continue
            purge = Purge(mark, watched=False)
            if processes := purge.look():
                self._log("leftovers-found", session=mark.session, processes=[repr(process) for process in processes])
            self.add(purge, partial(self._clear, purge))
        await self.end()
        self._scratch.remove_all(keep={item.purge.mark.tmpdir for item in self._items})

    async def end(self) -> str:
        """Kill what is left until nothing is; after LIMIT seconds, return what still is: `name (pid), …`."""
        limit = time.monotonic() + LIMIT
        for pause in pauses():
            remaining = []
            for item in tuple(self._items):
                processes = item.purge.strike()
                if not processes and await item.clear():
                    self._items.remove(item)
                else:
                    remaining.append((item.purge.mark.session, processes))
            if not remaining:
                return ""
            if time.monotonic() > limit:
                break
            await asyncio.sleep(pause)
        for session, processes in remaining:
            self._log("leftovers-remain", session=session, processes=[repr(process) for process in processes])
        names = [f"{process.name} ({process.pid})" for _, processes in remaining for process in processes]
        return ", ".join(names or [f"session {session}" for session, _ in remaining])

    async def _clear(self, purge: Purge) -> bool:
        purge.finish()
        self._remove_traces(purge.mark)
        return True

    def _remove_traces(self, mark: Mark) -> None:
        self._scratch.remove(mark.tmpdir)
        for folder in self._folders:
            if problem := marks.remove(mark, folder):
                self._log("mark-not-removed", path=folder, error=str(problem))
