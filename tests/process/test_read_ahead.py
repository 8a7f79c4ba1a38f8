"""Weights in the real page cache: read by the real child, told by the real controller."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from support import hub_cache
from support.controller import Controller
from support.memory_group import joining, memory_group
from support.page_cache import cool, resident
from support.unprivileged import open_directory, unprivileged
from support.wait import await_for, wait_for
from vllm_fsm.adapters import procfs
from vllm_fsm.adapters.memory import LEAST
from vllm_fsm.adapters.process.warm.parent import LOWEST
from vllm_fsm.adapters.readahead.readahead import ENVIRONMENT, ReadAhead
from vllm_fsm.adapters.readahead.reader import Reader, cached
from vllm_fsm.core.snapshot import Secret, Target

MIB = 1 << 20
SIZE = 24 * MIB
READ = 120.0
"""Seconds for a child, which has the lowest priority."""
FAST = {"settings": {"nudge_after": 0.2, "restart_first": 0.1, "kill_again": 0.5}}


@pytest.fixture(autouse=True)
def _disk(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    probe.write_bytes(b"x" * 4096)
    try:
        cool(probe)
        descriptor = os.open(probe, os.O_RDONLY)
        cached(descriptor, 0, 1)
        os.close(descriptor)
    except Exception as error:
        pytest.skip(f"no disk with a page cache that can be asked at {tmp_path}: {error}")


def weights(number: int = 0, size: int = SIZE) -> bytes:
    return bytes([number % 256]) * size


def model(models: Path, name: str, number: int = 0) -> list[Path]:
    """Put a model of two shards into the cache, cold; return where its bytes lie."""
    files = {
        "config.json": b"{}",
        "model-1.safetensors": weights(2 * number),
        "model-2.safetensors": weights(2 * number + 1),
        "pytorch_model.bin": weights(100 + number),
    }
    folder = hub_cache.keep(models, name, files)
    snapshot = folder / "snapshots" / hub_cache.COMMIT
    for blob in (folder / "blobs").iterdir():
        cool(blob)
    return [(snapshot / name).resolve() for name in files if name != "config.json"]


def target(name: str | Path, *arguments: str) -> Target:
    return Target((str(name), *arguments), (), Secret("k"), str(name))


class Rig:
    """What reads ahead, and what it says."""

    def __init__(self, models: Path) -> None:
        self.said: list[dict[str, Any]] = []
        self.ahead = ReadAhead(clock=asyncio.get_running_loop().time, log=self.log, models=models, delay=0.0)

    def log(self, event: str, /, **fields: Any) -> None:
        self.said.append({"event": event, **fields})

    async def line(self) -> dict[str, Any]:
        await await_for(lambda: self.said, READ, "a line")
        return self.said[-1]


def play(models: Path, scenario: Callable[[Rig], Awaitable[None]]) -> None:
    async def whole() -> None:
        rig = Rig(models)
        await scenario(rig)
        await rig.ahead.close()
        await await_for(lambda: not children(os.getpid()), what="no child")
        assert len(rig.said) <= 1

    asyncio.run(whole())


def children(parent: int) -> list[int]:
    return [p.pid for p in procfs.processes() if p.parent == parent and b"readahead/reader.py" in procfs.cmdline(p.pid)]


def _environment(pid: int) -> list[str]:
    """The names of the variables that a process was executed with."""
    return [os.fsdecode(entry.partition(b"=")[0]) for entry in procfs.environ(pid).split(b"\0") if entry]


def read(models: Path, what: Target) -> dict[str, Any]:
    """Read ahead and return the line about it."""
    lines = []

    async def scenario(rig: Rig) -> None:
        rig.ahead.expect(what)
        lines.append(await rig.line())

    play(models, scenario)
    return lines[0]


# --- cold, then cached -----------------------------------------------------------------------------------------------


def test_the_weights_of_a_cached_model_become_resident_and_nothing_else(tmp_path: Path) -> None:
    one, two, other = model(tmp_path, "org/m")
    line = read(tmp_path, target("org/m"))
    assert [resident(path) for path in (one, two)] == [SIZE, SIZE]
    assert resident(other) == 0
    assert (line["event"], line["bytes"], line["files"], line["complete"]) == ("weights-read-ahead", 2 * SIZE, 2, True)
    assert 2 * SIZE <= line["from_disk"] < 3 * SIZE


def test_what_is_cached_is_not_read_from_the_disk(tmp_path: Path) -> None:
    for path in model(tmp_path, "org/m"):
        path.read_bytes()
    line = read(tmp_path, target("org/m"))
    assert line["bytes"] == 2 * SIZE
    assert line["from_disk"] < MIB


def test_a_directory_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "local" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(weights())
    cool(path)
    assert read(tmp_path / "models", target(path.parent))["complete"]
    assert resident(path) == SIZE


def read_by_another_user(path: Path) -> dict[str, Any]:
    """Read a file without our rights; return what is said last."""
    said: list[dict[str, Any]] = []
    reader = Reader(said.append, budget=lambda: 1 << 40)

    def work() -> object:
        reader.run([(str(path), "")])
        return said[-1]

    last = unprivileged(work)
    assert isinstance(last, dict)
    return last


def test_the_files_of_somebody_else() -> None:
    with open_directory() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(weights(size=MIB))
        cool(path)
        last = read_by_another_user(path)
        assert (last["bytes"], last["error"]) == (MIB, "")
        assert resident(path) == MIB


class Killed(Exception):
    """It would wait for ever."""


def test_no_more_than_fits_is_read(tmp_path: Path) -> None:
    one, two, _ = model(tmp_path, "org/m")
    said: list[dict[str, Any]] = []

    def sleep(_seconds: float) -> None:
        raise Killed

    with pytest.raises(Killed):
        Reader(said.append, budget=lambda: 4 * MIB, sleep=sleep).run([(str(one), ""), (str(two), "")])
    assert (said[-1]["bytes"], said[-1]["short"]) == (4 * MIB, True)
    assert resident(one) >= 4 * MIB
    assert resident(two) == 0  # the kernel's own readahead is within the file


def test_the_limit_of_a_memory_cgroup_is_kept(tmp_path: Path) -> None:
    size, room = 256 * MIB, 160 * MIB
    path = tmp_path / "local" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(weights(size=size))
    cool(path)
    go = tmp_path / "go"
    with memory_group() as group:
        limit = next(group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
        limit.write_text(str(LEAST + room))
        controller = Controller(tmp_path, overrides=FAST, prefix=joining(group))
        with controller.serve(str(path.parent), RUDE_LISTEN_ONCE=go):
            assert controller.process is not None
            pid = controller.process.pid

            def sleeps() -> bool:
                """Whether it has begun, and neither reads nor waits for the disk."""
                found = [procfs.read(child) for child in children(pid)]
                return resident(path) > 0 and [process.state for process in found if process] == ["S"]

            wait_for(sleeps, READ, "a child that waits for memory")
            kept = resident(path)
            go.touch()
            line = controller.says("weights-read-ahead")
            controller.ready()
            assert controller.stop() == 0
    assert (line["why"], line["complete"]) == ("not enough free memory", False)
    assert 0 < line["bytes"] < room
    assert line["bytes"] * 7 // 8 < kept < room  # a machine that is short of memory takes some of it back


def test_a_huge_file_that_is_mostly_holes(tmp_path: Path) -> None:
    path = tmp_path / "local" / "model.safetensors"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.write(weights(size=MIB))
        file.truncate(8 << 40)
        os.pwrite(file.fileno(), b"end", (8 << 40) - 3)
    line = read(tmp_path, target(path.parent))
    assert line["complete"]
    assert MIB < line["bytes"] <= 2 * MIB


def test_what_is_no_file_is_said_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    os.mkfifo(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(weights())
    cool(folder / "b.safetensors")
    (folder / "c.safetensors").symlink_to("/dev/zero")
    line = read(tmp_path, target(folder))
    assert (line["why"], line["complete"], line["files"]) == ("a.safetensors: It is not a file", False, 1)
    assert resident(folder / "b.safetensors") == SIZE


def test_a_link_out_of_the_cache(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(weights())
    cool(outside)
    one, *_ = model(tmp_path / "models", "org/m")
    one.unlink()
    one.symlink_to(outside)
    line = read(tmp_path / "models", target("org/m"))
    assert line["why"] == "model-1.safetensors: A link leads elsewhere"
    assert resident(outside) == 0


def test_files_that_must_not_be_read() -> None:
    with open_directory() as folder:
        path = folder / "model.safetensors"
        path.write_bytes(b"x")
        path.chmod(0)
        assert read_by_another_user(path)["error"] == "model.safetensors: Permission denied"


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    line = read(tmp_path, target("org/m"))
    assert (line["event"], line["why"]) == ("weights-not-read-ahead", "no weights were found")


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child is stopped before it does anything: however late we look, it is there."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nkill -STOP $$\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def is_stopped(child: int) -> bool:
    process = procfs.read(child)
    return process is not None and process.state == "T"


@pytest.mark.usefixtures("stopped")
def test_the_child_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, "org/m")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    async def scenario(rig: Rig) -> None:
        rig.ahead.expect(target("org/m"))
        await await_for(lambda: children(os.getpid()), what="a child")
        (child,) = children(os.getpid())
        assert "PATH" in _environment(child)
        assert set(_environment(child)) <= set(ENVIRONMENT)

    play(tmp_path, scenario)


# --- an end ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("signalled", [None, signal.SIGKILL])
def test_a_child_that_hangs_or_dies_is_gone_when_nobody_wants_it(tmp_path: Path, signalled: int | None) -> None:
    model(tmp_path, "org/m")

    async def scenario(rig: Rig) -> None:
        rig.ahead.expect(target("org/m"))
        await await_for(lambda: children(os.getpid()), what="a child")
        (child,) = children(os.getpid())
        await await_for(lambda: is_stopped(child), what="it hangs")
        if signalled is not None:
            os.kill(child, signalled)
            assert (await rig.line())["why"] == "the reader ended early"
        rig.ahead.expect(None)
        await await_for(lambda: not children(os.getpid()), what="no child")

    play(tmp_path, scenario)


# --- the controller --------------------------------------------------------------------------------------------------


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with Controller(tmp_path, overrides=FAST) as controller:
        yield controller


def test_the_next_model_is_resident_before_its_engine_is_executed(controller: Controller, tmp_path: Path) -> None:
    go = tmp_path / "go"
    models = controller.data / "models"
    first = model(models, "org/one")
    second = model(models, "org/two", 1)
    controller.serve("org/one", RUDE_LISTEN_ONCE=go, RUDE_SIGTERM="deaf")
    controller.says("weights-read-ahead", READ, model="org/one")
    go.touch()
    leader = controller.ready(1)["pid"]
    assert [resident(path) for path in first] == [SIZE, SIZE, 0]
    assert [resident(path) for path in second] == [0, 0, 0]  # a wish is not enough

    controller.serve("org/two")
    controller.says("weights-read-ahead", READ, model="org/two", complete=True)
    assert len(controller.events("engine-started")) == 1  # the first engine still drains
    assert [resident(path) for path in second] == [SIZE, SIZE, 0]
    os.kill(leader, signal.SIGKILL)
    controller.ready(2)
    assert controller.stop() == 0


def caught(controller: Controller) -> int:
    """Return a child that knows its parent, and is stopped; after one that was quicker than we are comes another."""
    assert controller.process is not None
    pid = controller.process.pid
    for number in itertools.count():
        name = f"org/m{number}"
        model(controller.data / "models", name)
        controller.serve(name, RUDE_NEVER_LISTEN=1)

        def found(name: str = name) -> int | None:
            for child in children(pid):
                with suppress(ProcessLookupError):
                    if os.getpriority(os.PRIO_PROCESS, child) == LOWEST:
                        os.kill(child, signal.SIGSTOP)
                        wait_for(lambda child=child: is_stopped(child) or not children(pid), what="a stop or an end")  # type: ignore[misc]
                        return child if is_stopped(child) else -1
            over = [line for line in controller.events("weights-read-ahead") if line["model"] == name]
            return -1 if over else None

        if (child := wait_for(found, READ, "a child")) > 0:
            return child
    raise AssertionError


def test_a_controller_that_is_killed_leaves_no_reader(controller: Controller) -> None:
    child = caught(controller)
    controller.signal(signal.SIGKILL)
    wait_for(lambda: (found := procfs.read(child)) is None or found.gone, what="the child's end")


def test_the_engine_does_not_notice_a_reader_that_cannot_work(controller: Controller, tmp_path: Path) -> None:
    folder, go = tmp_path / "local", tmp_path / "go"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    os.mkfifo(folder / "model.safetensors")
    controller.serve(str(folder), RUDE_LISTEN_ONCE=go)
    why = controller.says("weights-not-read-ahead", READ)["why"]
    assert why == "model.safetensors: It is not a file"
    go.touch()
    controller.ready(1)
    assert controller.stop() == 0
