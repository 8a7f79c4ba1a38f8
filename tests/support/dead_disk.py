"""A disk that does not answer, seen by nobody else: who looks at a path on it waits, as on an NFS without its server.

It is a FUSE file system whose daemon reads nothing. A signal that kills ends such a wait.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from support.volume import in_child, own_mounts

MNT_FORCE, MNT_DETACH = 1, 2


def on_dead_disk(place: Path, work: Callable[[], None]) -> None:
    """Do `work` in a child to which `place` is such a disk; its failure is ours."""
    place.mkdir()

    def whole() -> None:
        own_mounts()
        libc = ctypes.CDLL(None, use_errno=True)
        daemon = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={daemon},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        if libc.mount(b"dead", os.fsencode(place), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        try:
            work()
        finally:
            libc.umount2(os.fsencode(place), MNT_FORCE)  # whoever still waits is told that it is gone
            libc.umount2(os.fsencode(place), MNT_DETACH)

    in_child(whole)


def possible() -> bool:
    """Whether this machine lets us make one."""
    return os.access("/dev/fuse", os.R_OK | os.W_OK)
