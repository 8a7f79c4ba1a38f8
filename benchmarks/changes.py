"""Changes of `store.json` one after the other, whatever the engine does meanwhile, and how many of them are lost.

The next change comes as soon as an engine with the last one's arguments was executed, or up to 60 ms later: before that
engine listens, while it is probed, and after it is Ready. A change that no engine shows within 10 s is lost.
"""

from __future__ import annotations

import figure
from figure import Bound, Figure
from rig import WAYS, Rig

SIZE = 1500
PATIENCE = 10.0
"""Seconds after which a change is lost: the watch would look by itself after 30."""


def measure(size: int = SIZE) -> list[Figure]:
    """Make `size` changes, half of them by rename, half in place."""
    taken: list[float] = []
    lost = 0
    with Rig() as rig:
        for number in range(size):
            written = rig.edit(number, WAYS[number % 2])
            try:
                started = rig.stamps.wait("exec", written, str(number), limit=PATIENCE)
            except TimeoutError:
                lost += 1
                continue
            taken.append(1e3 * (started - written))
            rig.linger(0.06)
    return [
        Figure(f"of {size:,} changes in a row: lost", "", [lost], Bound("max", 0), digits=0),
        Figure("write → engine executed, in that row", "ms", taken),
    ]


if __name__ == "__main__":
    figure.main(measure, SIZE, "changes")
