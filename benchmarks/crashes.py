"""The engine is killed (SIGKILL of its leader) while Ready: how soon the next one is executed.

Every crash is a first one: an edit between two of them begins a new record.
"""

from __future__ import annotations

import os
import signal
import time

import figure
from figure import Bound, Figure
from rig import Rig

SIZE = 20


def measure(size: int = SIZE) -> list[Figure]:
    """Kill `size` engines."""
    taken: list[float] = []
    with Rig() as rig:
        for number in range(size):
            rig.edit(number)
            victim = rig.proven(number)
            rig.linger()
            rig.stamps.forget()
            killed = time.monotonic()
            os.kill(victim["pid"], signal.SIGKILL)
            taken.append(1e3 * (rig.stamps.wait("exec", killed, str(number)) - killed))
    return [Figure("engine killed → next engine executed", "ms", taken, Bound("median", 60))]


if __name__ == "__main__":
    figure.main(measure, SIZE, "crashes")
