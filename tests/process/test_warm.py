"""A warm parent becomes the engine, exactly as a plain start would make it, or is thrown away."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.controller import Controller
from support.engine_rig import KEY, Rig, alive, runs, target
from support.wait import LIMIT, await_for, wait_for
from support.warm_vllm import install
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.process.warm import identity, memo
from vllm_fsm.adapters.process.warm import keeper as keeper_module
from vllm_fsm.adapters.process.warm.off import Times
from vllm_fsm.core import events
from vllm_fsm.core.snapshot import Target

WARM = 120.0
"""Seconds for a parent, which is made at the lowest priority."""

Scenario = Callable[["WarmRig"], Awaitable[None]]


class WarmRig(Rig):
    """A rig whose engine is the package, with a warm parent as soon as it is calm."""

    def __init__(
        self, script: Path, settle: float = 0.0, patience: float = LIMIT, enough: bool | None = None, **options: Any
    ) -> None:
        times = Times(settle, patience=patience)
        super().__init__(**{"command": (str(script),), "warm": "on", **options, "warm_times": times})
        if enough is not None:
            self.engine.warm._enough = lambda cost: enough
        self.script = script

    def expect(self, wanted: Target | None, *, calm: bool = True) -> None:
        self.engine.expect(wanted, offline=False, calm=calm)

    @property
    def state(self) -> str:
        report = self.engine.warm.report()
        assert report is not None
        return str(report["state"])

    async def warmed(self, wanted: Target) -> int:
        """Be calm until a parent is ready; return its pid."""
        self.expect(wanted)
        await await_for(lambda: self.state == "ready", WARM, f"ready; {self.logs}")
        return int(str(self.logged("warm-parent-ready")[-1]["pid"]))

    async def beside(self, wanted: Target) -> int:
        """Serve `wanted` until a parent stands ready beside it; return the parent's pid."""
        await self.serving(wanted)
        return await self.warmed(wanted)

    async def standing(self, wanted: Target) -> int:
        """Do the same and end the engine, so that the parent is what the next start finds; return its pid."""
        pid = await self.beside(wanted)
        self.expect(wanted, calm=False)
        await self.ended()
        return pid

    async def restarted(self, wanted: Target) -> events.EngineStarted:
        """End what serves, and start `wanted`."""
        self.expect(wanted, calm=False)
        await self.ended()
        self.lines.clear()
        return await self.serving(wanted)


@pytest.fixture(scope="module")
def script() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="vf"))
    yield install(root / "env")
    shutil.rmtree(root)


def play(scenario: Scenario, script: Path, **options: Any) -> None:
    async def run() -> None:
        async with WarmRig(script, **options) as rig:
            await scenario(rig)

    asyncio.run(run())


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


async def report(path: Path) -> Any:
    return await await_for(lambda: read(path), what=str(path))


def cmdline(pid: int) -> list[str]:
    return procfs.cmdline(pid).decode().split("\0")


def share(pid: int) -> str:
    """The nice value of the process's session, empty where the scheduler does not share by session."""
    group = Path(f"/proc/{pid}/autogroup")
    return group.read_text().rpartition("nice")[2].strip() if group.exists() else ""


# --- the same engine ------------------------------------------------------------------------------------------------


def test_it_becomes_the_engine_that_a_plain_start_makes(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = target(REPORT=rig.root / "report", DAEMON="")
        plain_start = await rig.serving(wanted)
        plain, line = await report(rig.root / "report"), cmdline(plain_start.pid)
        name = procfs.read(plain_start.pid)
        (rig.root / "report").unlink()
        pid = await rig.warmed(wanted)
        warm_start = await rig.restarted(wanted)
        warm = await report(rig.root / "report")
        assert warm_start.pid == pid
        assert cmdline(pid) == line
        process = procfs.read(pid)
        assert process is not None
        assert name is not None
        assert process.name == name.name == "vllm"
        for facts in (plain, warm):
            facts.pop("start")
            facts.pop("pid")
            facts.pop("session")
            facts["fds"] = {number: where.partition(":")[0] for number, where in facts["fds"].items()}
            assert str(rig.run_dir / "t") in facts["environ"].pop("TMPDIR")
        assert warm == plain
        assert warm["environ"]["VLLM_API_KEY"] == KEY
        assert not procfs.was_given(pid, f"VLLM_API_KEY={KEY}".encode())
        assert share(pid) in ("", "0")
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)

    play(scenario, script)


def test_the_interpreters_options_are_none_of_the_engines(tmp_path: Path) -> None:
    script = install(tmp_path)
    first, _, rest = script.read_text().partition("\n")
    script.write_text(f"{first} -sP\n{rest}")

    async def scenario(rig: WarmRig) -> None:
        wanted = target(REPORT=rig.root / "report")
        plain = await rig.serving(wanted)
        line, argv = cmdline(plain.pid), (await report(rig.root / "report"))["argv"]
        (rig.root / "report").unlink()
        pid = await rig.warmed(wanted)
        started = await rig.restarted(wanted)
        assert started.pid == pid
        assert cmdline(pid) == line
        assert (await report(rig.root / "report"))["argv"] == argv

    play(scenario, script)


def test_its_children_are_those_that_it_would_spawn(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        path = rig.root / "child"
        base = target()
        variables = {**dict(base.environment), "FAKE_SPAWN": str(path), "GONE": "1"}
        wanted = Target(base.arguments, tuple(sorted(variables.items())), base.key, base.model)
        seen = {}
        for way in ("plain", "warm"):
            if way == "warm":
                await rig.warmed(wanted)
                warm = rig.engine.warm.report()
                assert warm is not None
                assert warm["processes"] == 3
                assert warm["memory"] > 0
                await rig.restarted(wanted)
            else:
                await rig.serving(wanted)
            seen[way] = [await report(Path(f"{path}.{depth}")) for depth in (1, 2)]
            await await_for(lambda: len(rig.engine.warm._plan.children) == 1, what="the child was seen")
            await await_for(lambda: rig.engine.warm._plan.count() == 3, what="its child was seen")
            for depth in (1, 2):
                os.unlink(f"{path}.{depth}")
        assert [facts["warm"] for facts in seen["plain"]] == [False, False]
        assert [facts["warm"] for facts in seen["warm"]] == [True, True]
        session = seen["warm"][0]["parent"]
        assert {facts["session"] for facts in seen["warm"]} == {session}
        assert seen["warm"][1]["parent"] == seen["warm"][0]["pid"]
        for facts in (*seen["plain"], *seen["warm"]):
            for volatile in ("pid", "parent", "session", "warm"):
                facts.pop(volatile)
            # The key is there, and was not when it was imported; the TMPDIR is its own.
            key = facts["imported_with"].pop("VLLM_API_KEY", KEY)
            assert key == facts["environ"]["VLLM_API_KEY"] == KEY
            for environment in (facts["environ"], facts["imported_with"]):
                tmpdir = environment.pop("TMPDIR")
                assert environment.pop("CORE_TMPDIR") == f"{tmpdir}/x"
                assert "GONE" not in environment
        for warm, plain in zip(seen["warm"], seen["plain"], strict=True):
            assert {name: (warm[name], plain[name]) for name in plain if warm[name] != plain[name]} == {}

    play(scenario, script)


def test_a_child_with_another_environment_is_spawned_as_ever(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        path, other = rig.root / "child", rig.root / "other"
        other.write_text("first")
        base = target()
        variables = {**dict(base.environment), "FAKE_SPAWN": str(path), "FAKE_SPAWN_OTHER": str(other)}
        wanted = Target(base.arguments, tuple(sorted(variables.items())), base.key, base.model)
        await rig.serving(wanted)
        await report(Path(f"{path}.2"))
        await await_for(lambda: rig.engine.warm._plan.count() == 3, what="both were seen")
        await rig.warmed(wanted)
        for depth in (1, 2):
            os.unlink(f"{path}.{depth}")
        other.write_text("second")
        started = await rig.restarted(wanted)
        facts = [await report(Path(f"{path}.{depth}")) for depth in (1, 2)]
        assert [one["warm"] for one in facts] == [False, False]
        assert {one["imported_with"]["OTHER"] for one in facts} == {"second"}
        ours = {one["pid"] for one in facts} | {started.pid}
        left = {p.pid for p in alive(started.pid) if b"resource_tracker" not in procfs.cmdline(p.pid)}
        assert left == ours, "the spare is gone"
        await await_for(lambda: rig.engine.warm._plan.children[0].values["OTHER"] == "second", what="learnt")
        assert rig.logged("warm-child-not-used") == [{"difference": "OTHER"}]

    play(scenario, script)


def test_the_key_is_not_in_the_parent(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.beside(target())
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        for line in map(bytes.decode, procfs.maps(pid)):
            where, access, *_ = line.split()
            if "r" not in access or "[vvar" in line or "[vsyscall]" in line:
                continue
            start, end = (int(number, 16) for number in where.split("-"))
            try:
                content = os.pread(memory, end - start, start)
            except (OSError, OverflowError):
                continue
            assert KEY.encode() not in content, line
        os.close(memory)

    play(scenario, script)


def test_what_it_says_before_is_not_the_engines(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _fake("noise")
        pid = await rig.beside(wanted)
        started = await rig.restarted(wanted)
        assert started.pid == pid
        assert not any("Address already in use" in line for line in rig.lines)
        exited = await rig.ended()
        assert exited.finding.reason != "PortTaken"

    play(scenario, script)


# --- rude parents ---------------------------------------------------------------------------------------------------


def _fake(mode: str, **more: str) -> Target:
    base = target()
    variables = {**dict(base.environment), "FAKE_IMPORT": mode, **more}
    return Target(base.arguments, tuple(sorted(variables.items())), base.key, base.model)


async def _plain_instead(rig: WarmRig, wanted: Target, pid: int | None) -> None:
    started = await rig.restarted(wanted)
    assert started.pid != pid
    if pid is not None:
        await await_for(lambda: not runs(pid), what="the parent is gone")
        await await_for(lambda: not alive(pid), what="all of it")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["deaf", "dead"])
def test_a_parent_that_does_not_answer(script: Path, number: int) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        os.kill(pid, number)
        rig.lines.clear()
        started = await rig.serving(target())
        assert started.pid != pid
        assert rig.logged("warm-parent-failed")
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script, patience=0.5)


def test_what_a_refused_parent_says_is_not_the_engines(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        os.kill(pid, signal.SIGSTOP)
        rig.lines.clear()
        rig.start(target())
        await await_for(lambda: rig.state == "none", what="it is told to start")
        complaint = "OSError: [Errno 98] Address already in use\n"
        await asyncio.to_thread(Path(f"/proc/{pid}/fd/1").write_text, complaint)
        os.kill(pid, signal.SIGKILL)
        started = await rig.next(events.EngineStarted)
        assert started.pid != pid
        assert not any("Address already in use" in line for line in rig.lines)
        os.kill(started.pid, signal.SIGKILL)
        assert (await rig.next(events.EngineExited)).finding.reason == "EngineKilled"

    play(scenario, script)


@pytest.mark.parametrize("mode", ["die", "exit", "gpu"])
def test_a_parent_that_cannot_be_made(script: Path, mode: str) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _fake(mode)
        await rig.serving(wanted)
        rig.expect(wanted)
        failed = await await_for(lambda: rig.logged("warm-parent-failed"), what="the failure is told")
        expected = {"die": "RuntimeError: not today", "exit": "it ended", "gpu": "its imports initialise a GPU"}
        assert str(failed[0]["error"]).endswith(expected[mode])
        await _plain_instead(rig, wanted, None)
        assert len(rig.logged("warm-parent-failed")) == 1, "it is not tried again at once"

    play(scenario, script)


def test_a_parent_that_is_still_importing(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _fake("hang")
        await rig.serving(wanted)
        before = {process.pid for process in procfs.processes()}
        rig.expect(wanted)
        await await_for(lambda: rig.state == "preparing", what="preparing")
        found = await await_for(
            lambda: [
                p.pid for p in procfs.processes() if p.pid not in before and b"parent.py" in procfs.cmdline(p.pid)
            ],
            what="its process",
        )
        await _plain_instead(rig, wanted, found[0])

    play(scenario, script)


def test_an_installation_that_changed(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        rig.lines.clear()
        (package,) = script.parent.parent.glob("lib/*/site-packages/vllm/_version.py")
        os.utime(package)
        started = await rig.serving(target())
        assert started.pid != pid
        assert rig.logged("warm-parent-not-used") == [{"difference": "files"}]
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script)


def test_a_changed_variable_throws_it_away_at_once(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.beside(target())
        rig.expect(target(LAST_LINE="another"), calm=False)
        assert rig.logged("warm-parent-thrown-away") == [{"why": "environment"}]
        await await_for(lambda: not runs(pid), what="it is gone")
        await _plain_instead(rig, target(LAST_LINE="another"), pid)

    play(scenario, script)


def test_a_variable_of_our_own_that_changed(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        rig.lines.clear()
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "3")
        started = await rig.serving(target())
        assert started.pid != pid
        assert rig.logged("warm-parent-not-used") == [{"difference": "environment (HF_HUB_ETAG_TIMEOUT)"}]
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script)


# --- when -----------------------------------------------------------------------------------------------------------


def test_one_parent_serves_one_start(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target())
        seen = set()
        for length in ("1", "2", "3"):
            pid = await rig.warmed(target())
            started = await rig.restarted(target("org/model", "--max-model-len", length))
            assert started.pid == pid
            assert cmdline(pid)[2:6] == ["serve", "org/model", "--max-model-len", length]
            assert rig.state == "none"
            seen.add(pid)
        assert len(seen) == 3

    play(scenario, script)


def test_another_key_needs_no_other_parent(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target(REPORT=rig.root / "report"))
        pid = await rig.warmed(target(REPORT=rig.root / "report"))
        (rig.root / "report").unlink()
        started = await rig.restarted(target(key="kAnotherKey0123456789abc", REPORT=rig.root / "report"))
        assert started.pid == pid
        facts = await report(rig.root / "report")
        assert facts["environ"]["VLLM_API_KEY"] == "kAnotherKey0123456789abc"

    play(scenario, script)


@pytest.mark.parametrize(("name", "status"), [("ValueError", 1), ("KeyboardInterrupt", -signal.SIGINT)])
def test_it_fails_as_a_plain_start_fails(script: Path, name: str, status: int) -> None:
    async def scenario(rig: WarmRig) -> None:
        trigger = rig.root / "raise"
        base = target()
        variables = {**dict(base.environment), "FAKE_RAISE": str(trigger)}
        wanted = Target(base.arguments, tuple(sorted(variables.items())), base.key, base.model)
        pid = await rig.beside(wanted)
        rig.expect(wanted, calm=False)
        await rig.ended()
        trigger.write_text(name)
        said = []
        for _ in ("warm", "plain"):
            rig.lines.clear()
            started = await rig.started(wanted)
            exited = await rig.next(events.EngineExited)
            assert exited.status == status
            await rig.vacated()
            said.append((exited.finding, tuple(rig.lines)))
            assert (started.pid == pid) is (len(said) == 1)
        assert said[0] == said[1]
        assert said[0][1][-1].startswith(name)
        assert [fields["error"] for fields in rig.logged("warm-parent-failed")] == ["its engine ended before it served"]

    play(scenario, script)


def test_it_is_stopped_like_any_engine(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = target(CHILDREN="2", SHM="1", SEMAPHORE="1", TITLE="VLLM::EngineCore")
        pid = await rig.beside(wanted)
        await rig.restarted(wanted)
        rig.terminate()
        exited = await rig.next(events.EngineExited)
        assert exited.status == 0
        await rig.vacated()
        assert alive(pid) == []

    play(scenario, script)


def test_a_kill_while_it_becomes_the_engine(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        os.kill(pid, signal.SIGSTOP)
        rig.start(target())
        await await_for(lambda: rig.state == "none", what="it is told to start")
        rig.kill()
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        assert rig.logged("warm-parent-failed") == []
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script)


def test_nothing_is_made_unless_it_is_calm_and_there_is_memory(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        room = [False]
        rig.engine.warm._enough = lambda cost: room[0]
        await rig.serving(target())
        rig.expect(target(), calm=False)
        rig.expect(target())
        await await_for(lambda: rig.logged("no-warm-parent"), what="the reason")
        assert rig.logged("no-warm-parent") == [{"why": "not enough free memory"}]
        rig.expect(target(), calm=False)
        room[0] = True
        pid = await rig.warmed(target())
        # It is thrown away when memory gets short.
        room[0] = False
        rig.expect(target(), calm=False)
        rig.expect(target())
        await await_for(lambda: rig.logged("warm-parent-thrown-away"), what="thrown away")
        assert rig.logged("warm-parent-thrown-away") == [{"why": "memory"}]
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script, warm="auto")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper looks often."""
    monkeypatch.setattr(keeper_module, "LOOK", 0.1)


@pytest.mark.usefixtures("looks")
def test_it_is_thrown_away_for_want_of_memory_whatever_goes_on(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        room = [True]
        rig.engine.warm._enough = lambda cost: room[0]
        pid = await rig.beside(target())
        rig.expect(target(), calm=False)
        room[0] = False
        await await_for(lambda: rig.logged("warm-parent-thrown-away"), what="thrown away")
        assert rig.logged("warm-parent-thrown-away") == [{"why": "memory"}]
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script, warm="auto")


def test_when_nothing_is_wanted_there_is_none(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.beside(target())
        rig.expect(None, calm=False)
        assert rig.state == "none"
        assert rig.logged("warm-parent-thrown-away") == [{"why": "unwanted"}]
        await await_for(lambda: not runs(pid), what="it is gone")

    play(scenario, script)


def test_a_dead_one_is_not_called_ready(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.beside(target())
        rig.expect(target(), calm=False)
        os.kill(pid, signal.SIGKILL)
        await await_for(lambda: rig.state == "none", what="its end is noticed")
        assert rig.logged("warm-parent-thrown-away") == [{"why": "ended"}]
        warm = rig.engine.warm.report()
        assert warm is not None
        assert warm["why"] == "it ended"

    play(scenario, script)


def test_one_that_the_kernel_killed_is_not_charged_to_the_engine(script: Path) -> None:
    kills = [0]

    async def scenario(rig: WarmRig) -> None:
        reasons = []
        for of_engine in (False, True):
            started = await rig.serving(target())
            os.kill(await rig.warmed(target()), signal.SIGKILL)
            kills[0] += 1
            await await_for(lambda: rig.state == "none", what="its end is noticed")
            os.kill(started.pid, signal.SIGKILL)
            kills[0] += of_engine
            reasons.append((await rig.next(events.EngineExited)).finding.reason)
            await rig.vacated()
            rig.expect(target(), calm=False)
        assert reasons == ["EngineKilled", "MachineMemoryFull"]

    play(scenario, script, oom_kills=lambda: kills[0])


@pytest.mark.usefixtures("looks")
def test_what_fails_once_is_told_and_tried_again(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target())
        keeper = rig.engine.warm
        make, tried = keeper._scratch, []

        def scratch(number: int) -> str:
            tried.append(number)
            if len(tried) == 1:
                raise OSError(errno.ENOSPC, "No space left on device", str(rig.run_dir))
            return str(make(number))

        keeper._scratch = scratch
        told = []
        keeper.changed = lambda: told.append((keeper.report() or {}).get("why"))
        await rig.warmed(target())
        error = f"[Errno 28] No space left on device: '{rig.run_dir}'"
        assert rig.logged("warm-parent-failed") == [{"error": error}]
        assert error in told

    play(scenario, script)


def test_after_a_failure_it_rests(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        os.kill(pid, signal.SIGKILL)
        rig.lines.clear()
        await rig.serving(target())
        rig.expect(target())
        await await_for(lambda: rig.logged("no-warm-parent"), what="the reason")
        assert rig.logged("no-warm-parent") == [{"why": "the last one failed"}]

    play(scenario, script, warm="auto")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["violent", "orderly"])
def test_it_does_not_outlive_the_controller(script: Path, tmp_path: Path, number: int) -> None:
    with Controller(tmp_path, "--warm", "on", engine=(str(script),), overrides={"warm": {"settle": 0.0}}) as controller:
        wishes = {"FAKE_SPAWN": str(tmp_path / "child")}
        controller.serve("tiny", **wishes)
        controller.until("Ready", WARM, also=lambda health: health["warm"]["processes"] > 1)
        ready = controller.says("warm-parent-ready")
        assert len(alive(ready["pid"])) == ready["processes"]
        controller.signal(number).ends()
        wait_for(lambda: not alive(ready["pid"]), what="nothing is left")
        wait_for(lambda: not list(controller.run_dir.glob("t/*")), what="no TMPDIR is left")


@pytest.mark.parametrize(
    ("version", "tried"),
    [
        ("0.32.0+cpu", True),
        ("0.32.1+precompiled.cpu", True),
        ("0.32.0", False),
        ("0.32.0+cu129", False),
        ("0.33.0+cpu", False),
    ],
)
def test_of_itself_one_is_made_only_for_what_was_tried(tmp_path: Path, version: str, tried: bool) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target())
        if tried:
            await rig.warmed(target())
        else:
            rig.expect(target())
            await await_for(lambda: rig.logged("no-warm-parent"), what="the reason")
            assert rig.logged("no-warm-parent") == [{"why": "this engine is not supported"}]
        await rig.ended()
        rig.engine.warm._enough = lambda cost: False
        wanted = _family(rig)
        await rig.serving(wanted)
        await report(rig.root / "child.2")
        if tried:
            await await_for(lambda: rig.engine.warm.report()["hasty"], what="the processes are known")
        else:
            assert rig.engine.warm._study is None
            assert rig.engine.warm.report()["hasty"] is False

    play(scenario, install(tmp_path / "env", version), warm="auto", enough=True)


def test_an_engine_that_is_no_python_has_none(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target())
        rig.expect(target())
        await await_for(lambda: rig.logged("no-warm-parent"), what="the reason")
        assert rig.logged("no-warm-parent") == [{"why": "this engine is not supported"}]

    from support.rude import COMMAND

    play(scenario, script, command=COMMAND)


# --- in haste -------------------------------------------------------------------------------------------------------


def _family(rig: WarmRig, mode: str = "", **more: str) -> Target:
    """A target whose engine spawns a child that spawns one more."""
    return _fake(mode, FAKE_SPAWN=str(rig.root / "child"), **more)


async def _learnt(rig: WarmRig, wanted: Target) -> int:
    """Serve it, so that its processes are known; return the leader's pid."""
    started = await rig.serving(wanted)
    await report(rig.root / "child.2")
    await await_for(lambda: rig.engine.warm._plan.count() == 3, what="both were seen")
    for depth in (1, 2):
        os.unlink(rig.root / f"child.{depth}")
    return started.pid


def test_a_start_that_finds_none_makes_one_whose_processes_import_together(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig, FAKE_REPORT=str(rig.root / "report"))
        await _learnt(rig, wanted)
        (rig.root / "report").unlink()
        started = await rig.restarted(wanted)
        assert (await report(rig.root / "report"))["warm"]
        facts = [await report(rig.root / f"child.{depth}") for depth in (1, 2)]
        assert [one["warm"] for one in facts] == [True, True]
        assert {one["session"] for one in facts} == {started.pid}
        assert {one["nice"] for one in facts} == {os.getpriority(os.PRIO_PROCESS, 0)}
        assert rig.logged("warm-parent-ready")[0]["pid"] == started.pid
        assert rig.logged("warm-parent-not-used") == []
        assert rig.logged("warm-child-not-used") == []

    play(scenario, script, settle=3600.0)


def _kept(state: Path) -> bool:
    return (state / memo.NAME).exists()


async def _known(rig: WarmRig, wanted: Target) -> None:
    """Serve it until what is known of its processes is kept."""
    await _learnt(rig, wanted)
    rig.expect(wanted)
    await await_for(lambda: _kept(rig.state_dir), what="the plan")


def test_the_first_start_of_a_controller_knows_what_the_last_one_learnt(script: Path, tmp_path: Path) -> None:
    async def first(rig: WarmRig) -> None:
        await _known(rig, _family(rig))

    async def second(rig: WarmRig) -> None:
        started = await rig.serving(_family(rig))
        assert [line["pid"] for line in rig.logged("warm-parent-ready")] == [started.pid]
        facts = [await report(rig.root / f"child.{depth}") for depth in (1, 2)]
        assert [one["warm"] for one in facts] == [True, True]
        assert rig.logged("warm-child-not-used") == []

    for scenario in (first, second):
        play(scenario, script, settle=3600.0, state_dir=tmp_path)


def test_what_was_learnt_of_another_version_is_not_used(tmp_path: Path) -> None:
    async def first(rig: WarmRig) -> None:
        await _known(rig, _family(rig))

    async def second(rig: WarmRig) -> None:
        await rig.serving(_family(rig))
        assert rig.logged("warm-parent-ready") == []

    play(first, install(tmp_path / "one"), settle=3600.0, state_dir=tmp_path)
    play(second, install(tmp_path / "two", "0.32.1+cpu"), settle=3600.0, state_dir=tmp_path)


def test_what_failed_is_not_kept_for_the_next_controller(script: Path, tmp_path: Path) -> None:
    async def first(rig: WarmRig) -> None:
        await _known(rig, _family(rig))

    async def second(rig: WarmRig) -> None:
        wanted = _family(rig, "die")
        await rig.serving(wanted)
        assert len(rig.logged("warm-parent-failed")) == 1
        assert not _kept(tmp_path)
        rig.expect(wanted)
        assert rig.engine.warm._keeping is None, "that a plain start served says nothing of haste"

    for scenario in (first, second):
        play(scenario, script, settle=3600.0, state_dir=tmp_path)


def test_a_disk_that_is_slow_at_the_first_start_costs_the_haste_of_that_start_only(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    look = identity.of

    def slow(*arguments: Any) -> Any:
        assert go_on.wait(30.0)
        return look(*arguments)

    async def first(rig: WarmRig) -> None:
        await _known(rig, _family(rig))

    async def second(rig: WarmRig) -> None:
        monkeypatch.setattr(identity, "of", slow)
        await rig.serving(_family(rig))
        go_on.set()
        assert _kept(tmp_path)
        assert rig.logged("warm-parent-failed") == []
        started = await rig.restarted(_family(rig))
        assert rig.logged("warm-parent-ready")[-1]["pid"] == started.pid

    play(first, script, settle=3600.0, state_dir=tmp_path)
    play(second, script, settle=3600.0, state_dir=tmp_path, patience=0.5)


def test_nothing_is_imported_before_the_libraries_are_linked(script: Path, tmp_path: Path) -> None:
    linked = asyncio.Event()

    async def link(_log: object) -> None:
        await linked.wait()

    async def first(rig: WarmRig) -> None:
        await _known(rig, _family(rig))

    async def second(rig: WarmRig) -> None:
        rig.start(_family(rig))
        await await_for(lambda: rig.engine._linking, what="a link that is under way")
        assert rig.state == "none"
        linked.set()
        started = await rig.next(events.EngineStarted)
        assert rig.logged("warm-parent-ready")[0]["pid"] == started.pid

    play(first, script, settle=3600.0, state_dir=tmp_path)
    play(second, script, settle=3600.0, state_dir=tmp_path, link_cache=link)


def test_a_file_that_is_not_ours_is_said_and_left_out(script: Path, tmp_path: Path) -> None:
    (tmp_path / memo.NAME).write_text("{")

    async def scenario(rig: WarmRig) -> None:
        await rig.serving(_family(rig))
        assert rig.logged("warm-parent-ready") == []
        (line,) = rig.logged("warm-plan-not-kept")
        assert str(tmp_path / memo.NAME) in str(line["error"])

    play(scenario, script, settle=3600.0, state_dir=tmp_path)


def test_it_is_made_while_the_last_engine_ends(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig)
        before = await _learnt(rig, wanted)
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        await await_for(lambda: rig.state == "ready", WARM, "ready beside the engine")
        assert runs(before)
        pid = rig.logged("warm-parent-ready")[0]["pid"]
        await rig.ended()
        assert (await rig.serving(wanted)).pid == pid

    play(scenario, script, settle=3600.0)


def test_it_is_not_made_beside_the_last_engine_without_memory_for_both(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig)
        rig.engine.warm._enough = lambda cost: False
        await _learnt(rig, wanted)
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        assert rig.engine.warm._hurrying is None
        await rig.ended()
        started = await rig.serving(wanted)
        # In its place it takes no more memory than the engine that it becomes.
        assert rig.logged("warm-parent-ready")[0]["pid"] == started.pid

    play(scenario, script, settle=3600.0, warm="auto")


def test_nothing_is_made_in_haste_for_an_engine_whose_processes_are_not_known(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        await rig.serving(target())
        await rig.restarted(target())
        assert rig.logged("warm-parent-ready") == []

    play(scenario, script, settle=3600.0)


@pytest.mark.parametrize("mode", ["die", "exit", "gpu", "hang"])
def test_one_that_cannot_be_made_in_haste(script: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "DEAF", 1.0)

    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig, mode)
        await _learnt(rig, wanted)
        await _plain_instead(rig, wanted, None)
        assert len(rig.logged("warm-parent-failed")) == 1
        await await_for(lambda: rig.engine.warm._going == set(), what="it is gone")
        # The next one does not lose the same time.
        await rig.restarted(wanted)
        assert len(rig.logged("warm-parent-failed")) == 1

    play(scenario, script, settle=3600.0)


def test_a_start_that_is_given_up_while_one_is_made_in_haste(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig, "hang")
        await _learnt(rig, wanted)
        await rig.ended()
        rig.start(wanted)
        await await_for(lambda: rig.state == "preparing", what="preparing")
        rig.kill()
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "EngineStartFailed"
        rig.expect(None, calm=False)
        assert rig.state == "none"
        await await_for(lambda: rig.engine.warm._going == set(), what="it is gone")

    play(scenario, script, settle=3600.0)


def test_another_environment_while_one_is_made_in_haste(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted, other = _family(rig, "hang"), _family(rig, OTHER="1")
        await _learnt(rig, wanted)
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        await await_for(lambda: rig.state == "preparing", what="preparing")
        await _plain_instead(rig, other, None)
        assert rig.logged("warm-parent-thrown-away") == [{"why": "environment"}]

    play(scenario, script, settle=3600.0)


def test_a_hasty_engine_that_is_killed_before_it_served_is_followed_by_a_plain_one(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig)
        await _learnt(rig, wanted)
        await rig.ended()
        hasty = await rig.started(wanted)
        assert rig.logged("warm-parent-ready")[-1]["pid"] == hasty.pid
        rig.kill()
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        await rig.next(events.EngineExited)
        await rig.vacated()
        assert rig.logged("warm-parent-failed") == [{"error": "its engine ended before it served"}]
        plain = await rig.started(wanted)
        assert plain.pid not in [line["pid"] for line in rig.logged("warm-parent-ready")]

    play(scenario, script, settle=3600.0)


def test_no_time_is_lost_for_a_port_that_is_taken(script: Path) -> None:
    holder = [None, "process 1 (nginx)"]

    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig)
        await _learnt(rig, wanted)
        await rig.ended()
        rig.engine._port_holder = lambda: holder[1]
        rig.start(wanted)
        failed = await rig.next(events.StartFailed)
        assert failed.finding.reason == "PortTaken"
        assert rig.engine.warm._hurrying is None

    play(scenario, script, settle=3600.0)


def test_a_keeper_that_cannot_look_does_not_keep_the_engine_from_starting(script: Path) -> None:
    def broken(environment: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig)
        await _learnt(rig, wanted)
        rig.engine.warm._identify = broken
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        await rig.ended()
        await rig.serving(wanted)
        assert rig.logged("warm-parent-failed") == [{"error": "[Errno 24] Too many open files"}]

    play(scenario, script, settle=3600.0)


def test_a_disk_that_does_not_answer_does_not_either(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def hang(command: object, environment: object) -> None:
        answers.wait()

    async def scenario(rig: WarmRig) -> None:
        pid = await rig.standing(target())
        monkeypatch.setattr(identity, "of", hang)
        plain = await rig.serving(target())
        assert plain.pid != pid
        assert rig.logged("warm-parent-not-used") == [{"difference": "no answer within 0.5 s"}]

    play(scenario, script, patience=0.5)
    answers.set()


def test_one_that_is_slow_is_not_waited_for_for_ever(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "DEAF", 2.0)  # its first look is its last, however little it has done
    monkeypatch.setattr(keeper_module, "HASTE", 1.5)

    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig, "busy")
        await _learnt(rig, wanted)
        await _plain_instead(rig, wanted, None)
        assert rig.logged("warm-parent-failed") == [{"error": "not ready within 1.5 s"}]

    play(scenario, script, settle=3600.0)


def test_a_child_that_ends_while_it_imports_leaves_nothing_in_the_engine(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted = _family(rig, "child-exit", FAKE_IMPORT_TIME="1")
        await _learnt(rig, wanted)
        rig.lines.clear()
        started = await rig.restarted(wanted)
        facts = [await report(rig.root / f"child.{depth}") for depth in (1, 2)]
        assert [one["warm"] for one in facts] == [False, False]
        ours = {started.pid, *(one["pid"] for one in facts)}
        left = {p.pid for p in alive(started.pid) if b"resource_tracker" not in procfs.cmdline(p.pid)}
        assert left == ours
        assert not any("Error" in line for line in rig.lines)

    play(scenario, script, settle=3600.0)


def test_another_environment_is_hastened_for_at_once(script: Path) -> None:
    async def scenario(rig: WarmRig) -> None:
        wanted, other = _family(rig, FAKE_IMPORT_TIME="1"), _family(rig, OTHER="1")
        await _learnt(rig, wanted)
        rig.engine.expect(wanted, offline=False, calm=False, soon=True)
        await await_for(lambda: rig.state == "preparing", what="preparing")
        rig.engine.expect(other, offline=False, calm=False, soon=True)
        await await_for(lambda: rig.state == "ready", WARM, "one for the other")
        await rig.ended()
        started = await rig.serving(other)
        assert rig.logged("warm-parent-ready")[-1]["pid"] == started.pid

    play(scenario, script, settle=3600.0)


def test_a_controller_makes_the_next_one_while_the_last_ends(script: Path, tmp_path: Path) -> None:
    overrides = {"warm": {"settle": 3600.0, "patience": LIMIT}}
    with Controller(tmp_path, "--warm", "on", engine=(str(script),), overrides=overrides) as controller:
        variables = {"FAKE_SPAWN": str(tmp_path / "child"), "RUDE_SIGTERM": "deaf"}
        controller.serve("tiny", **variables)
        before = controller.until("Ready", also=lambda health: health["warm"]["hasty"])
        controller.serve("tiny", "--seed", "2", **variables)
        ready = controller.says("warm-parent-ready", WARM)
        assert runs(before["pid"])
        os.kill(before["pid"], signal.SIGKILL)
        after = controller.until("Ready", also=lambda health: health["attempt"] > before["attempt"])
        assert after["pid"] == ready["pid"]
