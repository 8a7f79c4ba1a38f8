"""The seeded world of the simulation tests on one core: events that the core decides on, per second of CPU time.

Each is one `step` with all the invariants checked after it, and what the world does with the effects.
"""

from __future__ import annotations

import time

import figure
from figure import Bound, Figure
from rig import ROOT  # noqa: F401 - the tests' support can be imported after it

from support.world import World

SIZE = 50
EVENTS = 2000


def measure(size: int = SIZE) -> list[Figure]:
    """Run the worlds of `size` seeds; each is one value."""
    rates = [rate(seed) for seed in range(size)]
    return [Figure("simulation on one core", "events/s", rates, Bound("median", 25_000, least=True), digits=0)]


def rate(seed: int) -> float:
    """Return the events per second of one world."""
    world = World(seed)
    began = time.process_time()
    world.run(EVENTS)
    return sum(world.counts.values()) / (time.process_time() - began)


if __name__ == "__main__":
    figure.main(measure, SIZE, "seeds")
