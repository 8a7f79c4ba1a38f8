"""Whether a starting engine does anything: what its processes used between two looks, and whether it printed.

Sources: `/proc/PID/stat` and `/proc/PID/io` of the processes in its session, proc(5); neither waits for a lock of a
process that hangs in the kernel. The kernel counts what sockets receive for the whole network namespace only
(`/proc/net/dev`). That is looked at while one of the processes has a connection to another machine, so that somebody
else's traffic can hide the hang of a download by the engine, and of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.adapters import procfs

TICKS: Final = 5
"""Clock ticks (10 ms) of CPU time that are no work yet. All four processes of a vLLM 0.32 whose worker was stopped
while it loaded used not one tick in 15 s, six times in a row; one that loads uses thousands."""
BYTES: Final = 1 << 16
"""Bytes read and written, or received, that are no work yet: a process that wakes up reads a few."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes of an engine have used so far, by pid and start time."""

    ticks: dict[tuple[int, int], int] = field(default_factory=dict)
    bytes: dict[tuple[int, int], int] = field(default_factory=dict)
    received: int | None = 0
    """None: none of them has a connection to another machine."""
    lines: int = 0


def sample(session: int, lines: int) -> Sample:
    """Look at the processes of `session`; `lines` were printed so far."""
    here = {(one.pid, one.start): one for one in procfs.processes() if one.session == session and not one.gone}
    return Sample(
        {key: process.ticks for key, process in here.items()},
        {key: procfs.transferred(key[0]) for key in here},
        procfs.received() if procfs.connected([pid for pid, _ in here]) else None,
        lines,
    )


def moved(before: Sample, after: Sample) -> bool:
    """Whether anything was done between the two looks; a process that came or went is something."""
    return (
        after.lines != before.lines
        or before.ticks.keys() != after.ticks.keys()
        or sum(after.ticks.values()) - sum(before.ticks.values()) >= TICKS
        or sum(after.bytes.values()) - sum(before.bytes.values()) >= BYTES
        or (before.received is None) is not (after.received is None)
        or (after.received or 0) - (before.received or 0) >= BYTES
    )
