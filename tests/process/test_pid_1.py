"""Fit to be PID 1: in a PID namespace of its own, as in a container without an init."""

import os
import signal
from pathlib import Path

from support.controller import Controller
from support.wait import wait_for
from vllm_fsm.adapters import procfs

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
AS_USER = ("--user", "--map-root-user")
"""Without privileges a PID namespace needs a user namespace around it."""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zombies(pid: int) -> list[int]:
    """The dead children of `pid` that nobody collected."""
    found = []
    for child in children(pid):
        process = procfs.read(child)
        if process is not None and process.gone:
            found.append(child)
    return found


def test_it_collects_orphans_obeys_signals_and_leaves_nothing(tmp_path):
    prefix = NAMESPACE if os.geteuid() == 0 else (*NAMESPACE[:1], *AS_USER, *NAMESPACE[1:])
    controller = Controller(tmp_path, prefix=prefix)
    with controller:
        controller.serve("tiny", RUDE_CHILDREN=2, RUDE_CHILDREN_DEEP=1, RUDE_CHILDREN_STAY=1, RUDE_DAEMON="quiet")
        controller.ready(1)
        assert controller.says("started")["pid"] == 1
        (first,) = children(controller.process.pid)
        os.kill(children_of_engine(first)[0], signal.SIGKILL)
        controller.ready(2)
        wait_for(lambda: not zombies(first), what="no zombies")
        os.kill(first, signal.SIGTERM)
        assert controller.ends() == 0
        assert controller.says("stopped")["code"] == 0


def children_of_engine(controller: int) -> list[int]:
    """The engine's leader among the children of the controller, by its command line."""
    found = [child for child in children(controller) if b"\0serve\0" in procfs.cmdline(child)]
    assert len(found) >= 1
    return sorted(found)
