"""Shared memory that a killed engine leaves in `/dev/shm`. Stateless and light, see `procfs`.

vLLM and its libraries remove their segments when they exit in order; after a SIGKILL they stay until the next boot. The
names are random, so only one thing makes a segment ours: a process of the engine was seen to map it.
"""

import os

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.procfs import Process

FOLDER = "/dev/shm"  # noqa: S108 - looked at, nothing is made there
NAMES = ("psm_", "sem.mp-", "nccl-", "torch_")
"""Python's shared memory and semaphores (`multiprocessing`), NCCL's and torch's segments."""

CLOCK_STEP = 0.05
"""Seconds by which a file's time may lag behind a process's: both clocks advance in steps of at most 10 ms."""

Segment = tuple[str, int]
"""Path and inode: a name that was given again is another segment."""


def _mapped(pid: int) -> set[int]:
    """The inodes that the process maps from FOLDER."""
    found = set()
    for line in procfs.maps(pid):
        if b"/dev/shm/" in line:
            # address permissions offset device inode path
            found.add(int(line.split(None, 5)[4]))
    return found


def held_by(processes: list[Process]) -> set[Segment]:
    """Return the segments that these processes map now, by the names that they have now.

    glibc's `sem_open` makes a semaphore under a temporary name and links the lasting one to it, so that the maps of the
    process that made it show only the former.
    """
    inodes = set[int]().union(*(_mapped(process.pid) for process in processes))
    if not inodes:
        return set()
    try:
        with os.scandir(FOLDER) as entries:
            return {(e.path, e.inode()) for e in entries if e.name.startswith(NAMES) and e.inode() in inodes}
    except OSError:
        return set()


def remove(segments: set[Segment], *, since: float) -> list[str]:
    """Remove what was made by our user after wall clock time `since` and is mapped by nobody; return the paths.

    To be called when none of the engine's processes is left: who maps one then is a stranger, who shares it.
    """
    left = {segment for segment in segments if _ours(segment, since)}
    if not left:
        return []
    shared = held_by(procfs.processes())
    removed = []
    for path, _ in sorted(left - shared):
        try:
            os.unlink(path)
        except OSError:
            continue
        removed.append(path)
    return removed


def _ours(segment: Segment, since: float) -> bool:
    path, inode = segment
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return found.st_ino == inode and found.st_uid == os.geteuid() and found.st_ctime >= since - CLOCK_STEP
