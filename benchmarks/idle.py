"""Controller and guardian beside a Ready engine that nobody asks anything: CPU time and memory.

CPU time is utime + stime of the whole process, memory the proportional set size (PSS) of `smaps_rollup`, in 10⁶ bytes.
The log goes to a pipe that is read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import figure
from figure import Bound, Figure
from rig import Rig

SIZE = 60
SETTLE = 10.0
"""Seconds after Ready that are not counted."""
TICK = os.sysconf("SC_CLK_TCK")


def measure(size: int = SIZE) -> list[Figure]:
    """Look at both processes for `size` seconds."""
    with Rig() as rig:
        rig.edit(0)
        rig.proven(0)
        return watch(rig, size, "fake engine")


def watch(rig: Rig, seconds: float, what: str) -> list[Figure]:
    """Return the rows for one kind of engine, which is Ready."""
    pids = rig.helpers()
    time.sleep(SETTLE)
    began = time.monotonic()
    before = {name: spent(pid) for name, pid in pids.items()}
    time.sleep(seconds)
    after = {name: spent(pid) for name, pid in pids.items()}
    lasted = time.monotonic() - began
    share = {name: 100 * (after[name] - before[name]) / lasted for name in pids}
    pss = {name: memory(pid, "Pss") for name, pid in pids.items()}
    rss = {name: memory(pid, "Rss") for name, pid in pids.items()}
    return [
        Figure(f"idle for {seconds:g} s, {what}: CPU", "% of a core", [sum(share.values())], Bound("max", 0.3), 3),
        *(Figure(f"… {name}", "% of a core", [share[name]], digits=3) for name in pids),
        Figure(f"memory then, {what}: PSS", "MB", [sum(pss.values())], Bound("max", 50)),
        *(Figure(f"… {name} (RSS {rss[name]:.1f} MB)", "MB", [pss[name]]) for name in pids),
    ]


def spent(pid: int) -> float:
    """Return the seconds of CPU time that the process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory(pid: int, kind: str) -> float:
    """Return `kind` of the process's memory in MB of 10⁶ bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{kind}:"))


if __name__ == "__main__":
    figure.main(measure, SIZE, "seconds")
