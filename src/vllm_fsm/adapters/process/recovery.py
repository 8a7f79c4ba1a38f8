"""At the start of a controller: end what an earlier one left behind, as far as it is provably ours."""

import asyncio
import time
from collections.abc import Iterable

from vllm_fsm.adapters.ports import Log
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.pauses import pauses
from vllm_fsm.adapters.process.purge import Purge
from vllm_fsm.adapters.process.scratch import Scratch

LIMIT = 10.0
"""Seconds to wait for the end of killed processes; what hangs in the kernel for longer keeps its mark."""


async def end_leftovers(folders: Iterable[str], scratch: Scratch, log: Log) -> None:
    """Kill the processes that the marks in `folders` prove to be ours, and remove what those engines left."""
    places = tuple(folders)
    found: dict[str, Mark] = {}
    for folder in places:
        try:
            found.update((mark.file, mark) for mark in marks.read_all(folder))
        except OSError as error:
            log("marks-unreadable", path=folder, error=str(error))
    for mark in found.values():
        if not mark.current or await _end(mark, log):
            scratch.remove(mark.tmpdir)
            for folder in places:
                if problem := marks.remove(mark, folder):
                    log("mark-not-removed", path=folder, error=str(problem))
    scratch.remove_all()


async def _end(mark: Mark, log: Log) -> bool:
    """Kill what is left of `mark`; False if some of it is still there after LIMIT seconds."""
    purge = Purge(mark, watched=False)
    found = purge.look()
    if found:
        log("leftovers-found", session=mark.session, processes=[repr(process) for process in found])
    limit = time.monotonic() + LIMIT
    for pause in pauses():
        found = purge.strike()
        if not found:
            break
        if time.monotonic() > limit:
            log("leftovers-remain", session=mark.session, processes=[repr(process) for process in found])
            return False
        await asyncio.sleep(pause)
    purge.finish()
    return True
