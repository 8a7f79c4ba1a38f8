"""Whether an engine moved between two looks."""

import os
import socket
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
        replace(STILL, received=None),
        replace(STILL, ticks={ONE: 500}),
        replace(STILL, ticks={**STILL.ticks, (9, 300): 0}),
        replace(STILL, ticks={ONE: 500, (8, 201): 20}),
    ],
    ids=["line", "processor", "disk", "network", "hung up", "ended", "began", "replaced"],
)
def test_one_sign_of_life_is_enough(after):
    assert moved(STILL, after)


def test_a_sample_of_a_living_session():
    me = procfs.read(os.getpid())
    before = pulse.sample(me.session, 0)
    with open(__file__, "rb") as file:
        read = 0
        while read < BYTES:
            read += len(file.read())
            file.seek(0)
    after = pulse.sample(me.session, 0)
    assert (me.pid, me.start) in after.ticks
    assert after.bytes[me.pid, me.start] - before.bytes[me.pid, me.start] >= BYTES
    assert moved(before, after)


@pytest.mark.parametrize(
    ("here", "there", "remote"),
    [
        (b"0200000A:1F40", b"0300000A:01BB", True),
        (b"0200000A:1F40", b"0200000A:01BB", False),
        (b"0100007F:1F40", b"0100007F:01BB", False),
        (b"0200000A:1F40", b"0101007F:01BB", False),
        (b"00000000000000000000000001000000:1", b"00000000000000000000000001000000:2", False),
        (b"B80D0120000000000000000002000000:1", b"B80D0120000000000000000001000000:2", True),
        (b"0000000000000000FFFF00000200000A:1", b"0000000000000000FFFF00000300000A:2", True),
        (b"0000000000000000FFFF00000200000A:1", b"0000000000000000FFFF00000100007F:2", False),
    ],
)
def test_another_machine_is_told_from_this_one(here, there, remote):
    assert procfs._remote(here, there) is remote


def test_a_connection_within_this_machine_is_none_to_another():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(server.getsockname()):
            assert not procfs.connected([os.getpid()])


def test_what_may_not_be_known_counts_as_nothing():
    assert procfs.transferred(2**22 + 1) == 0
