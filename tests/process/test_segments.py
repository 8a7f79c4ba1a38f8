"""Shared memory of processes that had no time to clear up."""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest

from support.wait import wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import segments
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.purge import Purge

MAKER = """
import multiprocessing, os, sys
from multiprocessing import resource_tracker, shared_memory
semaphore = multiprocessing.get_context("spawn").Lock()
memory = shared_memory.SharedMemory(create=True, size=4096)
print(semaphore._semlock.name, memory.name, resource_tracker._resource_tracker._pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def maker():
    """A process with a semaphore and shared memory of Python's kind: itself, their paths, and its tracker."""
    command = [sys.executable, "-c", MAKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        semaphore, memory, tracker = process.stdout.readline().split()
        paths = {f"/dev/shm/sem.{semaphore.lstrip('/')}", f"/dev/shm/{memory.lstrip('/')}"}
        yield process, paths, int(tracker)
        process.kill()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def test_what_its_maker_maps_is_found_by_its_lasting_name_and_removed(maker):
    process, paths, tracker = maker
    seen = procfs.read(process.pid)
    held = segments.held_by([seen])
    assert {path for path, _ in held} == paths
    # Nobody is left who would clear up.
    os.kill(tracker, signal.SIGKILL)
    process.kill()
    process.wait()
    wait_for(lambda: (left := procfs.read(tracker)) is None or left.gone, what="the tracker ends")
    assert {path for path in paths if os.path.exists(path)} == paths
    assert set(segments.remove(held, since=procfs.wall_time(seen.start))) == paths
    assert not [path for path in paths if os.path.exists(path)]


def test_a_process_with_many_mappings_is_read_line_by_line():
    with contextlib.ExitStack() as stack:
        for number in range(2000):
            # Neighbours with other rights are no one mapping.
            rights = mmap.PROT_READ if number % 2 else mmap.PROT_READ | mmap.PROT_WRITE
            stack.enter_context(mmap.mmap(-1, mmap.PAGESIZE, prot=rights))
        me = procfs.read(os.getpid())
        size = sum(map(len, procfs.maps(me.pid)))
        tracemalloc.start()
        try:
            segments.held_by([me])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size > 100_000
    assert peak < size / 2


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_what_was_left_is_removed_although_the_clock_was_set_since(maker, monkeypatch, tmp_path, step):
    process, paths, tracker = maker
    purge = Purge(Mark.of_child(process.pid, pipe=0, tmpdir=str(tmp_path)), watched=True)
    assert {member.pid for member in purge.look()} >= {process.pid}
    os.kill(tracker, signal.SIGKILL)  # first: it would clear up
    process.kill()
    process.wait()
    wait_for(lambda: not purge.look(), what="all of them end")
    assert {path for path in paths if os.path.exists(path)} == paths
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + step)
    purge.finish()
    assert not [path for path in paths if os.path.exists(path)]
