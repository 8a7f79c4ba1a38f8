"""Reading /proc: names that try to confuse, processes that end meanwhile."""

import os
import signal
import subprocess
import sys
import time

import pytest

from support.wait import wait_for
from vllm_fsm.adapters import procfs

REST = b" S 1 42 42 0 -1 4194560 100 0 0 0 5 3 0 0 20 0 7 0 123456 1000 10 18446744073709551615"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"(python)", "python"),
        (b"(a b)", "a b"),
        (b"(a) S 1 1 (b)", "a) S 1 1 (b"),
        (b"()", ""),
        (b"()))", "))"),
        (b"(VLLM::Worker_TP0)", "VLLM::Worker_TP0"),
        (b"(\xff)", "\\xff"),
    ],
)
def test_a_name_may_hold_anything(name: bytes, shown: str) -> None:
    process = procfs.parse_stat(b"4711 " + name + REST + b"\n")
    assert (process.pid, process.name, process.state) == (4711, shown, "S")
    assert (process.parent, process.session, process.threads, process.start) == (1, 42, 7, 123456)


@pytest.mark.parametrize("text", [b"", b"4711", b"4711 (x", b"4711 (x) S 1 2", b"(x)" + REST])
def test_what_is_no_stat_line_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"stat|invalid literal"):
        procfs.parse_stat(text)


@pytest.mark.parametrize(
    ("state", "threads", "gone"),
    [("S", 1, False), ("D", 1, False), ("Z", 1, True), ("X", 0, True), ("Z", 3, False), ("T", 1, False)],
)
def test_a_zombie_with_living_threads_is_not_gone(state: str, threads: int, gone: bool) -> None:
    process = procfs.Process(pid=1, name="x", state=state, parent=0, session=1, threads=threads, start=0)
    assert process.gone is gone


def test_we_find_ourselves() -> None:
    me = procfs.read(os.getpid())
    assert me is not None
    assert (me.parent, me.session) == (os.getppid(), os.getsid(0))
    assert me.threads == len(os.listdir("/proc/self/task"))
    assert any(process.pid == me.pid and process.start == me.start for process in procfs.processes())


def test_a_process_that_is_not_there_is_none() -> None:
    assert procfs.read(1 << 22) is None
    assert not list(procfs.maps(1 << 22))
    assert not procfs.writes_to(1 << 22, 1)
    assert not procfs.was_given(1 << 22, b"A=1")


def test_an_ended_child_shows_as_gone_until_it_is_reaped() -> None:
    with subprocess.Popen((sys.executable, "-I", "-S", "-c", "")) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seen = procfs.read(child.pid)
        assert seen is not None
        assert seen.gone
        child.wait()
        assert procfs.read(child.pid) is None
        assert not procfs.send(seen, signal.SIGKILL)


def test_output_and_environment_of_a_process_are_recognised() -> None:
    reading, writing = os.pipe()
    pipe = os.fstat(reading).st_ino
    with subprocess.Popen(("sleep", "10"), stdout=writing, stderr=subprocess.DEVNULL, env={"A": "1=2"}) as child:
        assert procfs.writes_to(child.pid, pipe)
        assert not procfs.writes_to(child.pid, pipe + 1)
        # The kernel closes the descriptors that end the wait of Popen before it sets up the new environment.
        wait_for(lambda: procfs.was_given(child.pid, b"A=1=2"), 5.0, "the environment")
        assert not procfs.was_given(child.pid, b"A=1")
        child.kill()
    os.close(reading)
    os.close(writing)


def test_a_start_time_becomes_wall_clock_time() -> None:
    before = time.time()
    with subprocess.Popen(("sleep", "10")) as child:
        seen = procfs.read(child.pid)
        child.kill()
    assert seen is not None
    # Start times have a resolution of one tick, the clocks of some milliseconds.
    assert before - 0.05 <= procfs.wall_time(seen.start) <= time.time() + 0.05


def test_signalling_works_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with subprocess.Popen(("sleep", "10")) as child:
        seen = procfs.read(child.pid)
        assert seen is not None
        seen.start -= 1
        assert not procfs.send(seen, signal.SIGKILL)
        seen.start += 1
        assert procfs.send(seen, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_what_is_forked_while_we_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent may end before it is read: without the child, nothing would be there."""
    listdir, children = os.listdir, []

    def listing(path: str) -> list[str]:
        names = listdir(path)
        if not children:
            children.append(subprocess.Popen(("sleep", "10")))
        return names

    monkeypatch.setattr(os, "listdir", listing)
    found = {process.pid for process in procfs.processes()}
    with children[0] as child:
        child.kill()
    assert child.pid in found
