"""Collects adopted orphans, and never a child that somebody else here waits for.

The controller is a subreaper, and PID 1 in a container: whatever loses its parent below it becomes its child. asyncio
and `subprocess` wait for their children by pid, and so does this: `waitpid(-1)` would take their exit status away.
"""

import asyncio
import ctypes
import os
from collections.abc import Container

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.ports import Log

PR_SET_CHILD_SUBREAPER = 36
INTERVAL = 5.0
"""Seconds between two looks. A child of our own is collected by its owner within one turn of the loop."""
PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT


class Reaper:
    """Looks for ended children; `sweep` at once, and every few seconds after `start`."""

    def __init__(self, *, log: Log) -> None:
        self._log = log
        self._seen: dict[int, int] = {}
        """Ended children of unknown owner: pid → start time."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Become the process that adopts, and look from now on."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)) != 0:
            self._log("subreaper-refused", error=os.strerror(ctypes.get_errno()))
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sweep(self, session: int, killed: Container[tuple[int, int]] = ()) -> None:
        """Collect the ended children in the engine's `session` and those in `killed`, pairs of pid and start time.

        The session's leader is left to the one who waits for it.
        """
        for child in _ended_children():
            if child.pid != session and (child.session == session or (child.pid, child.start) in killed):
                _collect(child.pid)

    def _tick(self) -> None:
        """Collect every child that had ended before the last look already: it has no owner."""
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)
        try:
            seen = {child.pid: child.start for child in _ended_children()}
            for pid, start in seen.items():
                if self._seen.get(pid) == start:
                    _collect(pid)
            self._seen = seen
        except OSError as error:  # no descriptor left, for instance
            self._log("orphans-not-seen", error=str(error))


def _ended_children() -> list[procfs.Process]:
    """Return our children that wait to be collected; one system call when there is none.

    The kernel shows one of them only, always the same: for the others we have to look ourselves.
    """
    try:
        if os.waitid(os.P_ALL, 0, PEEK) is None:
            return []
    except ChildProcessError:
        return []
    me = os.getpid()
    return [process for process in procfs.processes() if process.parent == me and process.gone]


def _collect(pid: int) -> None:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass
