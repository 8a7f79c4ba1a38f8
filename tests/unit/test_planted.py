"""Whatever somebody planted in the place of a file of ours: nothing behind it is touched, and nobody waits for it.

Every test runs in a child with a limit, since what must not happen is to hang.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from vllm_fsm import history, lock, record
from vllm_fsm.adapters.health_file import NAME as HEALTH
from vllm_fsm.adapters.health_file import HealthFile
from vllm_fsm.adapters.process import marks
from vllm_fsm.adapters.process.marks import Mark
from vllm_fsm.adapters.process.scratch import Scratch
from vllm_fsm.cli.reading import health
from vllm_fsm.files import own
from vllm_fsm.weights.hub_cache import Entry, Listing, RepoFolder

LIMIT = 5
"""Seconds after which something hangs."""
PRECIOUS = b"somebody else's"
COMMIT = "c" * 40


def plant_link(place: Path, precious: Path) -> None:
    place.symlink_to(precious)


def plant_dangling(place: Path, precious: Path) -> None:
    place.symlink_to(precious.with_name("made-by-us"))


def plant_hard_link(place: Path, precious: Path) -> None:
    place.hardlink_to(precious)


def plant_pipe(place: Path, _precious: Path) -> None:
    os.mkfifo(place)


def plant_directory(place: Path, _precious: Path) -> None:
    place.mkdir()
    (place / "in-it").touch()


def plant_socket(place: Path, _precious: Path) -> None:
    folder = os.open(place.parent, os.O_RDONLY)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{place.name}")
    os.close(folder)


PLANTED = [plant_link, plant_dangling, plant_hard_link, plant_pipe, plant_directory, plant_socket]
Plant = Callable[[Path, Path], None]


@contextmanager
def safe(tmp_path: Path) -> Iterator[Path]:
    """Yield a file that must stay as it is, beside a folder in which there is nothing else."""
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    precious.write_bytes(PRECIOUS)
    precious.chmod(0o644)
    yield precious
    assert precious.read_bytes() == PRECIOUS
    assert precious.stat().st_mode & 0o777 == 0o644
    assert list(outside.iterdir()) == [precious]


def in_time(work: Callable[[], object]) -> None:
    """Do `work` in a child; its failure is ours, and so is its silence."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT)  # whose default ends it, in a system call too
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status), f"ended by signal {os.WTERMSIG(status)}: it hung"
    assert status == 0, "the child's output says why"


def prepared(tmp_path: Path) -> Path:
    ours = tmp_path / "ours"
    ours.mkdir()
    return ours


@pytest.mark.parametrize("name", [HEALTH, f".{HEALTH}.tmp"])
@pytest.mark.parametrize("plant", PLANTED)
def test_the_health_file(tmp_path: Path, plant: Plant, name: str) -> None:
    ours = prepared(tmp_path)

    def write() -> None:
        said: list[str] = []
        file = HealthFile(ours, lambda: {"state": "Ready"}, lambda event, **_: said.append(event))
        file.write()
        file.beat()
        if plant is plant_directory:
            assert said == ["health-file-failed"]
        else:
            assert not said
            assert not (ours / HEALTH).is_symlink()
            assert json.loads((ours / HEALTH).read_text()) == {"state": "Ready"}

    with safe(tmp_path) as precious:
        plant(ours / name, precious)
        in_time(write)


@pytest.mark.parametrize("name", [HEALTH, lock.NAME])
@pytest.mark.parametrize("plant", PLANTED)
def test_whoever_asks_for_health(tmp_path: Path, plant: Plant, name: str) -> None:
    ours = prepared(tmp_path)

    def ask() -> None:
        held = lock.DirectoryLock(ours) if name == HEALTH else None
        answer = health(ours)
        assert answer["result"] == "failure"
        assert PRECIOUS.decode() not in json.dumps(answer)
        assert answer["reason"] in ("Unreadable", "NotRunning", "Starting")
        del held

    with safe(tmp_path) as precious:
        plant(ours / name, precious)
        in_time(ask)


@pytest.mark.parametrize("plant", PLANTED)
def test_the_lock(tmp_path: Path, plant: Plant) -> None:
    ours = prepared(tmp_path)

    def take() -> None:
        if plant is plant_hard_link:  # nothing is written to it
            lock.DirectoryLock(ours)
            return
        with pytest.raises(OSError):  # noqa: PT011 - each plant has its own error
            lock.DirectoryLock(ours)

    with safe(tmp_path) as precious:
        plant(ours / lock.NAME, precious)
        in_time(take)


@pytest.mark.parametrize("name", [history.NAME, history.OLDER])
@pytest.mark.parametrize("plant", PLANTED)
def test_the_history(tmp_path: Path, plant: Plant, name: str) -> None:
    ours = prepared(tmp_path)

    def append_and_read() -> None:
        kept = history.History(ours)
        for number in range(3):
            with suppress(OSError):
                kept.append({"number": number})
        with suppress(OSError):
            assert PRECIOUS.decode() not in json.dumps(list(history.read(ours)))
        if plant is plant_hard_link:  # as a snapshot made of hard links leaves it
            assert [entry["number"] for entry in history.read(ours)] == [0, 1, 2]

    with safe(tmp_path) as precious:
        plant(ours / name, precious)
        in_time(append_and_read)


@pytest.mark.parametrize(
    "place", [record.NAME, f"{record.NAME}/00000001-1.000000.log", f"{record.NAME}/99999999-1.000000.log"]
)
@pytest.mark.parametrize("plant", PLANTED)
def test_what_the_engine_printed(tmp_path: Path, plant: Plant, place: str) -> None:
    ours = prepared(tmp_path)

    def write_and_read() -> None:
        written = record.Record(ours)
        for number in range(5):
            with suppress(OSError):
                written.write(number, "a line")
        with suppress(OSError):
            for attempt in (None, 1):
                lines = list(record.read(ours, record.latest(ours, attempt)))
                assert PRECIOUS.decode() not in lines
            if "/" in place:
                assert list(record.read(ours, record.latest(ours))) == ["a line"], (
                    "the latest start is what was written last"
                )

    with safe(tmp_path) as precious:
        (ours / place).parent.mkdir(exist_ok=True)
        plant(ours / place, precious)
        in_time(write_and_read)


def test_a_folder_of_attempts_that_is_a_link_leads_nowhere(tmp_path: Path) -> None:
    ours = prepared(tmp_path)
    with safe(tmp_path) as precious:
        (ours / record.NAME).symlink_to(precious.parent)
        with pytest.raises(OSError, match="Not a directory"):
            record.Record(ours).write(1, "a line")


@pytest.mark.parametrize("plant", PLANTED)
def test_marks(tmp_path: Path, plant: Plant) -> None:
    ours = prepared(tmp_path)
    mark = Mark(boot="b", namespace=1, session=2, start=3, pipe=4, tmpdir="/nowhere")
    other = Mark(boot="b", namespace=1, session=5, start=6, pipe=7, tmpdir="/nowhere")

    def write_and_read() -> None:
        with suppress(OSError):
            marks.write(mark, str(ours))
        marks.write(other, str(ours))
        assert other.file in {found.file for found in marks.read_all(str(ours))}, "one bad file hides no other"

    with safe(tmp_path) as precious:
        plant(ours / mark.file, precious)
        in_time(write_and_read)


def test_a_scratch_folder_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    ours = prepared(tmp_path)
    with safe(tmp_path) as precious:
        (ours / "t").symlink_to(precious.parent)
        scratch = Scratch(ours)
        scratch.remove_all()
        made = scratch.make(1)
        assert not (ours / "t").is_symlink()
        scratch.remove(made)


CACHED = [
    "refs/main",
    f".vllm-fsm/{COMMIT}.json",
    f"trees/{COMMIT}.json",
    ".vllm-fsm/boot",
    f"snapshots/{COMMIT}/config.json",
]


@pytest.mark.parametrize("place", CACHED)
@pytest.mark.parametrize("plant", PLANTED)
def test_the_model_cache(tmp_path: Path, plant: Plant, place: str) -> None:
    models = tmp_path / "models"
    folder = RepoFolder(models, "org/model")
    entry = Entry("config.json", 2, "a" * 40)

    def use() -> None:
        folder.commit("main")
        folder.listing(COMMIT)
        folder.read(COMMIT, "config.json")
        folder.files(COMMIT)
        folder.stale()
        with suppress(OSError):
            folder.prepare(Listing.of(COMMIT, "main", [entry]))
        with suppress(OSError):
            folder.link(COMMIT, entry)
        with suppress(OSError):
            folder.refer(Listing.of(COMMIT, "main", [entry]))

    with safe(tmp_path) as precious:
        spot = Path(folder.path) / place
        spot.parent.mkdir(parents=True, exist_ok=True)
        plant(spot, precious)
        in_time(use)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_temporary_file_of_the_model_cache(tmp_path: Path, plant: Plant) -> None:
    folder = RepoFolder(tmp_path / "models", "org/model")

    def refer() -> None:
        place = Path(folder.ref("main"))
        place.parent.mkdir(parents=True)
        plant(place.with_name(f"main.{os.getpid()}.tmp"), precious)
        with suppress(OSError):
            folder.refer(Listing.of(COMMIT, "main", []))
        assert plant is plant_directory or folder.commit("main") == COMMIT

    with safe(tmp_path) as precious:
        in_time(refer)


@pytest.mark.parametrize("plant", PLANTED)
def test_a_lock_of_the_model_cache(tmp_path: Path, plant: Plant) -> None:
    folder = RepoFolder(tmp_path / "models", "org/model")
    with safe(tmp_path) as precious:
        place = Path(folder.lock("a" * 40))
        place.parent.mkdir(parents=True)
        plant(place, precious)
        in_time(folder.busy)


def test_a_file_of_ours_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="too large"):
        own.read(path, 1024)
