"""Whether an engine moved between two looks."""

import os
from dataclasses import replace

import pytest

from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import pulse
from vllm_fsm.adapters.process.pulse import BYTES, TICKS, Sample, moved

ONE, OTHER = (7, 100), (8, 200)
STILL = Sample({ONE: 500, OTHER: 20}, {ONE: 1 << 30, OTHER: 0}, 1 << 20, 12)


def test_what_does_nothing_does_not_move():
    assert not moved(STILL, STILL)
    assert not moved(STILL, replace(STILL, ticks={ONE: 500, OTHER: 20 + TICKS - 1}))
    assert not moved(STILL, replace(STILL, bytes={ONE: (1 << 30) + BYTES - 1, OTHER: 0}))
    assert not moved(STILL, replace(STILL, received=(1 << 20) + BYTES - 1))


@pytest.mark.parametrize(
    "after",
    [
        replace(STILL, lines=13),
        replace(STILL, ticks={ONE: 500, OTHER: 20 + TICKS}),
        replace(STILL, bytes={ONE: 1 << 30, OTHER: BYTES}),
        replace(STILL, received=(1 << 20) + BYTES),
        replace(STILL, ticks={ONE: 500}),
        replace(STILL, ticks={**STILL.ticks, (9, 300): 0}),
        replace(STILL, ticks={ONE: 500, (8, 201): 20}),
    ],
    ids=["line", "processor", "disk", "network", "ended", "began", "replaced"],
)
def test_one_sign_of_life_is_enough(after):
    assert moved(STILL, after)


def test_a_sample_of_a_living_process():
    me = procfs.read(os.getpid())
    before = pulse.sample([me], 0)
    with open(__file__, "rb") as file:
        read = 0
        while read < BYTES:
            read += len(file.read())
            file.seek(0)
    after = pulse.sample([procfs.read(os.getpid())], 0)
    assert after.ticks.keys() == {(me.pid, me.start)}
    assert sum(after.bytes.values()) - sum(before.bytes.values()) >= BYTES
    assert moved(before, after)


def test_what_may_not_be_known_counts_as_nothing():
    assert procfs.transferred(2**22 + 1) == 0
