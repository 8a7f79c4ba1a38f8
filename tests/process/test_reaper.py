"""Adopted orphans are collected; nobody's exit status is taken away."""

import asyncio
import errno
import os
import subprocess
import sys

import pytest

from support.wait import await_for, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import reaper
from vllm_fsm.adapters.process.reaper import Reaper

ORPHAN = "import os; pid = os.fork(); pid and (os.write(1, b'%d' % pid), os._exit(0)); os.setsid()"
"""Leaves a grandchild that ends at once, in a session of its own."""
SESSION = """
import os
os.setsid()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(pid, os.getpid())
"""
"""Leads a session and leaves an ended child in it."""


def silent(event: str, /, **fields: object) -> None:
    raise AssertionError(event, fields)


def make_orphan() -> int:
    """Return the pid of an ended child of ours that we did not start; we adopt already."""
    run = subprocess.run((sys.executable, "-I", "-S", "-c", ORPHAN), capture_output=True, text=True, check=True)
    pid = int(run.stdout)
    wait_for(lambda: (process := procfs.read(pid)) and process.gone and process.parent == os.getpid(), what="adoption")
    return pid


def ended_child(code: int) -> subprocess.Popen[bytes]:
    """Return a child that ended and that nobody has collected yet."""
    child = subprocess.Popen((sys.executable, "-I", "-S", "-c", f"raise SystemExit({code})"))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


def make_session() -> tuple[int, int]:
    """Return an ended child that we adopted and the number of its session, whose leader is gone."""
    run = subprocess.run((sys.executable, "-c", SESSION), capture_output=True, text=True, check=True)
    pid, session = map(int, run.stdout.split())
    wait_for(lambda: (process := procfs.read(pid)) and process.parent == os.getpid(), what="adoption")
    return pid, session


def test_an_orphan_without_an_owner_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "INTERVAL", 0.02)

    async def scenario() -> None:
        subject = Reaper(log=silent)
        subject.start()
        pid = make_orphan()
        await await_for(lambda: procfs.read(pid) is None, what="its collection")
        subject.stop()

    asyncio.run(scenario())


def test_an_orphan_behind_somebody_elses_child_is_found() -> None:
    """The kernel shows one ended child only: here one that its owner has not collected yet."""

    async def scenario() -> None:
        subject = Reaper(log=silent)
        subject.start()
        with ended_child(7) as owned:
            pid = make_orphan()
            subject.sweep(pid + 1)
            assert procfs.read(pid) is not None, "another session's"
            subject.sweep(pid)
            orphan = procfs.read(pid)
            assert orphan is not None, "a leader is left to its watcher"
            subject.sweep(1, {(pid, orphan.start)})
            assert procfs.read(pid) is None
        assert owned.returncode == 7
        subject.stop()

    asyncio.run(scenario())


def test_members_of_the_session_are_collected_at_once() -> None:
    async def scenario() -> None:
        subject = Reaper(log=silent)
        subject.start()
        pid, session = make_session()
        subject.sweep(session)
        assert procfs.read(pid) is None
        subject.stop()

    asyncio.run(scenario())


def test_the_exit_status_of_our_own_children_is_left_to_their_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "INTERVAL", 0.05)

    async def scenario() -> None:
        subject = Reaper(log=silent)
        subject.start()
        ended = False

        async def sweep() -> None:
            while not ended:
                subject.sweep(1)
                await asyncio.sleep(0)

        sweeping = asyncio.create_task(sweep())
        for code in range(20):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", f"raise SystemExit({code})"), start_new_session=bool(code % 2)
            )
            assert await child.wait() == code
        ended = True
        await sweeping
        subject.stop()

    asyncio.run(scenario())


def test_a_look_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "INTERVAL", 0.02)
    logged: list[str] = []

    def nothing() -> list[procfs.Process]:
        raise OSError(errno.EMFILE, "Too many open files", "/proc")

    async def scenario() -> None:
        subject = Reaper(log=lambda event, /, **fields: logged.append(event))
        subject.start()
        pid = make_orphan()
        with monkeypatch.context() as short:
            short.setattr(reaper.procfs, "processes", nothing)
            await await_for(lambda: "orphans-not-seen" in logged, what="a line about it")
        await await_for(lambda: procfs.read(pid) is None, what="its collection")
        subject.stop()

    asyncio.run(scenario())
