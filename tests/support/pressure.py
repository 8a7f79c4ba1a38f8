"""Time that passes for a process, on a machine that may have none for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

CPU = Path("/proc/pressure/cpu")
STEAL = 8
"""The column of /proc/stat with what a host took from this machine, in ticks of all cores."""


def unhurried() -> float:
    """Seconds of a clock that stands still while any process waits for a core: what it shows is nobody else's fault.

    Where the kernel does not tell (Linux before 4.20, or without PSI), it stands still all the time.
    """
    now = time.monotonic()
    try:
        some = CPU.read_text().splitlines()[0]
    except OSError:
        return 0.0
    waited = int(some.rpartition("total=")[2]) / 1e6
    stolen = int(Path("/proc/stat").read_text().split(None, STEAL + 1)[STEAL]) / os.sysconf("SC_CLK_TCK")
    return now - waited - stolen
