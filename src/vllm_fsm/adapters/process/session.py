"""Which processes belong to one engine start. Stateless and light, see `procfs`.

What belongs to a start:
- the processes of its session (the engine's children stay in it, however they are reparented);
- their descendants in other sessions, as long as the chain of parents is unbroken;
- a process that left the session and was reparented, if its output is the start's pipe or its environment names the
  start's TMPDIR. One that changed all four of session, parent, output and environment cannot be known as ours.

A session's number is not given to a new process while any process of the session exists. So whoever watched a session
since its start may trust the number until somebody else leads it; whoever comes later needs a proof.
"""

import os

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.procfs import Process


def members(mark: Mark, *, watched: bool) -> list[Process]:
    """Return the processes that belong to `mark` and still run.

    `watched`: the caller knew the session from its start and has not seen it empty. Otherwise membership is proven: by
    the leader's start time, or by one member that carries the pipe or the TMPDIR.
    """
    here = procfs.processes()
    by_pid = {process.pid: process for process in here}
    inside = [process for process in here if process.session == mark.session]
    leader = by_pid.get(mark.session)
    if leader is not None:
        ours = leader.start == mark.start
    else:
        ours = watched or any(_carries(process, mark) for process in inside)
    found = {process.pid: process for process in inside} if ours else {}
    outside = [process for process in here if process.start >= mark.start and process.pid not in found]
    for process in outside:
        if process.pid != os.getpid() and (_descends(process, by_pid, found) or _carries(process, mark)):
            found[process.pid] = process
    return [process for process in found.values() if not process.gone]


def _carries(process: Process, mark: Mark) -> bool:
    if process.start < mark.start or process.gone:
        return False
    assignment = b"TMPDIR=" + os.fsencode(mark.tmpdir)
    return procfs.writes_to(process.pid, mark.pipe) or procfs.was_given(process.pid, assignment)


def _descends(process: Process, by_pid: dict[int, Process], family: dict[int, Process]) -> bool:
    seen: set[int] = set()
    parent = process.parent
    while parent not in family:
        above = by_pid.get(parent)
        if above is None or parent in seen:
            return False
        seen.add(parent)
        parent = above.parent
    return True
