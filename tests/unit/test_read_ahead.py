"""Decisions of reading ahead: how much, of which files, and when to begin and to end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.hub_cache import keep
from support.wait import await_for
from vllm_fsm.adapters.memory import LEAST, Room
from vllm_fsm.adapters.readahead import readahead, reader
from vllm_fsm.adapters.readahead.readahead import ReadAhead
from vllm_fsm.adapters.readahead.reader import LOOK, PIECE, NotKept, Reader, cached, files, free, opened
from vllm_fsm.core.snapshot import Secret, Target

GIB = 1 << 30


# --- how much --------------------------------------------------------------------------------------------------------


def test_the_narrowest_place_decides_and_keeps_its_reserve() -> None:
    assert free(lambda: [Room(20 * GIB, 24 * GIB)]) == 16 * GIB
    assert free(lambda: [Room(90 * GIB, 100 * GIB)]) == 80 * GIB
    assert free(lambda: [Room(20 * GIB, 24 * GIB), Room(LEAST + 5, 8 * GIB)]) == 5
    assert free(lambda: [Room(GIB, 24 * GIB)]) == 0


def test_nothing_where_memory_cannot_be_known() -> None:
    assert free(list) == 0


class Reading:
    """A reader whose memory and time are told."""

    def __init__(self, *budgets: int) -> None:
        self.budgets = list(budgets)
        self.said: list[dict[str, Any]] = []
        self.slept = 0
        self.reader = Reader(self.said.append, budget=self.budget, clock=lambda: 0.0, sleep=self.sleep)

    def budget(self) -> int:
        return self.budgets.pop(0) if len(self.budgets) > 1 else self.budgets[0]

    def sleep(self, _seconds: float) -> None:
        self.slept += 1
        if len(self.budgets) == 1:
            raise KeyboardInterrupt  # killed: it would wait for ever

    def run(self, *paths: Path | str, inside: str = "") -> dict[str, Any]:
        try:
            self.reader.run((str(path), inside) for path in paths)
        except KeyboardInterrupt:
            pass
        return self.said[-1]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that says that everything is cached."""
    monkeypatch.setattr(reader, "cached", lambda *_: True)


def sized(path: Path, size: int) -> Path:
    path.write_bytes(bytes(size))
    return path


@pytest.mark.usefixtures("kept")
def test_files_that_fit(tmp_path: Path) -> None:
    one, two = sized(tmp_path / "one", 3 * PIECE + 7), sized(tmp_path / "two", 5)
    said = Reading(GIB).run(one, two)
    assert (said["bytes"], said["files"], said["short"], said["error"]) == (3 * PIECE + 12, 2, False, "")


@pytest.mark.usefixtures("kept")
def test_only_what_fits_is_read_from_the_beginning(tmp_path: Path) -> None:
    reading = Reading(2 * PIECE + 5)
    said = reading.run(sized(tmp_path / "one", 4 * PIECE))
    assert (said["bytes"], said["files"], said["short"], said["ended"]) == (2 * PIECE, 0, True, False)


@pytest.mark.usefixtures("kept")
def test_it_goes_on_when_the_last_engine_gave_its_memory_back(tmp_path: Path) -> None:
    reading = Reading(PIECE, PIECE, GIB, GIB)
    said = reading.run(sized(tmp_path / "one", 4 * PIECE))
    assert (said["bytes"], said["short"], reading.slept) == (4 * PIECE, False, 1)


@pytest.mark.usefixtures("kept")
def test_memory_is_looked_at_again_and_again(tmp_path: Path) -> None:
    reading = Reading(GIB, PIECE)
    path = tmp_path / "one"
    with open(path, "wb") as file:
        for at in range(0, 2 * LOOK, 4096):  # a byte in each block: no holes
            os.pwrite(file.fileno(), b"x", at)
    said = reading.run(path)
    assert said["short"]
    assert LOOK <= said["bytes"] <= LOOK + PIECE


def test_a_file_system_that_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "cached", lambda *_: False)
    said = Reading(GIB).run(sized(tmp_path / "one", PIECE))
    assert (said["bytes"], said["error"]) == (0, "one: this file system keeps nothing in the page cache")


def test_a_file_system_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not here")

    path = sized(tmp_path / "one", PIECE)
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(os, "preadv", refuse)
    with pytest.raises(NotKept):
        cached(descriptor, 0, 1)
    os.close(descriptor)
    assert "does not say" in Reading(GIB).run(path)["error"]


# --- which files -----------------------------------------------------------------------------------------------------


def test_the_weights_of_the_cache_and_of_paths(tmp_path: Path) -> None:
    folder = keep(tmp_path / "models", "org/m")
    local = tmp_path / "local"
    local.mkdir()
    sized(local / "model.safetensors", 5)
    order = {
        "models": str(tmp_path / "models"),
        "repos": [{"id": "org/m", "revision": "main", "role": "model", "load_format": "auto"}],
        "local": [{"id": str(local), "revision": "main", "role": "model", "load_format": "auto"}],
    }
    (cached_one, inside), (local_one, anywhere) = files(json.loads(json.dumps(order)))
    assert Path(cached_one).resolve().parent == folder / "blobs"
    assert (inside, local_one, anywhere) == (str(tmp_path / "models"), str(local / "model.safetensors"), "")


def refused(path: Path, inside: str = "") -> str | None:
    with pytest.raises(OSError, match=r".") as caught:
        opened(str(path), inside)
    return caught.value.strerror


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/null")
    assert refused(tmp_path / "fifo") == refused(tmp_path) == refused(tmp_path / "device") == "It is not a file"
    assert refused(tmp_path / "nothing") == os.strerror(errno.ENOENT)
    (tmp_path / "loop").symlink_to("loop")
    assert refused(tmp_path / "loop") == os.strerror(errno.ELOOP)


def test_no_link_leads_out_of_the_cache(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", sized(tmp_path / "models-not", 5)
    models.mkdir()
    (models / "in").symlink_to(sized(models / "blob", 5))
    (models / "out").symlink_to(outside)
    os.close(opened(str(models / "in"), str(models)))
    assert refused(models / "out", str(models)) == "A link leads elsewhere"
    (tmp_path / "alias").symlink_to(models)
    os.close(opened(str(tmp_path / "alias" / "in"), str(tmp_path / "alias")))


def test_no_link_leads_to_another_file_system(tmp_path: Path) -> None:
    (tmp_path / "status").symlink_to("/proc/self/status")
    assert refused(tmp_path / "status") == "A link leads elsewhere"


# --- when ------------------------------------------------------------------------------------------------------------


def target(model: str, *arguments: str, key: str = "k") -> Target:
    return Target((model, *arguments), (), Secret(key), model)


class Deciding(ReadAhead):
    """Notes what would be read, and reads until it is told to end."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []
        self.events: list[str] = []
        super().__init__(clock=lambda: 0.0, log=self.say, models=Path("/models"), delay=0.0)

    def say(self, event: str, /, **fields: object) -> None:
        self.said.append((event, fields))

    async def _read(self, model: str, wanted: Any) -> None:
        self.events.append(f"read {model}")
        try:
            if model == "org/broken":
                raise OSError("no process")
            if model != "org/quick":
                await asyncio.Event().wait()
        finally:
            self.events.append(f"end {model}")


async def a_moment(deciding: Deciding) -> None:
    """Until it is decided what is read."""
    while deciding._deciding is not None and not deciding._deciding.done():
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)


def decided(*wanted: Target | None, gap: Callable[[Deciding], Any] = a_moment) -> Deciding:
    async def play() -> Deciding:
        deciding = Deciding()
        for each in wanted:
            deciding.expect(each)
            await gap(deciding)
        await deciding.close()
        return deciding

    return asyncio.run(play())


def test_one_model_after_the_other() -> None:
    deciding = decided(target("org/a"), target("org/b"), None)
    assert deciding.events == ["read org/a", "end org/a", "read org/b", "end org/b"]


def test_what_reads_the_same_goes_on() -> None:
    deciding = decided(target("org/a"), target("org/a", key="other"), target("org/a", "--max-model-len", "5"))
    assert deciding.events == ["read org/a", "end org/a"]


def test_what_was_read_is_not_read_twice_for_one_start() -> None:
    quick = target("org/quick")
    assert decided(quick, target("org/quick", key="other")).events == ["read org/quick", "end org/quick"]
    assert len(decided(quick, None, quick).events) == 4


@pytest.mark.parametrize(
    "unread",
    [
        target("org/a", "--load-format", "dummy"),
        target("org/a", "--load-format", "instanttensor"),
        target("org/a", "--load-format", "fastsafetensors"),
        target("s3://bucket/a"),
        target("/nowhere/at/all"),
        target("org/a", "--model-weights", "x"),
    ],
)
def test_nothing_is_read_where_it_would_be_of_no_use(unread: Target) -> None:
    assert decided(unread).events == []


def test_a_change_of_mind_in_the_same_moment_reads_nothing() -> None:
    async def at_once(_: Deciding) -> None: ...

    assert decided(target("org/a"), None, gap=at_once).events == []


def test_what_fails_is_a_line_in_the_log() -> None:
    deciding = decided(target("org/broken"))
    assert deciding.said == [
        ("weights-not-read-ahead", {"model": "org/broken", "why": "OSError('no process')"}),
    ]


def test_a_look_that_hangs_holds_nothing_up_and_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, looks = threading.Event(), []

    def hang(wanted: Target) -> Any:
        looks.append(wanted.model)
        assert go_on.wait(30.0)
        return ((wanted.model,), ())

    monkeypatch.setattr(readahead, "_files", hang)

    async def play() -> Deciding:
        deciding = Deciding()
        deciding.expect(target("org/a"))
        await await_for(lambda: looks, what="the first look")
        for model in ("org/b", "org/c"):
            deciding.expect(target(model))
            await asyncio.sleep(0)
        assert looks == ["org/a"]
        go_on.set()
        await await_for(lambda: deciding.events, what="a decision")
        await deciding.close()
        return deciding

    assert asyncio.run(play()).events == ["read org/c", "end org/c"]
    assert looks == ["org/a", "org/c"]


def test_files_that_cannot_be_looked_at_are_a_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    read = readahead._files

    def refuse(wanted: Target) -> Any:
        if wanted.model == "org/b":
            raise OSError(errno.EIO, "Input/output error")
        return read(wanted)

    monkeypatch.setattr(readahead, "_files", refuse)
    deciding = decided(target("org/a"), target("org/b"))
    assert deciding.events == ["read org/a", "end org/a"]
    assert deciding.said == [
        ("weights-not-read-ahead", {"model": "org/b", "why": "OSError(5, 'Input/output error')"}),
    ]


EARLY = "the reader ended early"
SOME = {"bytes": 5, "from_disk": 4, "files": 1, "short": False, "error": ""}


@pytest.mark.parametrize(
    ("said", "stopped", "line"),
    [
        ({}, True, None),
        ({}, False, ("weights-not-read-ahead", EARLY)),
        ({"bytes": 0, "ended": True}, False, ("weights-not-read-ahead", "no weights were found")),
        ({"bytes": 0, "short": True, "error": ""}, True, ("weights-not-read-ahead", "not enough free memory")),
        ({"bytes": 0, "short": True, "error": "a: no", "ended": True}, False, ("weights-not-read-ahead", "a: no")),
        ({**SOME, "ended": True}, False, ("weights-read-ahead", None)),
        ({**SOME, "ended": False}, True, ("weights-read-ahead", None)),
        ({**SOME, "ended": False}, False, ("weights-read-ahead", EARLY)),
        ({**SOME, "error": "a: no", "ended": True}, False, ("weights-read-ahead", "a: no")),
    ],
)
def test_one_line_says_what_became_of_it(
    said: dict[str, Any], stopped: bool, line: tuple[str, str | None] | None
) -> None:
    deciding = Deciding()
    deciding._tell("org/a", said, 1.26, stopped=stopped)
    assert [(event, fields["why"]) for event, fields in deciding.said] == ([line] if line else [])
    if line and line[0] == "weights-read-ahead":
        fields = deciding.said[0][1]
        assert fields["complete"] is (said["ended"] and not said["error"])
        assert (fields["bytes"], fields["from_disk"], fields["seconds"]) == (5, 4, 1.3)
