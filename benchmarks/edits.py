"""An edit of `store.json` while an engine is Ready: how soon the old one gets SIGTERM, how soon the next one runs."""

from __future__ import annotations

import figure
from figure import Bound, Figure
from rig import WAYS, Rig

SIZE = 50


def measure(size: int = SIZE) -> list[Figure]:
    """Edit `size` times in each way; the engine ends at once when it is asked to."""
    terms: dict[str, list[float]] = {way: [] for way in WAYS}
    starts: dict[str, list[float]] = {way: [] for way in WAYS}
    with Rig() as rig:
        rig.edit(0)
        rig.proven(0)
        for number in range(1, 2 * size + 1):
            way = WAYS[number % 2]
            rig.linger()
            written = rig.edit(number, way)
            started = rig.stamps.wait("exec", written, str(number))
            terms[way].append(1e3 * (rig.stamps.wait("term", written) - written))
            starts[way].append(1e3 * (started - written))
            rig.proven(number)
    return [
        *(Figure(f"write → SIGTERM, {way}", "ms", terms[way], Bound("median", 60)) for way in WAYS),
        *(Figure(f"write → next engine executed, {way}", "ms", starts[way], Bound("median", 120)) for way in WAYS),
    ]


if __name__ == "__main__":
    figure.main(measure, SIZE, "edits in each way")
