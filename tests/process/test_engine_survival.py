"""What happens to the engine when the controller is killed, the guardian is killed, or both are."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.engine_rig import Rig, alive, runs, target
from support.pressure import unhurried
from support.rude import COMMAND, free_port
from support.wait import LIMIT, await_for, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process import guardian, marks, recovery
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.core import events

HOST = Path(__file__).resolve().parent.parent / "fakes" / "engine_host.py"
SOON = 2.0
"""Seconds after which nothing of the engine may be left, on a machine that has time for it."""


class Host:
    """A controller-like process with its own run directory."""

    def __init__(self, root: Path, mode: str, *rude: str) -> None:
        arguments = (sys.executable, str(HOST), mode, str(root), str(free_port()), *rude)
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.said: list[dict[str, Any]] = []
        self.engine: int | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self, what: str, **fields: object) -> dict[str, Any]:
        """Return the first message `what` with these fields that was not returned before."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, f"the host ended without {what}; it said {self.said}"
            message: dict[str, Any] = json.loads(line)
            self.said.append(message)
            if message["what"] == what and all(message.get(name) == value for name, value in fields.items()):
                return message

    def serve(self) -> tuple[int, int]:
        """Wait until the fake engine listens; return its pid and the guardian's."""
        watcher: int = self.hear("recovered")["guardian"]
        engine: int = self.hear("EngineStarted")["pid"]
        self.engine = engine
        self.hear("line", text="INFO:     Application startup complete.")
        return engine, watcher

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for left in alive(self.engine) if self.engine else []:  # of a test that failed
            os.kill(left.pid, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vf"))
    hosts.clear()
    yield path
    for host in hosts:
        host.close()
    shutil.rmtree(path)


hosts: list[Host] = []


def host(root: Path, mode: str, *rude: str) -> Host:
    made = Host(root, mode, *rude)
    hosts.append(made)
    return made


def recover(root: Path) -> list[dict[str, Any]]:
    """Start a controller on the same directories and let it end in order; return what it said."""
    again = host(root, "recover")
    again.hear("recovered")
    assert again.process.wait(LIMIT) == 0
    return again.said


def shared(root: Path) -> list[str]:
    """Which of the segments that the fake engine reported still have their names."""
    return [path for path in json.loads((root / "report").read_text())["shm"] if os.path.lexists(path)]


@pytest.mark.parametrize(
    "rude",
    [
        ("CHILDREN=0",),
        ("CHILDREN=3", "SIGTERM=deaf", "TITLE=VLLM::EngineCore", "SHM=2", "SEMAPHORE=1"),
        ("CHILDREN=3", "CHILDREN_DEEP=1", "DAEMON=quiet"),
    ],
)
def test_nothing_survives_the_controllers_sigkill(root: Path, rude: tuple[str, ...]) -> None:
    known = {process.pid for process in procfs.processes()}
    controller = host(root, "start", f"REPORT={root}/report", *rude)
    engine, watcher = controller.serve()
    mine = [process.pid for process in procfs.processes() if process.pid not in known and process.session != 0]
    killed = unhurried()
    controller.process.kill()
    wait_for(lambda: not alive(engine) and not runs(watcher), what="the session and the guardian to be gone")
    assert unhurried() - killed < SOON
    ours = [pid for pid in mine if runs(pid) and COMMAND[-1].encode() in _cmdline(pid)]
    assert ours == []
    assert shared(root) == []
    assert list((root / "run/t").iterdir()) == []
    assert recover(root)[0]["what"] == "recovered", "there is nothing left to find"
    assert list(root.glob("*/engine-*")) == []


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def settled(watcher: int) -> None:
    """Wait until the guardian ignores what it is to ignore, and so has opened what it opens."""
    ignored = 1 << (signal.SIGUSR2 - 1)
    wait_for(lambda: int(_status(watcher)["SigIgn"], 16) & ignored, what="the guardian is ready")


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_the_guardian_is_not_impressed_by_signals_to_the_group(root: Path) -> None:
    controller = host(root, "start", "CHILDREN=1", "SIGTERM=deaf")
    engine, watcher = controller.serve()
    settled(watcher)
    guarded = procfs.read(watcher)
    assert guarded is not None
    assert guarded.session == watcher, "a group of its own"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(watcher, number)
    assert runs(watcher)
    controller.process.kill()
    wait_for(lambda: not alive(engine) and not runs(watcher), what="everything gone")


def test_the_guardian_holds_nothing_but_its_pipe_and_knows_no_secret(root: Path) -> None:
    controller = host(root, "start", "CHILDREN=1")
    engine, watcher = controller.serve()
    settled(watcher)
    held = {fd: os.readlink(f"/proc/{watcher}/fd/{fd}") for fd in os.listdir(f"/proc/{watcher}/fd")}
    assert set(held) == {"0", "1", "2"}
    assert held["0"].startswith("pipe:")
    assert held["1"] == held["2"] == "/dev/null"
    assert held["0"] != os.readlink(f"/proc/{engine}/fd/1")
    assert b"secret" not in Path(f"/proc/{watcher}/environ").read_bytes()
    assert os.readlink(f"/proc/{watcher}/cwd") == "/"


def test_a_lost_guardian_is_replaced_and_told_all(root: Path) -> None:
    controller = host(root, "start", "CHILDREN=2", "SIGTERM=deaf")
    engine, watcher = controller.serve()
    os.kill(watcher, signal.SIGKILL)
    assert controller.hear("guardian-lost")["pid"] == watcher
    successor = wait_for(lambda: _guardian_of(controller.pid), what="another guardian")
    wait_for(lambda: b"guardian.py" in _cmdline(successor), what="its execution")
    controller.process.kill()
    wait_for(lambda: not alive(engine) and not runs(successor), what="everything gone")


def _guardian_of(pid: int) -> int | None:
    ours = [process for process in procfs.processes() if process.parent == pid and not process.gone]
    return next((process.pid for process in ours if b"guardian.py" in _cmdline(process.pid)), None)


def test_leftovers_of_controller_and_guardian_killed_together_are_ended_at_the_next_start(root: Path) -> None:
    controller = host(
        root, "start", f"REPORT={root}/report", "CHILDREN=2", "TITLE=VLLM::Worker", "SHM=1", "DAEMON=pipe"
    )
    engine, watcher = controller.serve()
    # The same command line, and a session of its own, but not started by us.
    stranger = subprocess.Popen(
        (*COMMAND, "serve", "org/model", "--port", str(free_port())),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for pid in (watcher, controller.pid):
        os.kill(pid, signal.SIGSTOP)
    for pid in (watcher, controller.pid):
        os.kill(pid, signal.SIGKILL)
    controller.process.wait()
    wait_for(lambda: not runs(engine), what="the leader's end by PR_SET_PDEATHSIG")
    assert len(alive(engine)) == 2, "nobody was left to end them"
    try:
        said = recover(root)
        assert said[0]["what"] == "leftovers-found"
        assert said[0]["session"] == engine
        assert len(said[0]["processes"]) == 3
        assert not alive(engine)
        assert shared(root) == []
        assert list(root.glob("*/engine-*")) == []
        assert not (root / "run/t").exists()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_controller_killed_before_the_exec_leaves_no_shim(root: Path) -> None:
    controller = host(root, "spawn")
    shim = controller.hear("spawned")["pid"]
    assert runs(shim)
    controller.process.kill()
    wait_for(lambda: not runs(shim), what="the shim's end")


# --- strangers ------------------------------------------------------------------------------------------------------


def mark_of(root: Path, **changes: Any) -> Mark:
    """A mark as an earlier life would have left it."""
    facts = {
        "boot": procfs.boot_id(),
        "namespace": procfs.pid_namespace(),
        "session": 1,
        "start": 1,
        "pipe": 1,
        "tmpdir": str(root / "run/t/1-abcdefgh"),
    }
    mark = Mark(**facts | changes)
    for folder in (root / "run", root / "state"):
        folder.mkdir(exist_ok=True)
        marks.write(mark, str(folder))
    return mark


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A session whose leader has a child, both none of our business."""
    command = ("sh", "-c", "sleep 600 & echo $!; exec sleep 600")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.stdout.close()
    for member in alive(process.pid):
        os.kill(member.pid, signal.SIGKILL)
    process.wait()


def test_a_session_number_that_was_given_again_is_left_alone(root: Path, stranger: subprocess.Popen[bytes]) -> None:
    found = procfs.read(stranger.pid)
    assert found is not None
    mark_of(root, session=stranger.pid, start=found.start - 100)
    assert [message["what"] for message in recover(root)] == ["recovered"]
    assert len(alive(stranger.pid)) == 2
    assert list(root.glob("*/engine-*")) == []


def test_a_session_without_its_leader_needs_a_proof(root: Path, stranger: subprocess.Popen[bytes]) -> None:
    found = procfs.read(stranger.pid)
    assert found is not None
    stranger.kill()
    stranger.wait()
    (member,) = alive(stranger.pid)
    mark_of(root, session=stranger.pid, start=found.start)
    recover(root)
    assert runs(member.pid)
    pipe = os.fstat(stranger.stdout.fileno()).st_ino if stranger.stdout is not None else 0
    mark_of(root, session=stranger.pid, start=found.start, pipe=pipe)
    recover(root)
    assert not runs(member.pid), "its output is the recorded pipe"


def test_a_start_waits_for_leftovers_and_never_goes_beside_them(
    monkeypatch: pytest.MonkeyPatch, stranger: subprocess.Popen[bytes]
) -> None:
    """As with processes that hang in the kernel: no signal of ours reaches them for a while."""
    monkeypatch.setattr(recovery, "LIMIT", 0.1)
    found = procfs.read(stranger.pid)
    assert found is not None
    rig = Rig()
    theirs, older = rig.run_dir / "t/1-abcdefgh", rig.run_dir / "t/0-abcdefgh"
    theirs.mkdir(parents=True)
    older.mkdir()
    mark_of(rig.root, session=stranger.pid, start=found.start, tmpdir=str(theirs))

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "send", lambda process, number: True)
            await rig.engine.recover()
            assert theirs.exists(), "they live there"
            assert not older.exists()
            counter = rig.root / "starts"
            rig.start(target(LINE_COUNTER=counter))
            failed = await rig.next(events.StartFailed)
            assert failed.finding.reason == "LeftoversRemain"
            named = ", ".join(f"{process.name} ({process.pid})" for process in alive(stranger.pid))
            assert dict(failed.finding.message.params) == {"processes": named}
            assert len(rig.logged("leftovers-remain")) == 2
            assert not counter.exists()
            assert len(list(rig.root.glob("*/engine-*"))) == 2, "the marks stay, too"
        monkeypatch.setattr(recovery, "LIMIT", LIMIT)
        await rig.started(target())
        assert not alive(stranger.pid)
        assert not theirs.exists()
        await rig.ended()
        assert rig.leftovers() == []
        await rig.engine.close()

    try:
        asyncio.run(scenario())
    finally:
        shutil.rmtree(rig.root)


def test_a_start_that_waits_for_leftovers_can_be_given_up(
    monkeypatch: pytest.MonkeyPatch, stranger: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setattr(recovery, "LIMIT", 0.0)
    found = procfs.read(stranger.pid)
    assert found is not None
    rig = Rig()
    mark_of(rig.root, session=stranger.pid, start=found.start)
    strikes: list[int] = []
    monkeypatch.setattr(procfs, "send", lambda process, number: strikes.append(process.pid))

    async def scenario() -> None:
        await rig.engine.recover()
        monkeypatch.setattr(recovery, "LIMIT", 600.0)
        strikes.clear()
        rig.start(target())
        await await_for(lambda: strikes, what="the start's wait")
        rig.kill()
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        await rig.engine.close()

    try:
        asyncio.run(scenario())
    finally:
        shutil.rmtree(rig.root)


@pytest.mark.parametrize("field", ["boot", "namespace"])
def test_a_mark_of_another_boot_or_container_means_nothing(
    root: Path, stranger: subprocess.Popen[bytes], field: str
) -> None:
    found = procfs.read(stranger.pid)
    assert found is not None
    other = {"boot": "00000000-0000-0000-0000-000000000000", "namespace": 1}
    mark_of(root, session=stranger.pid, start=found.start, **{field: other[field]})
    recover(root)
    assert len(alive(stranger.pid)) == 2
    assert list(root.glob("*/engine-*")) == []


def test_a_mark_that_was_cut_short_is_removed(root: Path) -> None:
    (root / "run").mkdir()
    precious = root / "precious"
    precious.mkdir()
    for text in ("", "abc", f"{procfs.boot_id()} {procfs.pid_namespace()} 1 1 1 {root}", "\xff\n"):
        (root / "run" / f"engine-{len(text)}.mark").write_text(text)
    assert [message["what"] for message in recover(root)] == ["recovered"]
    assert list(root.glob("*/engine-*")) == []
    assert precious.exists()


def test_a_marks_directory_is_removed_only_where_we_make_them(root: Path) -> None:
    precious = root / "precious"
    precious.mkdir()
    mark_of(root, tmpdir=str(precious))
    recover(root)
    assert precious.exists()


def test_a_process_is_not_signalled_for_its_number(stranger: subprocess.Popen[bytes]) -> None:
    seen = procfs.read(stranger.pid)
    assert seen is not None
    seen.start -= 1
    assert not procfs.send(seen, signal.SIGKILL)
    assert runs(stranger.pid)
    seen.start += 1
    assert procfs.send(seen, signal.SIGKILL)
    stranger.wait()
    assert not procfs.send(seen, signal.SIGKILL)


# --- the guardian by itself ------------------------------------------------------------------------------------------


def test_the_guardian_imports_next_to_nothing() -> None:
    """Its memory counts: each of these would add a tenth or more."""
    source = Path(guardian.__file__).resolve().parents[3]
    program = f"import sys; sys.path.append({str(source)!r}); import {guardian.__name__}; print(*sys.modules)"
    run = subprocess.run((sys.executable, "-I", "-S", "-c", program), capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"asyncio", "ctypes", "dataclasses", "json", "pathlib", "re", "shutil", "subprocess", "typing"}


def test_the_guardian_forgets_what_was_taken_back(stranger: subprocess.Popen[bytes]) -> None:
    mark = Mark.of_child(stranger.pid, pipe=1, tmpdir="/tmp/vllm-fsm-none")
    told = f"+{mark.line()}\n-{mark.line()}\n"
    subprocess.run((sys.executable, "-I", "-S", guardian.__file__), input=told, text=True, check=True, timeout=LIMIT)
    assert len(alive(stranger.pid)) == 2
    subprocess.run(
        (sys.executable, "-I", "-S", guardian.__file__), input=f"+{mark.line()}\n", text=True, check=True, timeout=LIMIT
    )
    assert alive(stranger.pid) == []
