"""Seeded worlds: whatever happens, the invariants hold and the service ends as the files ask."""

import pytest

from support.world import Faults, World
from vllm_fsm.core.states import Service

SEEDS = range(60)
"""`make soak` runs many more; a failure names its seed: `python -m support.world SEED` replays it."""


@pytest.mark.parametrize("seed", SEEDS)
def test_any_world_keeps_the_invariants_and_settles(seed):
    world = World(seed)
    world.run(2000)
    world.settle(7200.0)
    assert world.settled() is None


def test_a_kind_world_is_simply_ready():
    world = World(7, faults=Faults.none())
    world.edits = False
    world.run(100)
    world.settle(60.0)
    assert world.settled() is None


def test_a_seed_replays_exactly():
    first, second = World(11), World(11)
    for world in (first, second):
        world.keep_log = True
        world.run(500)
    assert first.log == second.log
    assert first.snapshot == second.snapshot


def test_the_seeds_exercise_every_state():
    seen = set()
    for seed in range(10):
        world = World(seed)
        world.run(1000)
        seen |= {state for state, _ in world.counts}
    assert seen == {state.value for state in Service}
