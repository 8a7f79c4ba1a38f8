"""Whether a starting engine does anything: what its processes used between two looks, and whether it printed.

Sources: `/proc/PID/stat` and `/proc/PID/io` of its processes, proc(5). The kernel counts what sockets receive for the
whole network namespace only (`/proc/net/dev`), so that somebody else's traffic can hide a hang, and never makes one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.procfs import Process

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
    received: int = 0
    lines: int = 0


def sample(processes: Iterable[Process], lines: int) -> Sample:
    """Look at `processes`; `lines` were printed so far."""
    here = {(process.pid, process.start): process for process in processes}
    return Sample(
        {key: process.ticks for key, process in here.items()},
        {key: procfs.transferred(key[0]) for key in here},
        procfs.received(),
        lines,
    )


def moved(before: Sample, after: Sample) -> bool:
    """Whether anything was done between the two looks; a process that came or went is something."""
    return (
        after.lines != before.lines
        or before.ticks.keys() != after.ticks.keys()
        or sum(after.ticks.values()) - sum(before.ticks.values()) >= TICKS
        or sum(after.bytes.values()) - sum(before.bytes.values()) >= BYTES
        or after.received - before.received >= BYTES
    )
