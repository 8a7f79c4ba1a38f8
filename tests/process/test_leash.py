"""The guardian is there and knows everything, whatever is short for a while."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from support.engine_rig import alive, runs
from support.wait import await_for, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import leash
from vllm_fsm.adapters.process.leash import Leash
from vllm_fsm.adapters.process.marks import Mark

Logs = list[str]


@pytest.fixture
def session() -> Iterator[subprocess.Popen[bytes]]:
    """A session to be guarded."""
    process = subprocess.Popen(("sleep", "600"), start_new_session=True)
    yield process
    process.kill()
    process.wait()


def play(scenario: Callable[[Leash, Logs], Awaitable[None]]) -> None:
    """Run `scenario` with a leash of its own."""

    async def run() -> None:
        logs: Logs = []
        subject = Leash(clock=time.monotonic, log=lambda event, /, **fields: logs.append(event))
        subject.start()
        await scenario(subject, logs)
        await subject.close()

    asyncio.run(run())


def break_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no descriptor for a pipe."""

    def pipe() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(leash.os, "pipe", pipe)


def test_a_guardian_is_replaced_when_there_are_descriptors_again(
    monkeypatch: pytest.MonkeyPatch, session: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setattr(leash, "FIRST_PAUSE", 0.02)

    async def scenario(subject: Leash, logs: Logs) -> None:
        first = subject.pid
        assert first is not None
        subject.watch(Mark.of_child(session.pid, pipe=1, tmpdir="/tmp/vllm-fsm-none"))
        with monkeypatch.context() as short:
            break_pipe(short)
            os.kill(first, signal.SIGKILL)
            await await_for(lambda: "guardian-not-started" in logs, what="a line about it")
            assert subject.pid is None
        await await_for(lambda: subject.pid, what="another guardian")

    play(scenario)
    wait_for(lambda: not alive(session.pid), what="the end of what it watched")


def test_a_keeper_that_ended_is_started_again() -> None:
    async def scenario(subject: Leash, logs: Logs) -> None:
        assert subject._keeper is not None
        subject._keeper.cancel()
        await asyncio.wait((subject._keeper,))
        first = subject.pid
        assert first is not None
        subject.start()
        assert subject.pid == first
        os.kill(first, signal.SIGKILL)
        await await_for(lambda: subject.pid not in (None, first), what="another guardian")

    play(scenario)


@pytest.mark.parametrize("sign", ["watch", "forget"])
def test_a_guardian_that_cannot_be_told_is_replaced(session: subprocess.Popen[bytes], sign: str) -> None:
    """A stopped one does not empty its pipe."""
    mark = Mark.of_child(session.pid, pipe=1, tmpdir="/tmp/vllm-fsm-none")

    async def scenario(subject: Leash, logs: Logs) -> None:
        first = subject.pid
        assert first is not None
        assert subject._pipe is not None
        if sign == "forget":
            subject.watch(mark)
        await await_for(lambda: b"guardian.py" in procfs.cmdline(first), what="its execution")
        os.kill(first, signal.SIGSTOP)
        await await_for(lambda: (process := procfs.read(first)) and process.state == "T", what="stopped")
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(subject._pipe, b"x" * 4096)
        (subject.watch if sign == "watch" else subject.forget)(mark)
        assert "guardian-not-told" in logs
        await await_for(lambda: subject.pid not in (None, first), what="another guardian")
        assert not runs(first)

    play(scenario)
    if sign == "watch":
        wait_for(lambda: not alive(session.pid), what="the end of what it watches")
    else:
        assert alive(session.pid)
