"""The engine adapter with real children: how one is executed, watched, stopped and seen to be gone."""

import asyncio
import contextlib
import json
import mmap
import os
import shlex
import signal
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engine_rig import KEY, Rig, alive, descriptors, runs, target
from support.pressure import unhurried
from support.rude import COMMAND
from support.wait import LIMIT, await_for
from vllm_fsm import engine_command
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import engine as engine_module
from vllm_fsm.adapters.process import launch, purge, recovery, segments
from vllm_fsm.core import effects, events
from vllm_fsm.core.states import Phase

Scenario = Callable[[Rig], Awaitable[None]]


def play(scenario: Scenario, **options: Any) -> None:
    """Run `scenario` with a rig of its own."""

    async def run() -> None:
        async with Rig(**options) as rig:
            await scenario(rig)

    asyncio.run(run())


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _report(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _check_tmpdir(path: str, rig: Rig) -> None:
    tmpdir = Path(path)
    assert tmpdir.parent == rig.run_dir / "t"
    assert stat.S_IMODE(tmpdir.stat().st_mode) == 0o700
    assert any(entry.is_socket() for entry in tmpdir.iterdir())


# --- executing ------------------------------------------------------------------------------------------------------


def test_it_is_executed_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_FSM_PORT", "1")
    monkeypatch.setenv("VLLM_API_KEY", "another")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    async def scenario(rig: Rig) -> None:
        path = rig.root / "report"
        started = await rig.started(target("org/model", "--dtype", "half", REPORT=path))
        report = await await_for(lambda: _report(path), what="the report")
        fixed = ["--host", "127.0.0.1", "--port", str(rig.port), "--download-dir", str(rig.root / "data/models")]
        assert report["argv"] == ["serve", "org/model", "--dtype", "half", *fixed]
        assert report["pid"] == report["session"] == started.pid
        assert report["parent"] == os.getpid()
        assert report["cwd"] == os.getcwd()
        environment = report["environ"]
        assert environment["VLLM_API_KEY"] == KEY
        assert environment["HF_HUB_CACHE"] == str(rig.root / "data/models")
        assert "VLLM_FSM_PORT" not in environment
        expected = engine_command.environment(
            os.environ, target(REPORT=path), data=rig.root / "data", tmpdir=environment["TMPDIR"]
        )
        assert environment == expected, "the shim adds nothing"
        _check_tmpdir(environment["TMPDIR"], rig)
        fds = report["fds"]
        assert fds["0"] == "/dev/null"
        assert fds["1"] == fds["2"]
        assert fds["1"].startswith("pipe:")
        others = {value.partition(":")[0] for name, value in fds.items() if int(name) > 2}
        assert others <= {"socket", f"/proc/{started.pid}/fd"}, fds
        assert len([value for value in fds.values() if value.startswith("socket")]) == 2, "its own two"
        assert report["core"] in ([1, 1], [0, 0]), "no dump; 1 also keeps it from a program behind core_pattern"
        assert report["blocked"] == 0
        python_ignores = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
        settable = (1 << 31) - 1  # 32 and 33 belong to the C library, which lets nobody set them
        assert report["ignored"] & settable & ~python_ignores == 0
        assert KEY.encode() not in _cmdline(started.pid)
        await rig.ended()

    try:
        play(scenario)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def test_started_means_executed() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.started(target())
        assert COMMAND[-1].encode() in _cmdline(started.pid).split(b"\0")
        assert b"shim.py" not in _cmdline(started.pid)
        await rig.ended()

    play(scenario)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "EngineNotFound"),
        ("#!/bin/sh\n", 0o644, "EngineNotExecutable"),
        ("#!/no/such/interpreter\n", 0o755, "EngineNotExecutable"),
        ("neither script nor program", 0o755, "EngineNotExecutable"),
    ],
)
def test_a_command_that_cannot_be_executed_is_a_permanent_failure(
    content: str | None, mode: int, reason: str, tmp_path: Path
) -> None:
    command = tmp_path / "vllm"
    if content is not None:
        command.write_text(content)
        command.chmod(mode)

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == reason
        assert failed.finding.permanent
        assert dict(failed.finding.message.params)["command"] == str(command)
        assert rig.leftovers() == []
        assert rig.events == []

    play(scenario, command=(str(command),))


def test_the_command_is_looked_for_in_the_engines_path(tmp_path: Path) -> None:
    """The PATH of the store's environment counts, as it does for a shell."""
    command = tmp_path / "my-vllm"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    command.chmod(0o755)

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineNotFound"
        wanted = target(EXIT_CODE=4)
        path = ("PATH", f"{tmp_path}:{os.environ['PATH']}")
        rig.start(type(wanted)(wanted.arguments, (path, *wanted.environment), wanted.key, wanted.model))
        exited = await rig.next(events.EngineExited)
        assert exited.status == 4
        await rig.vacated()

    play(scenario, command=("my-vllm",))


@pytest.mark.parametrize("argument", ["with a \0 inside", "x" * (1 << 18)])
def test_arguments_that_no_system_call_takes_are_a_permanent_failure(argument: str) -> None:
    async def scenario(rig: Rig) -> None:
        rig.start(target("org/model", argument))
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        assert failed.finding.permanent
        assert rig.leftovers() == []

    play(scenario)


def test_a_run_directory_that_cannot_be_written_fails_the_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        assert not failed.finding.permanent
        assert str(blocked) in str(failed.finding.message.params)

    play(scenario, run_dir=blocked)


def test_a_taken_port_is_seen_before_the_engine_is_executed() -> None:
    async def scenario(rig: Rig) -> None:
        counter = rig.root / "starts"
        rig.start(target(LINE_COUNTER=counter))
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "PortTaken"
        assert dict(failed.finding.message.params) == {"port": rig.port, "holder": "nginx (pid 7)"}
        assert not counter.exists()

    play(scenario, port_holder=lambda: "nginx (pid 7)")


def test_a_start_before_the_last_engine_is_gone_is_refused() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target())
        rig.start(target())
        failed = await rig.next(events.StartFailed)
        assert failed.epoch == 2
        assert runs(started.pid)
        rig.epoch = 1
        await rig.ended()

    play(scenario)


def test_the_linker_cache_is_refreshed_once() -> None:
    calls = []

    async def link_cache(log: object) -> None:
        calls.append(log)

    async def scenario(rig: Rig) -> None:
        for _ in range(2):
            await rig.started(target())
            await rig.ended()

    play(scenario, link_cache=link_cache)
    assert len(calls) == 1


# --- exits ----------------------------------------------------------------------------------------------------------


def test_an_exit_at_once_comes_after_the_start_with_the_last_line() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.started(target(EXIT_CODE=7, LAST_LINE="ValueError: too little memory"))
        exited = await rig.next(events.EngineExited)
        assert exited.at >= started.at
        assert exited.status == 7
        assert exited.finding.reason == "EngineExited"
        assert exited.finding.evidence == "ValueError: too little memory"
        assert "ValueError: too little memory" in rig.lines
        await rig.vacated()
        assert rig.events == []

    play(scenario)


def test_a_usage_error_is_permanent_and_quoted() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target("org/model", "--no-such-flag"))
        exited = await rig.next(events.EngineExited)
        assert exited.finding.reason == "BadArguments"
        assert exited.finding.permanent
        assert exited.finding.evidence == "vllm: error: unrecognized arguments: --no-such-flag"
        await rig.vacated()

    play(scenario)


def test_an_end_by_signal_is_named() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target())
        os.kill(started.pid, signal.SIGSEGV)
        exited = await rig.next(events.EngineExited)
        assert exited.status == -signal.SIGSEGV
        assert dict(exited.finding.message.params) == {"signal": "SIGSEGV"}
        await rig.vacated()

    play(scenario)


def test_code_0_after_serving_is_told_like_any_other() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target(DIE_AFTER_READY=0))
        exited = await rig.next(events.EngineExited)
        assert exited.status == 0
        assert exited.finding.reason == "EngineExited"
        await rig.vacated()

    play(scenario)


def test_the_key_is_not_in_the_evidence() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target(EXIT_CODE=1, LAST_LINE=f"KeyError: {KEY} with hf_token"))
        exited = await rig.next(events.EngineExited)
        assert exited.finding.evidence == "KeyError: [redacted] with TOKEN"
        await rig.vacated()

    play(scenario, redact=lambda text: text.replace("hf_token", "TOKEN"))


def test_an_explanation_that_fails_does_not_hide_the_exit() -> None:
    counts = iter([0])

    async def scenario(rig: Rig) -> None:
        await rig.started(target(EXIT_CODE=3))
        exited = await rig.next(events.EngineExited)
        assert exited.finding.reason == "EngineExited"
        assert rig.logged("exit-not-explained")
        await rig.vacated()

    play(scenario, oom_kills=lambda: next(counts))


def test_a_survivor_that_holds_the_pipe_delays_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(CHILDREN=1))
        asked = unhurried()
        os.kill(started.pid, signal.SIGKILL)
        await rig.next(events.EngineExited)
        assert unhurried() - asked < 1
        assert alive(started.pid), "the child holds the pipe"
        await rig.vacated()
        assert not alive(started.pid)

    play(scenario)


# --- stopping -------------------------------------------------------------------------------------------------------


def test_it_ends_in_order_when_asked() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(CHILDREN=2, SHM=1))
        rig.terminate()
        exited = await rig.next(events.EngineExited)
        assert exited.status == 0
        await rig.vacated()
        assert not alive(started.pid)

    play(scenario)


def test_a_stopped_leader_hears_the_request() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target())
        os.kill(started.pid, signal.SIGSTOP)
        await await_for(lambda: (process := procfs.read(started.pid)) and process.state == "T", what="stopped")
        rig.terminate()
        assert (await rig.next(events.EngineExited)).status == 0
        await rig.vacated()

    play(scenario)


def test_a_lost_request_is_followed_by_a_second_one() -> None:
    async def scenario(rig: Rig) -> None:
        report, stamps = rig.root / "report", rig.root / "stamps"
        started = await rig.started(target(SIGTERM="loading", LISTEN_AFTER=600, REPORT=report, STAMPS=stamps))
        await await_for(lambda: _report(report), what="the handler of SIGTERM")
        rig.terminate()
        await await_for(lambda: "term" in stamps.read_text(), what="the first is taken")
        assert runs(started.pid)
        rig.terminate()
        assert (await rig.next(events.EngineExited)).status == 0
        await rig.vacated()

    play(scenario)


def test_a_deaf_engine_is_killed_with_its_children() -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(SIGTERM="deaf", CHILDREN=3, TITLE="VLLM::EngineCore"))
        assert len(alive(started.pid)) == 4
        rig.terminate()
        rig.kill()
        exited = await rig.next(events.EngineExited)
        assert exited.status == -signal.SIGKILL
        await rig.vacated()
        assert not alive(started.pid)

    play(scenario)


def test_a_kill_right_behind_the_start_executes_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        counter = rig.root / "starts"
        rig.start(target(LINE_COUNTER=counter))
        rig.kill()
        await _given_up(rig)
        assert not counter.exists()

    play(scenario)


async def _given_up(rig: Rig) -> None:
    """The start ends at once, with one event only."""
    failed = await rig.next(events.StartFailed)
    assert dict(failed.finding.message.params)["error"] == "it was stopped before it was executed"
    assert not failed.finding.permanent
    assert rig.leftovers() == []
    assert rig.events == []


def test_a_kill_waits_for_no_linker_cache_and_the_next_start_does() -> None:
    calls = []
    linked = asyncio.Event()

    async def link_cache(log: object) -> None:
        calls.append(log)
        await linked.wait()

    async def scenario(rig: Rig) -> None:
        counter = rig.root / "starts"
        for _ in range(2):
            rig.start(target(LINE_COUNTER=counter))
            await await_for(lambda: calls, what="the refreshing")
            rig.kill()
            await _given_up(rig)
        rig.start(target(LINE_COUNTER=counter))
        attempt = rig.engine._attempt
        await await_for(lambda: attempt and attempt.preparing, what="the preparation")
        assert not counter.exists()
        linked.set()
        await rig.next(events.EngineStarted)
        await rig.ended()

    play(scenario, link_cache=link_cache)
    assert len(calls) == 1


def test_a_refreshing_that_fails_does_not_hinder_the_start() -> None:
    async def link_cache(log: object) -> None:
        raise RuntimeError

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        assert rig.logged("ldconfig-failed")
        await rig.ended()

    play(scenario, link_cache=link_cache)


def test_a_kill_waits_for_no_answer_about_gpu_memory_and_takes_no_question_back() -> None:
    """A driver whose answer is not waited for counts as silent for ever."""
    asked, taken_back = [], []
    answered = asyncio.Event()

    async def free_memory() -> int | None:
        asked.append(True)
        try:
            await answered.wait()
        except asyncio.CancelledError:
            taken_back.append(True)
            raise
        return 4 * GIB

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        await await_for(lambda: asked, what="the question")
        rig.kill()
        await _given_up(rig)
        answered.set()
        await rig.started(target())
        await rig.ended()
        assert taken_back == []

    play(scenario, free_memory=free_memory)


def test_a_kill_that_comes_too_late_for_the_start_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = launch.execute

    async def scenario(rig: Rig) -> None:
        async def execute_and_kill(*arguments: Any) -> None:
            await execute(*arguments)
            rig.kill()

        monkeypatch.setattr(launch, "execute", execute_and_kill)
        await rig.started(target())
        assert (await rig.next(events.EngineExited)).status == -signal.SIGKILL
        await rig.vacated()
        assert rig.events == []

    play(scenario)


@pytest.mark.parametrize("last", ["", "os.write(int(sys.argv[1]), b'x')"])
def test_an_exec_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, last: str) -> None:
    """As from a mount that does not answer, before or after the shim said that it executes."""
    hanging = _hang(monkeypatch, tmp_path, last)

    async def scenario(rig: Rig) -> None:
        with hanging:
            rig.start(target())
            failed = await rig.next(events.StartFailed)
            assert dict(failed.finding.message.params) == {"error": "not executed within 0.2 s"}
            assert not failed.finding.permanent
            assert rig.leftovers() == []
            assert rig.events == []

    play(scenario, execute_limit=0.2)


@contextlib.contextmanager
def _hang(monkeypatch: pytest.MonkeyPatch, folder: Path, last: str = "") -> Iterator[None]:
    """Replace the shim with one that does `last` and then nothing."""
    script = folder / "shim.py"
    script.write_text(f"import os, sys, time\n{last}\ntime.sleep(600)\n")
    with monkeypatch.context() as patch:
        patch.setattr(launch.shim, "__file__", str(script))
        yield


def test_nothing_is_executed_beside_a_start_that_does_not_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario(rig: Rig) -> None:
        counter = rig.root / "starts"
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "send", lambda process, number: True)
            patch.setattr(recovery, "LIMIT", 0.1)
            with _hang(monkeypatch, tmp_path):
                rig.start(target())
                await rig.next(events.StartFailed)
            assert rig.logged("engine-remains")
            assert len(rig.leftovers()) == 3, "two marks and the TMPDIR"
            rig.start(target(LINE_COUNTER=counter))
            failed = await rig.next(events.StartFailed)
            assert failed.finding.reason == "LeftoversRemain"
            assert not failed.finding.permanent
            (shim,) = [process for process in procfs.processes() if str(tmp_path).encode() in _cmdline(process.pid)]
            assert dict(failed.finding.message.params) == {"processes": f"{shim.name} ({shim.pid})"}
            assert rig.logged("leftovers-remain")
            assert not counter.exists()
        rig.engine._execute_limit = LIMIT
        await rig.started(target(LINE_COUNTER=counter))
        assert procfs.read(shim.pid) is None, "and it is reaped"
        await rig.ended()
        rig.engine._close_limit = LIMIT

    play(scenario, execute_limit=0.1, close_limit=0.1)


def test_a_kill_during_the_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = tmp_path / "shim.py"
    slow.write_text("import signal\nsignal.pause()\n")
    monkeypatch.setattr(launch.shim, "__file__", str(slow))

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        attempt = await await_for(lambda: rig.engine._attempt, what="the attempt")
        await await_for(lambda: attempt.process, what="the shim")
        rig.kill()
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        assert not failed.finding.permanent
        assert rig.leftovers() == []

    play(scenario)


def test_a_launcher_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "shim.py"
    broken.write_text("import no_such_module\n")
    monkeypatch.setattr(launch.shim, "__file__", str(broken))

    async def scenario(rig: Rig) -> None:
        rig.start(target())
        failed = await rig.next(events.StartFailed)
        assert dict(failed.finding.message.params)["error"] == "its launcher ended with status 1"
        assert failed.finding.evidence == "ModuleNotFoundError: No module named 'no_such_module'"

    play(scenario)


@pytest.mark.parametrize("deep", ["", "1"])
def test_children_of_a_killed_leader_are_ended_and_reaped(deep: str) -> None:
    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(CHILDREN=3, CHILDREN_DEEP=deep))
        os.kill(started.pid, signal.SIGKILL)
        await rig.next(events.EngineExited)
        rig.kill()
        await rig.vacated()
        assert [process for process in procfs.processes() if process.session == started.pid] == [], "no zombie either"

    play(scenario)


@pytest.mark.parametrize("mode", ["pipe", "quiet"])
def test_a_process_that_left_the_session_is_ended_too(mode: str) -> None:
    async def scenario(rig: Rig) -> None:
        known = {process.pid for process in procfs.processes()}
        started = await rig.serving(target(DAEMON=mode))
        mine = [p for p in procfs.processes() if p.pid not in known and COMMAND[-1].encode() in _cmdline(p.pid)]
        daemon = next(process for process in mine if process.session != started.pid)
        rig.terminate()
        await rig.next(events.EngineExited)
        assert runs(daemon.pid)
        await rig.vacated()
        assert not runs(daemon.pid)

    play(scenario)


@pytest.mark.parametrize("end", ["crash", "exit", "request refused"])
def test_what_survives_an_end_without_order_is_killed_at_once(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(engine_module, "LINGER", 600.0)

    async def scenario(rig: Rig) -> None:
        rude: dict[str, object] = {"CHILDREN": 1, "CHILDREN_STAY": 1}
        if end == "exit":
            rude["DIE_AFTER_READY"] = 0
        elif end == "request refused":
            rude["SIGTERM"] = "deaf"
        started = await rig.serving(target(**rude))
        if end == "crash":
            os.kill(started.pid, signal.SIGKILL)
        elif end == "request refused":
            rig.terminate()
            os.kill(started.pid, signal.SIGABRT)
        await rig.next(events.EngineExited)
        assert alive(started.pid)
        await rig.vacated()
        assert not alive(started.pid)

    play(scenario)


PATIENT = """#!/bin/sh
trap 'exit 0' TERM
(trap '' TERM; until test -e {root}/go; do sleep 0.01; done; touch {root}/done) &
touch {root}/up
while :; do wait; done
"""
"""Its child works on after an exit in order."""


def test_the_rest_of_an_engine_that_ended_in_order_may_finish(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_module, "LINGER", 600.0)
    command = tmp_path / "vllm"
    command.write_text(PATIENT.format(root=tmp_path))
    command.chmod(0o755)

    async def scenario(rig: Rig) -> None:
        started = await rig.started(target())
        await await_for((tmp_path / "up").exists, what="the child")
        rig.terminate()
        assert (await rig.next(events.EngineExited)).status == 0
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 0.0))
        assert alive(started.pid)
        (tmp_path / "go").touch()
        await rig.next(events.EngineVacated)
        assert (tmp_path / "done").exists()

    play(scenario, command=(str(command),))


def test_the_rest_is_killed_when_it_takes_too_long(tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text(PATIENT.format(root=tmp_path))
    command.chmod(0o755)

    async def scenario(rig: Rig) -> None:
        started = await rig.started(target())
        await await_for((tmp_path / "up").exists, what="the child")
        rig.terminate()
        exited = await rig.next(events.EngineExited)
        vacated = await rig.vacated()
        assert not alive(started.pid)
        assert vacated.at - exited.at >= engine_module.LINGER

    play(scenario, command=(str(command),))


def test_effects_of_an_earlier_start_touch_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        await rig.ended()
        started = await rig.serving(target())
        rig.engine.terminate(effects.TerminateEngine(1))
        rig.engine.kill(effects.KillSession(1))
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(1, 1.0))
        assert (await rig.next(events.EngineVacated)).epoch == 1
        assert runs(started.pid)
        assert rig.events == []
        await rig.ended()

    play(scenario)


def test_vacancy_is_told_once_however_often_it_is_asked_for() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.serving(target(CHILDREN=2))
        rig.kill()
        for _ in range(3):
            rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 1.0))
        await rig.next(events.EngineVacated)
        assert [type(event) for event in rig.events] == [events.EngineExited]

    play(scenario)


def test_closing_ends_a_living_engine() -> None:
    pids = []

    async def scenario(rig: Rig) -> None:
        pids.append((await rig.serving(target(CHILDREN=2, SIGTERM="deaf"))).pid)

    play(scenario)
    assert not alive(pids[0])


def test_fifty_cycles_leak_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        await rig.ended()
        before = descriptors()
        for _ in range(50):
            started = await rig.started(target(CHILDREN=1))
            await rig.ended()
            assert [process for process in procfs.processes() if process.session == started.pid] == []
        assert descriptors() == before
        assert rig.leftovers() == []
        await await_for(lambda: not rig.engine._tasks, what="no task left")

    play(scenario)


# --- what it leaves outside ------------------------------------------------------------------------------------------


def _left(rig: Rig) -> list[str]:
    """Which of the segments that the fake engine reported still have their names."""
    return [path for path in _report(rig.root / "report")["shm"] if os.path.lexists(path)]


def test_shared_memory_of_a_killed_engine_is_removed_and_no_other() -> None:
    strange = Path(f"/dev/shm/psm_stranger{os.getpid()}")
    strange.write_bytes(b"mine")

    async def scenario(rig: Rig) -> None:
        await rig.serving(target(SHM=2, CHILDREN=1, REPORT=rig.root / "report"))
        assert len(_left(rig)) == 2
        await rig.ended()
        assert _left(rig) == []

    try:
        play(scenario)
        assert strange.exists()
    finally:
        strange.unlink()


def _mapped(path: str) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def test_shared_memory_that_somebody_else_maps_stays() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.serving(target(SHM=1, REPORT=rig.root / "report"))
        (path,) = _left(rig)
        with _mapped(path):
            await rig.ended()
            assert _left(rig) == [path]
        os.unlink(path)

    play(scenario)


def test_older_shared_memory_is_not_the_engines(tmp_path: Path) -> None:
    """A segment that the engine only attached to was made before its start."""
    path = f"/dev/shm/psm_older{os.getpid()}"
    Path(path).write_bytes(bytes(4096))
    made = os.stat(path)
    try:
        later = made.st_ctime + 1
        segments.remove({(path, made.st_ino)}, since=later)
        assert os.path.lexists(path)
        segments.remove({(path, made.st_ino + 1)}, since=made.st_ctime)
        assert os.path.lexists(path)
        segments.remove({(path, made.st_ino)}, since=made.st_ctime)
        assert not os.path.lexists(path)
    finally:
        Path(path).unlink(missing_ok=True)


@pytest.mark.parametrize("end", ["terminate", "kill", "crash"])
def test_what_only_the_resource_tracker_knows_is_removed_by_it(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(purge, "TRACKER_TIME", 600.0)

    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(SEMAPHORE=1, CHILDREN=2, REPORT=rig.root / "report"))
        assert len(_left(rig)) == 1
        if end == "terminate":
            rig.terminate()
        elif end == "crash":
            os.kill(started.pid, signal.SIGKILL)
        await rig.ended()
        assert _left(rig) == []

    play(scenario)


def test_a_resource_tracker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "TRACKER", b"rude_vllm")
    monkeypatch.setattr(purge, "TRACKER_TIME", 0.1)

    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(CHILDREN=2))
        await rig.ended()
        assert not alive(started.pid)

    play(scenario)


def test_vacancy_is_not_told_while_something_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a process that hangs in the kernel: here one that no signal of ours reaches."""
    monkeypatch.setattr(engine_module, "COMPLAINT", 0.05)
    deliver = procfs.send
    monkeypatch.setattr(procfs, "send", lambda process, number: True)

    async def scenario(rig: Rig) -> None:
        started = await rig.serving(target(CHILDREN=1))
        os.kill(started.pid, signal.SIGKILL)
        await rig.next(events.EngineExited)
        rig.kill()
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 1.0))
        await await_for(lambda: rig.logged("engine-remains"), what="a line about it")
        assert rig.events == []
        assert len(alive(started.pid)) == 1
        monkeypatch.setattr(procfs, "send", deliver)
        await rig.next(events.EngineVacated)
        assert not alive(started.pid)

    play(scenario)


def test_a_long_run_directory_does_not_break_the_engines_sockets(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long" * 20)

    async def scenario(rig: Rig) -> None:
        path = rig.root / "report"
        await rig.serving(target(REPORT=path))
        tmpdir = _report(path)["environ"]["TMPDIR"]
        assert tmpdir.startswith("/tmp/vllm-fsm-")
        before = set(os.listdir("/tmp"))
        await rig.ended()
        assert before - set(os.listdir("/tmp")) >= {tmpdir.removeprefix("/tmp/")}

    play(scenario, run_dir=run_dir)


# --- GPU memory -----------------------------------------------------------------------------------------------------


GIB = 1 << 30


def test_it_waits_for_the_gpu_memory_that_was_free_before() -> None:
    answers = [20 * GIB, 4 * GIB, 4 * GIB, 19 * GIB]

    async def free_memory() -> int | None:
        return answers.pop(0)

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        await rig.ended()
        assert answers == []
        assert rig.logged("gpu-memory-not-back") == []

    play(scenario, free_memory=free_memory)


def test_gpu_memory_that_does_not_come_back_delays_only_so_long() -> None:
    answers = [20 * GIB]

    async def free_memory() -> int | None:
        return answers.pop() if answers else 4 * GIB

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        rig.kill()
        await rig.next(events.EngineExited)
        await rig.vacated(memory_wait=0.1)
        (line,) = rig.logged("gpu-memory-not-back")
        assert (line["free"], line["wanted"]) == (4 * GIB, 19 * GIB)
        assert line["waited"] >= 0.1  # type: ignore[operator]

    play(scenario, free_memory=free_memory)


@pytest.mark.parametrize("when", ["during the wait", "before the exit"])
def test_a_running_wait_for_gpu_memory_is_shortened(when: str) -> None:
    answers = [20 * GIB]
    asked = []

    async def free_memory() -> int | None:
        asked.append(True)
        return answers.pop() if answers else 4 * GIB

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        asked.clear()
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 600.0))
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 300.0))
        if when == "during the wait":
            rig.kill()
            await await_for(lambda: asked, what="the wait")
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 0.0))
        rig.engine.confirm_vacancy(effects.ConfirmVacancy(rig.epoch, 900.0))
        rig.kill()
        await rig.next(events.EngineVacated)
        assert [type(event) for event in rig.events] == [events.EngineExited]

    play(scenario, free_memory=free_memory)


def test_a_failing_question_about_gpu_memory_changes_nothing() -> None:
    async def free_memory() -> int | None:
        raise OSError("no driver")

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        await rig.ended()
        assert rig.logged("gpu-memory-unknown")

    play(scenario, free_memory=free_memory)


def test_a_start_that_follows_a_lack_of_gpu_memory_waits_for_it() -> None:
    answers = [4 * GIB, 4 * GIB, 22 * GIB, 22 * GIB]

    async def free_memory() -> int | None:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def scenario(rig: Rig) -> None:
        rig.epoch = 1
        rig.engine.start(effects.StartEngine(1, target(), memory_needed=21.28, memory_wait=15.0))
        await rig.next(events.EngineStarted)
        assert answers == [22 * GIB]
        assert rig.logged("gpu-memory-not-back") == []
        await rig.ended()

    play(scenario, free_memory=free_memory)


def test_a_start_that_lacked_an_unknown_amount_waits_for_what_was_ever_free() -> None:
    free = [20 * GIB]

    async def free_memory() -> int | None:
        return free[0]

    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        free[0] = 4 * GIB
        rig.kill()
        await rig.next(events.EngineExited)
        await rig.vacated(memory_wait=0.1)
        rig.epoch = 2
        rig.engine.start(effects.StartEngine(2, target(), memory_needed=0.0, memory_wait=0.2))
        await rig.next(events.EngineStarted)
        assert [line["wanted"] for line in rig.logged("gpu-memory-not-back")] == [19 * GIB, 19 * GIB]
        await rig.ended()

    play(scenario, free_memory=free_memory)


# --- is it getting on? ----------------------------------------------------------------------------------------------


def test_it_tells_the_phases_that_the_output_shows() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.serving(target())
        assert [(event.epoch, event.phase) for event in rig.phases] == [
            (1, Phase.CONFIGURATION),
            (1, Phase.LISTENING),
        ]
        await rig.ended()

    play(scenario)


def test_an_engine_that_does_nothing_is_seen_to() -> None:
    async def quiet(rig: Rig) -> events.PulseTaken | None:
        await asyncio.sleep(0.1)
        rig.engine.take_pulse(effects.TakePulse(rig.epoch))
        pulse = await rig.next(events.PulseTaken)
        return None if pulse.moved else pulse

    async def scenario(rig: Rig) -> None:
        await rig.serving(target())
        rig.engine.take_pulse(effects.TakePulse(rig.epoch))
        assert (await rig.next(events.PulseTaken)).moved, "the first look has nothing to compare with"
        pulse = None
        while pulse is None:
            pulse = await quiet(rig)
        assert pulse.last
        await rig.ended()

    play(scenario)


def test_a_look_at_an_engine_that_is_gone_says_nothing() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target())
        await rig.ended()
        rig.engine.take_pulse(effects.TakePulse(rig.epoch))
        assert not [event for event in rig.events if isinstance(event, events.PulseTaken)]

    play(scenario)


# --- output ---------------------------------------------------------------------------------------------------------


def test_output_is_relayed_line_by_line() -> None:
    async def scenario(rig: Rig) -> None:
        await rig.started(target(PROGRESS=3, BAD_UTF8=1, LONG_LINE=5_000_000, DIE_AFTER_READY=0))
        await rig.next(events.EngineExited)
        await rig.vacated()
        assert "Loading safetensors checkpoint shards:  20% Completed | 2/10" in rig.lines
        assert "caf� �� end" in rig.lines
        (long,) = [line for line in rig.lines if line.startswith("xxx")]
        assert len(long) < 17_000
        assert long.endswith("bytes more]")
        assert rig.lines[-1] == "INFO:     Application startup complete."

    play(scenario)


def test_a_flood_leaves_the_loop_its_turns() -> None:
    async def scenario(rig: Rig) -> None:
        counted = 0

        def count(line: str) -> None:
            nonlocal counted
            counted += 1

        rig.engine._relay = count
        rig.start(target(FLOOD=10_000_000, DIE_AFTER_READY=0))
        most = 0
        while not any(isinstance(event, events.EngineExited) for event in rig.events):
            before = counted
            await asyncio.sleep(0)
            most = max(most, counted - before)
        assert counted >= 100_000
        assert most <= 10_000, "lines in one turn of the loop"
        await rig.vacated()

    play(scenario)


def test_a_relay_that_fails_does_not_stop_the_reading() -> None:
    def relay(line: str) -> None:
        raise RuntimeError(line)

    async def scenario(rig: Rig) -> None:
        await rig.started(target(EXIT_CODE=5, LAST_LINE="the end"))
        exited = await rig.next(events.EngineExited)
        assert exited.finding.evidence == "the end"
        assert rig.logged("output-not-relayed")
        await rig.vacated()

    play(scenario, relay=relay)


# --- the fake is as real as the tests need ---------------------------------------------------------------------------


def test_the_port_is_free_for_the_next_engine_at_once() -> None:
    async def scenario(rig: Rig) -> None:
        for _ in range(3):
            await rig.serving(target())
            with socket.create_connection(("127.0.0.1", rig.port), LIMIT):
                pass
            await rig.ended()

    play(scenario)
