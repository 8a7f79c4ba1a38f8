"""The kernel ends the controller for want of memory: a real kill, in a memory cgroup of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.controller import Controller
from support.memory_group import joining, memory_group
from support.pressure import unhurried
from support.wait import LIMIT, wait_for

ROOM = 64 << 20
"""Bytes that may be taken beyond what the whole tree has."""
SOON = 2.0
"""Seconds in which the engine has to end, on a machine that has time for it."""
HOG = """
import os, sys
from pathlib import Path
group, controller = Path(sys.argv[1]), sys.argv[2]
(group / "cgroup.procs").write_text(str(os.getpid()))
kept = []
for _ in range(1024):
    try:
        state = Path("/proc", controller, "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        break
    if state == "Z":
        break
    kept.append(b"x" * (1 << 20))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    with memory_group() as made:
        yield made


def limit(group: Path) -> None:
    """Leave ROOM beyond what is used now."""
    for usage, most in (("memory.current", "memory.max"), ("memory.usage_in_bytes", "memory.limit_in_bytes")):
        if (group / usage).exists():
            (group / most).write_text(str(int((group / usage).read_text()) + ROOM))


def test_an_engine_ends_with_a_controller_that_the_kernel_killed(tmp_path: Path, group: Path) -> None:
    with Controller(tmp_path, prefix=joining(group)) as controller:
        controller.serve("tiny", RUDE_CHILDREN=2, RUDE_SIGTERM="deaf").ready()
        process = controller.process
        assert process is not None
        assert str(process.pid) in (group / "cgroup.procs").read_text().split()
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        limit(group)
        hog = subprocess.Popen((sys.executable, "-c", HOG, str(group), str(process.pid)))
        try:
            assert controller.ends() == -signal.SIGKILL
            killed = unhurried()
            # On a busy machine the hog comes too late to see that, and is the next to be killed.
            assert hog.wait(LIMIT) in (0, -signal.SIGKILL)
            wait_for(lambda: not controller.left(), what="nothing of the engine is left")
            assert unhurried() - killed < SOON
        finally:
            hog.kill()
            hog.wait()
    with Controller(tmp_path) as after:
        after.says("transition", to="Ready")
        assert not after.events("leftovers-remain")
