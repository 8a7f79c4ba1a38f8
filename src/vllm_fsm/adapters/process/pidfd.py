"""Waiting for the end of one child on the event loop, without a thread."""

import asyncio
import os

INTERVAL = 0.05
"""Seconds between two looks where there are no pidfds: Linux before 5.3, a strict container, no descriptor left."""


async def ended(pid: int) -> None:
    """Return when child `pid` has ended; it is not reaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        while not _has_ended(pid):
            await asyncio.sleep(INTERVAL)
        return
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped already
        return True
