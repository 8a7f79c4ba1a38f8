"""Ending what belongs to one engine start, round by round, and then removing its shared memory. Light, see `procfs`.

Python's resource tracker is spared for a moment: it ends by itself when all the others are dead, after removing the
semaphores and shared memory that they made. Some of these nobody maps any more, so only the tracker knows their names.
"""

import signal
import time

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import segments, session
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.procfs import Process

TRACKER = b"multiprocessing.resource_tracker"
TRACKER_TIME = 0.5
"""Seconds from the first strike until a tracker is killed as well; it needs about 50 ms."""


class Purge:
    """The end of everything that belongs to `mark`.

    `watched`: see `session.members`. Once something was found, the session is watched: the looks are close together.
    """

    def __init__(self, mark: Mark, *, watched: bool) -> None:
        self.mark = mark
        self.killed: set[tuple[int, int]] = set()
        """Pid and start time of whatever was killed."""
        self._watched = watched
        self._segments: set[segments.Segment] = set()
        self._began: float | None = None

    def look(self) -> list[Process]:
        """Return what still runs; remember its shared memory."""
        found = session.members(self.mark, watched=self._watched)
        self._watched = self._watched or bool(found)
        self._segments |= segments.held_by(found)
        return found

    def strike(self) -> list[Process]:
        """SIGKILL what still runs, and return it: it was alive a moment ago. Once is not enough: processes fork."""
        now = time.monotonic()
        self._began = self._began or now
        patient = now - self._began < TRACKER_TIME
        found = self.look()
        for process in found:
            if patient and TRACKER in procfs.cmdline(process.pid):
                continue
            try:
                procfs.send(process, signal.SIGKILL)
            except PermissionError:  # it changed its user: nothing more can be done, and it stays in the list
                continue
            self.killed.add((process.pid, process.start))
        return found

    def finish(self) -> None:
        """Remove the shared memory that is left, after nothing runs any more."""
        # The clock may have been set since: what was made before that has times of the old one.
        segments.remove(self._segments, since=min(self.mark.since, procfs.wall_time(self.mark.start)))
