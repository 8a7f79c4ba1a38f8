"""A file holds the old content or the new one at every moment, and what is not ours to replace stays."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.wait import wait_for
from vllm_fsm.files import writing
from vllm_fsm.files.reading import LIMIT, Good, read_object
from vllm_fsm.files.store import parse_store, read_store
from vllm_fsm.files.writing import Refused, Written, create, replace, update

SOURCE = str(Path(writing.__file__).parents[2])
NOON = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
OLD = {"serveArgs": ["old"], "note": "kept"}
NEW = {"serveArgs": ["new" * 30]}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Crash(BaseException):
    """The process ends here."""


class DyingSystem:
    """`os`, until the call number `last`; that one does not happen, and nothing after it."""

    CALLS = ("open", "write", "fsync", "fchmod", "fchown", "link", "rename", "unlink", "listdir")

    def __init__(self, last: int = 10**9, cut: int | None = None, failure: BaseException | None = None) -> None:
        self.last = last
        self.cut = cut
        self.failure = failure or Crash()
        self.done: list[str] = []
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        if name not in self.CALLS:
            return call

        def counted(*arguments: Any, **keywords: Any) -> Any:
            if self.dead:
                raise self.failure
            if name == "write" and self.cut is not None:
                os.write(arguments[0], bytes(arguments[1])[: self.cut])
                self.dead = True
                raise self.failure
            if len(self.done) == self.last:
                self.dead = isinstance(self.failure, Crash)
                self.done.append(name)
                raise self.failure
            self.done.append(name)
            return call(*arguments, **keywords)

        return counted


def write_old(path: Path) -> None:
    path.write_text(json.dumps(OLD))


def content(path: Path) -> object:
    return json.loads(path.read_text())


WAYS: dict[str, Callable[[Path], object]] = {
    "replace": lambda path: replace(path, NEW, 0o600),
    "replace and keep": lambda path: replace(path, NEW, 0o600, keep=NOON),
    "update": lambda path: update(path, NEW, 0o600),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_crash_at_every_step_leaves_old_or_new(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = {**OLD, **NEW} if way == "update" else NEW
    path = tmp_path / "store.json"
    seen = set()
    for last in range(100):
        write_old(path)
        system = DyingSystem(last)
        monkeypatch.setattr(writing, "os", system)
        try:
            WAYS[way](path)
        except Crash:
            found = content(path)
            assert found in (OLD, merged), f"{system.done}: {found}"
            seen.add(json.dumps(found))
        else:
            assert content(path) == merged
            break
    assert len(seen) == 2, "crashed only before, or only after the rename"
    assert last > 6


@pytest.mark.parametrize("way", WAYS)
def test_a_write_cut_at_every_byte_leaves_the_old_file(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    write_old(path)
    for cut in range(len(writing.encode(path, {**OLD, **NEW})) + 1):
        monkeypatch.setattr(writing, "os", DyingSystem(cut=cut))
        with pytest.raises(Crash):
            WAYS[way](path)
        assert content(path) == OLD


@pytest.mark.parametrize("way", [*WAYS, "create"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EBUSY])
def test_a_failure_at_every_step_is_refused_and_leaves_nothing_behind(
    way: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    do = WAYS.get(way, lambda path: create(path, NEW, 0o600))
    refusals = 0
    for last in range(100):
        for file in tmp_path.iterdir():
            file.unlink()
        if way != "create":
            write_old(path)
        system = DyingSystem(last, failure=OSError(number, os.strerror(number)))
        monkeypatch.setattr(writing, "os", system)
        try:
            do(path)
        except Refused as refusal:
            refusals += 1
            said = str(refusal)
        else:
            said = ""
        if said:
            assert said.startswith(f"{path} was not written")
            assert [file.name for file in tmp_path.iterdir()] == ([] if way == "create" else ["store.json"])
            assert way == "create" or content(path) == OLD
        if last >= len(system.done):
            break
    assert refusals >= 5


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = DyingSystem()
    monkeypatch.setattr(writing, "os", system)
    monkeypatch.setattr(system, "write", lambda fd, data: os.write(fd, bytes(data)[:7]), raising=False)
    replace(tmp_path / "f", NEW, 0o600)
    assert content(tmp_path / "f") == NEW


def test_content_is_on_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = DyingSystem()
    monkeypatch.setattr(writing, "os", system)
    replace(tmp_path / "store.json", NEW, 0o600)
    order = [name for name in system.done if name in ("write", "fchmod", "fsync", "rename", "link")]
    assert order == ["write", "fchmod", "fsync", "rename", "fsync"]
    system.done.clear()
    assert create(tmp_path / "credentials.json", NEW, 0o644)
    order = [name for name in system.done if name in ("write", "fchmod", "fsync", "rename", "link")]
    assert order == ["write", "fchmod", "fsync", "link", "fsync"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_modes_do_not_follow_the_umask(mode: int, tmp_path: Path) -> None:
    for umask in (0o077, 0o000):
        before = os.umask(umask)
        try:
            replace(tmp_path / "a", NEW, mode)
            update(tmp_path / "a", {"x": [umask]}, mode)
            create(tmp_path / f"b{umask}", NEW, mode)
        finally:
            os.umask(before)
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == mode


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    other = tmp_path / "other"
    write_old(other)
    places: list[tuple[str, Callable[[], object]]] = [
        ("a symbolic link", lambda: path.symlink_to(other)),
        ("a symbolic link", lambda: path.symlink_to("nowhere")),
        ("a directory", path.mkdir),
        ("a named pipe", lambda: os.mkfifo(path)),
    ]
    for words, make in places:
        make()
        before = os.lstat(path)
        for write in (
            lambda: replace(path, NEW, 0o600),
            lambda: replace(path, NEW, 0o600, keep=NOON),
            lambda: update(path, NEW, 0o600),
        ):
            with pytest.raises(Refused) as refused:
                write()
            assert f"{words} stands in its place" in str(refused.value)
        assert create(path, NEW, 0o600) is False
        assert os.lstat(path).st_ino == before.st_ino
        assert content(other) == OLD
        assert len(list(tmp_path.iterdir())) == 2
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def test_a_symbolic_link_to_the_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    replace(tmp_path / "data" / "store.json", NEW, 0o600)
    assert content(tmp_path / "real" / "store.json") == NEW


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    for write in (replace, create, update):
        with pytest.raises(Refused, match="its directory does not exist"):
            write(tmp_path / "no" / "store.json", NEW, 0o600)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    write_old(path)
    with pytest.raises(Refused, match=f"larger than {LIMIT} bytes"):
        update(path, {"x": "y" * LIMIT}, 0o600)
    assert content(path) == OLD


def test_of_many_creators_one_wins(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.json"
        start = threading.Barrier(8)
        won: list[int] = []

        def race(me: int, path: Path = path, start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            if create(path, {"apiKey": str(me)}, 0o644):
                won.append(me)

        threads = [threading.Thread(target=race, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert content(path) == {"apiKey": str(won[0])}
    assert len(list(tmp_path.iterdir())) == 20


def test_creation_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    path = tmp_path / "credentials.json"
    assert create(path, OLD, 0o644)
    assert not create(path, NEW, 0o644)
    assert content(path) == OLD
    aside = replace(path, NEW, 0o644, keep=NOON)
    assert content(path) == NEW
    assert content(Path(aside or "")) == OLD
    assert len(list(tmp_path.iterdir())) == 2


def test_broken_files_are_kept_aside_under_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    for number in range(3):
        path.write_text(f"{{ broken {number}")
        written = update(path, {"serveArgs": ["m"]}, 0o600, now=NOON)
        assert written.changed
        assert written.aside == f"{path}.broken-20260131T120005Z" + (f"-{number}" if number else "")
        assert Path(written.aside).read_text() == f"{{ broken {number}"
        assert content(path) == {"serveArgs": ["m"]}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_of_the_wrong_shape_is_kept_aside_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    path.write_text('{"serveArgs": "m", "note": 1}')
    written = update(path, {"serveArgs": ["m"]}, 0o600, now=NOON, keep=True)
    assert written == Written(changed=True, aside=f"{path}.broken-20260131T120005Z")
    assert content(path) == {"serveArgs": ["m"], "note": 1}
    assert content(Path(written.aside or "")) == {"serveArgs": "m", "note": 1}
    assert not update(path, {"serveArgs": ["m"]}, 0o600, now=NOON, keep=True).changed


def test_no_broken_file_is_kept_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    path.write_text("{")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Refused, match="no space is left"):
        update(path, NEW, 0o600)
    assert [file.name for file in tmp_path.iterdir()] == ["store.json"]
    assert path.read_text() == "{"


def test_update_changes_what_it_is_told_and_writes_only_then(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    assert update(path, {"serveArgs": ["a"], "serveEnv": None}, 0o600).changed
    assert content(path) == {"serveArgs": ["a"]}
    path.write_text('{"other": {"b": [1]}, "serveArgs": ["a"]}')
    before = path.stat()
    assert not update(path, {"serveArgs": ["a"], "serveEnv": None}, 0o600).changed
    assert path.stat().st_ino == before.st_ino
    assert update(path, {"serveArgs": None}, 0o600).changed
    assert content(path) == {"other": {"b": [1]}}
    path.write_text("")
    assert update(path, {"serveArgs": ["b"]}, 0o600) == writing.Written(changed=True)
    assert content(path) == {"serveArgs": ["b"]}


def test_a_file_that_cannot_be_read_through_no_fault_of_its_own_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.json"
    write_old(path)
    broken = writing.Broken(writing.Message.of("FileUnreadable", file=str(path), detail="x"), contents=False)
    monkeypatch.setattr(writing, "read_object", lambda _: broken)
    with pytest.raises(Refused, match="cannot be read"):
        update(path, NEW, 0o600)
    assert content(path) == OLD


def test_temporary_files_of_dead_writers_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    old, fresh = tmp_path / ".store.json.0123.tmp", tmp_path / ".store.json.4567.tmp"
    stranger = tmp_path / ".other.json.0123.tmp"
    for file in (old, fresh, stranger):
        file.write_text("x")
    long_ago = time.time() - 2 * writing.ABANDONED
    os.utime(old, (long_ago, long_ago))
    os.utime(stranger, (long_ago, long_ago))
    replace(path, NEW, 0o600)
    assert {file.name for file in tmp_path.iterdir()} == {"store.json", fresh.name, stranger.name}


@given(before=st.dictionaries(st.text(), JSON, max_size=5), arguments=st.lists(st.text(), max_size=3))
def test_unknown_fields_survive(
    before: dict[str, Any], arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "unknown.json"
    path.write_text(json.dumps(before))
    before = json.loads(path.read_text())
    update(path, {"serveArgs": arguments}, 0o600)
    reading = read_object(path)
    assert isinstance(reading, Good)
    assert reading.value == {**before, "serveArgs": arguments}
    store = parse_store(path, path.read_bytes())
    if set(before) <= {"serveArgs"}:
        assert isinstance(store, Good)
        assert store.value.serve_args == arguments
    # Key order stays, as people look at the file.
    assert [key for key in reading.value if key in before] == list(before)


def test_readers_beside_a_writer_that_is_killed_see_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    replace(path, {"serveArgs": ["0"]}, 0o600)
    code = (
        "import sys, itertools\n"
        "from vllm_fsm.files.writing import replace\n"
        "for n in itertools.count(1): replace(sys.argv[1], {'serveArgs': [str(n)] * (n % 50 + 1)}, 0o600)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": SOURCE})
    seen = set()

    def look() -> int:
        reading = read_store(path)
        assert isinstance(reading, Good), reading
        assert reading.value.serve_args
        number = reading.value.serve_args[0]
        assert reading.value.serve_args == [number] * (int(number) % 50 + 1 if number != "0" else 1)
        seen.add(number)
        return len(seen)

    try:
        for _ in range(1500):
            look()
        wait_for(lambda: look() > 5, what="the writer writes, however slow the disk is")
    finally:
        writer.kill()
        writer.wait()
    assert isinstance(read_store(path), Good)
