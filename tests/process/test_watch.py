"""Every way of changing a file is noticed, and nothing else is."""

import asyncio
import itertools
import json
import os
import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

from support.pressure import unhurried
from support.wait import await_for
from vllm_fsm.adapters import watch as watch_module
from vllm_fsm.adapters.watch import STEP, FileWatch, way
from vllm_fsm.wishes import SETTLE, Wanted, Wishes

NEVER = 3600.0
"""A resync so slow that a test that needs it fails."""

QUICK = 0.01
"""A step for the tests whose subject is not the step."""


class Hints:
    """Counts hints, keeps what was logged, and sees what watchfiles reports."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.watch: FileWatch | None = None
        self._marks = (folder / f"mark-{number}" for number in itertools.count())
        self._awaited: Path | None = None

    def hint(self) -> None:
        self.count += 1

    def log(self, event: str, /, **fields: object) -> None:
        self.lines.append((event, fields))

    async def after(self, act: Callable[[], object], what: str) -> None:
        """Act, and wait for a hint."""
        await self.calm()
        before = self.count
        act()
        await await_for(lambda: self.count > before, what=what)

    async def none_after(self, act: Callable[[], object], marker: Callable[[], object]) -> None:
        """Act without a hint, then do something that gives one."""
        await self.calm()
        before = self.count
        act()
        await self.calm()
        assert self.count == before
        await self.after(marker, "the marker")

    async def calm(self) -> None:
        """Wait until all that has happened is noticed and its hints are given.

        Events come in order: when a new name that does not matter is reported, alone or among others that don't, then
        all before it has been reported.
        """
        mark = self._awaited = next(self._marks)

        def touched() -> bool:
            if self._awaited is not None:
                mark.touch()
            return self._awaited is None and self.watch is not None and not self.watch._due

        await await_for(touched, what="the watch calms down")

    @contextmanager
    def looking_on(self) -> Iterator[None]:
        """See the changes that watchfiles reports to the thread."""
        hints = self

        class Seen:
            def __init__(self, real: RustNotify) -> None:
                self.real = real
                self.close = real.close

            def watch(self, *arguments: object) -> object:
                changes = self.real.watch(*arguments)  # type: ignore[arg-type]
                assert hints.watch is not None
                paths = () if isinstance(changes, str) else [path for _, path in changes]
                if str(hints._awaited) in paths and not hints.watch._plan.matters(changes):  # type: ignore[arg-type]
                    hints._awaited = None
                return changes

        open_really = watch_module._open
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(watch_module, "_open", lambda paths: Seen(open_really(paths)))
            yield


@asynccontextmanager
async def watching(
    *files: Path, arrivals: tuple[Path, ...] = (), step: float = QUICK, resync: float = NEVER
) -> AsyncIterator[tuple[FileWatch, Hints]]:
    hints = Hints(next(parent for parent in files[0].parents if parent.name.startswith("test_")))
    watch = FileWatch(files, hints.hint, hints.log, arrivals=arrivals, step=step, resync=resync)
    hints.watch = watch
    with hints.looking_on():
        task = asyncio.create_task(watch.run())
        try:
            await await_for(lambda: hints.count, what="the first hint")
            yield watch, hints
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await watch.close()


def descriptors() -> set[str]:
    """Return the numbers of this process's descriptors."""
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def threads() -> set[str]:
    """Return the ids of this process's threads, also of those that Python does not know."""
    return set(os.listdir("/proc/self/task"))


def watches() -> int:
    """Return the number of inodes that the kernel watches for this process."""
    lines: list[str] = []
    for number in queues():
        with suppress(FileNotFoundError):
            lines += Path(f"/proc/self/fdinfo/{number}").read_text().splitlines()
    return sum(line.startswith("inotify") for line in lines)


def queues() -> list[str]:
    """Return the numbers of the descriptors through which the kernel reports changes, one for each watcher."""
    return [number for number in descriptors() if _leads_to(number) == "anon_inode:inotify"]


def closed() -> bool:
    """Whether all that was watched before is let go of: watchfiles' own threads do that, in their own time."""
    names = set()
    for thread in threads():
        with suppress(OSError):  # it has just ended
            names.add(Path(f"/proc/self/task/{thread}/comm").read_text()[:6])
    return "notify" not in names and not queues()


def _leads_to(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return ""


def write(path: Path, text: str = "{}") -> None:
    path.write_text(text)


def rename(path: Path, text: str = "{}") -> None:
    other = path.with_name(path.name + ".new")
    other.write_text(text)
    os.rename(other, path)


def recreate(path: Path, text: str = "{}") -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)


def swap_link(path: Path, text: str = "{}") -> None:
    """Point the file, a symbolic link, at a new file."""
    target = path.with_name(f"version-{time.monotonic_ns()}")
    target.write_text(text)
    link = path.with_name("link.new")
    link.symlink_to(target.name)
    os.rename(link, path)


def go(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 600))  # type: ignore[arg-type]


def test_every_way_of_changing_a_file(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "store.json"
        async with watching(path, tmp_path / "other" / "credentials.json") as (_, hints):
            await hints.after(lambda: write(path), "creation")
            await hints.after(lambda: write(path, '{"a": 1}'), "write in place")
            await hints.after(lambda: rename(path), "rename")
            await hints.after(lambda: write(path, '{"a": 2}'), "write in place after a rename")
            await hints.after(lambda: recreate(path), "delete and create")
            await hints.after(path.unlink, "delete")
            await hints.after(lambda: write(path), "creation after a delete")
            await hints.after(lambda: path.chmod(0), "permissions")
            await hints.after(lambda: path.chmod(0o600), "permissions")
            await hints.after(lambda: os.truncate(path, 0), "truncation")
            await hints.after(lambda: swap_link(path), "symbolic link in its place")
            await hints.after(lambda: swap_link(path), "swap of the link")
            await hints.after(lambda: path.resolve().write_text("x"), "write to what the link leads to")
            await hints.after(lambda: path.resolve().unlink(), "the link dangles")
            await hints.after(lambda: os.replace(_made(tmp_path / "x"), path), "a file in the link's place")
            await hints.after(lambda: (path.unlink(), path.mkdir()), "a directory in its place")
            await hints.after(path.rmdir, "and gone")
            await hints.after(lambda: os.mkfifo(path), "a fifo in its place")
            assert hints.lines == []

    go(work)


def _made(path: Path) -> Path:
    path.write_text("{}")
    return path


def test_kubernetes_swaps_a_hidden_link(tmp_path: Path) -> None:
    def version(name: str, text: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(name)
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    async def work() -> None:
        version("..2026_01", "1")
        (tmp_path / "store.json").symlink_to("..data/store.json")
        async with watching(tmp_path / "store.json") as (_, hints):
            await hints.after(lambda: version("..2026_02", "2"), "first swap")
            await hints.after(lambda: version("..2026_03", "3"), "second swap")
            await hints.none_after(
                lambda: (tmp_path / "..2026_01" / "store.json").write_text("old"),
                lambda: (tmp_path / "..2026_03" / "store.json").write_text("4"),
            )
            shutil.rmtree(tmp_path / "..2026_01")
            await hints.after(lambda: version("..2026_04", "5"), "third swap")

    go(work)


def test_directories_that_come_go_and_are_replaced(tmp_path: Path) -> None:
    async def work() -> None:
        data = tmp_path / "volumes" / "main"
        path = data / "store.json"
        async with watching(path) as (_, hints):
            await hints.after((tmp_path / "volumes").mkdir, "the directory above")
            await hints.after(data.mkdir, "the directory")
            await hints.after(lambda: write(path), "the file")
            await hints.after(lambda: shutil.rmtree(tmp_path / "volumes"), "all of it gone")
            await hints.after(lambda: (data.mkdir(parents=True), write(path)), "all of it back at once")
            await hints.after(lambda: rename(path), "rename")

            def replaced() -> None:
                new = tmp_path / "volumes" / "new"
                new.mkdir()
                write(new / "store.json", "2")
                os.rename(data, tmp_path / "volumes" / "old")
                os.rename(new, data)

            await hints.after(replaced, "another directory in its place")
            await hints.none_after(
                lambda: write(tmp_path / "volumes" / "old" / "store.json", "3"), lambda: write(path, "4")
            )
            await hints.after(lambda: (shutil.rmtree(data), write(data)), "a file in the directory's place")
            await hints.after(lambda: (data.unlink(), data.mkdir()), "a directory again")
            await hints.after(lambda: write(path), "the file again")

            elsewhere = tmp_path / "elsewhere"
            elsewhere.mkdir()
            write(elsewhere / "store.json")
            await hints.after(lambda: (shutil.rmtree(data), data.symlink_to(elsewhere)), "a link to another place")
            await hints.after(lambda: write(elsewhere / "store.json", "5"), "a write there")

    go(work)


def test_a_directory_replaced_far_above(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "a" / "b" / "c" / "store.json"
        path.parent.mkdir(parents=True)
        write(path)
        async with watching(path) as (_, hints):

            def replaced() -> None:
                os.rename(tmp_path / "a", tmp_path / "old")
                path.parent.mkdir(parents=True)
                write(path)

            await hints.after(replaced, "another directory above")
            await hints.after(lambda: write(path, "1"), "a write below it")

    go(work)


def test_a_deleted_directory_in_which_a_file_is_still_open(tmp_path: Path) -> None:
    """The kernel says nothing to those who watch such a directory itself: it lives as long as the file."""

    async def work() -> None:
        path = tmp_path / "data" / "store.json"
        path.parent.mkdir()
        with (path.parent / "lock").open("w"):
            async with watching(path) as (_, hints):
                await hints.after(lambda: shutil.rmtree(path.parent), "the directory goes")
                await hints.after(lambda: (path.parent.mkdir(), write(path)), "the directory comes back")
                await hints.after(lambda: write(path, "1"), "a write in it")

    go(work)


def test_the_timer_looks_as_well(tmp_path: Path) -> None:
    async def work() -> None:
        async with watching(tmp_path / "store.json", resync=0.05) as (_, hints):
            await await_for(lambda: hints.count > 3, what="hints by the timer")

    go(work)


def test_a_file_is_seen_through_its_other_names(tmp_path: Path) -> None:
    """A file that is a mount of its own is written through a directory that we don't know."""

    async def work() -> None:
        path, other = tmp_path / "data" / "store.json", tmp_path / "host" / "my-store.json"
        path.parent.mkdir()
        other.parent.mkdir()
        write(path)
        os.link(path, other)
        async with watching(path) as (_, hints):
            await hints.after(lambda: write(other, '{"a": 1}'), "write under the other name")

    go(work)


def test_what_changes_right_after_a_hint_is_seen(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "data" / "store.json"
        hints = Hints(tmp_path)

        def change() -> None:
            hints.hint()
            if path.parent.is_dir() and not path.exists():
                write(path)

        hints.watch = FileWatch([path], change, hints.log, step=QUICK, resync=NEVER)
        with hints.looking_on():
            task = asyncio.create_task(hints.watch.run())
            await await_for(lambda: hints.count, what="the first hint")
            await hints.after(path.parent.mkdir, "the directory")
            await hints.calm()
            # Its making and its filling may be seen one by one.
            assert hints.count >= 3, "the write of the second hint gives the third"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    go(work)


def test_what_changes_before_the_watcher_is_open_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tells of a directory that came after the places were worked out and before they were watched."""
    path = tmp_path / "data" / "store.json"
    open_really = watch_module._open

    def open_late(paths: tuple[str, ...]) -> RustNotify:
        path.parent.mkdir(exist_ok=True)
        return open_really(paths)

    async def work() -> None:
        monkeypatch.setattr(watch_module, "_open", open_late)
        async with watching(path) as (_, hints):
            await hints.after(lambda: write(path), "a write in the directory")

    go(work)


def test_one_inode_under_two_names_is_watched_for_both_reasons(tmp_path: Path) -> None:
    """As when two paths are mounts of one volume; hard links stand in for mounts."""

    async def work() -> None:
        one, other, third = tmp_path / "one.json", tmp_path / "data" / "other.json", tmp_path / "third" / "x"
        write(one)
        for link in (other, third):
            link.parent.mkdir()
            os.link(one, link)
        async with watching(one, other) as (_, hints):
            await hints.after(lambda: write(one, "1"), "a modification under the first name")
            await hints.after(lambda: other.chmod(0o600), "a change of permissions under the second")
            await hints.after(lambda: write(third, "2"), "a modification under a name that we don't know")
            await hints.after(one.unlink, "the first name goes")
            await hints.after(lambda: write(third, "3"), "a modification afterwards")

    go(work)


def test_what_does_not_matter_gives_no_hint(tmp_path: Path) -> None:
    def noise() -> None:
        for name in ("other.json", ".store.json.0123.tmp", "store.json~", "models"):
            write(tmp_path / name)
            os.rename(tmp_path / name, tmp_path / "x")
            (tmp_path / "x").unlink()
        (tmp_path / "models").mkdir()
        write(tmp_path / "models" / "store.json")
        (tmp_path / "store.json").read_text()

    async def work() -> None:
        path = tmp_path / "store.json"
        write(path)
        async with watching(path) as (_, hints):
            await hints.none_after(noise, lambda: write(path, "1"))

    go(work)


def test_arrivals_only_count_when_they_arrive(tmp_path: Path) -> None:
    async def work() -> None:
        run, path = tmp_path / "run", tmp_path / "run" / "request.json"
        run.mkdir()
        log = (run / "journal.jsonl").open("w")

        def noise() -> None:
            for _ in range(100):
                log.write("line\n")
                log.flush()
            rename(run / "health.json")
            os.utime(run / "health.json")

        with log:
            async with watching(tmp_path / "store.json", arrivals=(path,)) as (_, hints):
                await hints.none_after(noise, lambda: rename(path))
                await hints.none_after(path.unlink, lambda: write(path))
                await hints.after(lambda: shutil.rmtree(run), "the directory goes")
                await hints.after(run.mkdir, "the directory comes")
                await hints.after(lambda: rename(path), "a request in it")
                await hints.after(lambda: write(tmp_path / "store.json"), "the store")

    go(work)


def test_one_directory_for_both_kinds(tmp_path: Path) -> None:
    async def work() -> None:
        path, request = tmp_path / "store.json", tmp_path / "request.json"
        write(path)
        (tmp_path / "again").symlink_to(".")
        async with watching(path, arrivals=(tmp_path / "again" / "request.json",)) as (_, hints):
            await hints.after(lambda: rename(request), "a request")
            await hints.after(path.unlink, "a deletion, which is no arrival")
            await hints.after(lambda: write(path), "the store")
            await hints.after(lambda: path.chmod(0o640), "its permissions")

    go(work)


RESTLESS = """
import itertools, os, sys
for number in itertools.count():
    open(sys.argv[1], "w").close()
    open(f"{sys.argv[1]}.{number}", "w").close()
    os.unlink(f"{sys.argv[1]}.{number}")
"""


def test_a_burst_is_one_hint_and_a_long_one_does_not_postpone_it(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "store.json"
        async with watching(path, step=STEP) as (_, hints):
            await hints.calm()
            before, start = hints.count, time.monotonic()
            for number in range(100):
                rename(path, str(number))
            elapsed = time.monotonic() - start
            await hints.calm()
            # Each look ends what it sees of a burst, and they are a step apart.
            assert 1 <= hints.count - before <= 2 + elapsed // STEP

            # New names all the time are the worst: watchfiles waits for a look that finds no more than the last.
            writer = await asyncio.create_subprocess_exec(sys.executable, "-c", RESTLESS, path)
            try:
                before = hints.count
                await await_for(lambda: hints.count >= before + 5, what="hints while a writer never pauses")
            finally:
                writer.kill()
                await writer.wait()

    go(work)


def test_more_events_than_the_queue_holds(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    async def work() -> None:
        path = tmp_path / "store.json"
        async with watching(path) as (_, hints):

            def flood() -> None:
                # Far more events than the queue holds; the last ones matter. They are read meanwhile.
                for number in range(most // 2 + 10):
                    (tmp_path / f"n{number % 2}").touch()
                    (tmp_path / f"n{number % 2}").unlink()
                rename(path)

            await hints.after(flood, "a flood")
            await hints.after(lambda: write(path, "1"), "afterwards as before")

    go(work)


@pytest.mark.parametrize("refused", ["instances", "watches", "thread", "descriptors", "panic"])
def test_a_kernel_that_refuses_is_named_once_and_the_timer_goes_on(refused: str, tmp_path: Path) -> None:
    class Panic(BaseException):
        """As pyo3's PanicException, which is no Exception."""

    def refuse(*_: object) -> None:
        raise {
            "instances": WatchfilesRustInternalError("Error creating recommended watcher: Too many open files"),
            "watches": OSError("OS file watch limit reached."),
            "thread": RuntimeError("can't start new thread"),
            "panic": Panic("called `Result::unwrap()` on an `Err` value"),
        }[refused]

    @contextmanager
    def refusing() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            if refused == "descriptors":
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                free = next(number for number in itertools.count() if str(number) not in descriptors())
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
                try:
                    yield
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                return
            if refused == "thread":
                patch.setattr(threading.Thread, "start", refuse)
            else:
                patch.setattr(watch_module, "_open", refuse)
            yield

    async def work() -> None:
        path = tmp_path / "store.json"
        hints = Hints(tmp_path)
        watch = FileWatch([path], hints.hint, hints.log, step=QUICK, resync=0.05)
        await await_for(closed, what="no descriptor becomes free meanwhile")
        with refusing():
            task = asyncio.create_task(watch.run())
            await await_for(lambda: hints.count > 3, what="hints by the timer")
            assert [event for event, _ in hints.lines] == ["watch-blind"]
            assert hints.lines[0][1]["detail"]
        await await_for(lambda: len(hints.lines) > 1, what="the watch is back")
        assert [event for event, _ in hints.lines] == ["watch-blind", "watch-restored"]
        await watch.close()
        await task

    go(work)


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """watchfiles gives up when it meets one; where it is the directory's own name, it does not even begin."""

    async def work() -> None:
        path = tmp_path / "store.json"
        strange = os.fsencode(tmp_path) + b"/\xff"
        async with watching(path) as (_, hints):
            os.mkdir(strange)
            await hints.after(lambda: write(path), "a write")
            os.rmdir(strange)
            await hints.after(lambda: write(path, "1"), "another write")
            assert hints.lines == []

        os.mkdir(strange)
        async with watching(tmp_path / os.fsdecode(b"\xff") / "store.json", resync=0.05) as (_, hints):
            await await_for(lambda: hints.count > 3, what="hints by the timer")
            assert [event for event, _ in hints.lines] == ["watch-blind"]

    go(work)


def test_a_watcher_that_fails_and_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError("OS file watch limit reached.")

    async def work() -> None:
        async with watching(tmp_path / "store.json", resync=0.05) as (watch, hints):
            with monkeypatch.context() as patch:
                patch.setattr(watch_module, "_open", refuse)
                os.mkdir(os.fsencode(tmp_path) + b"/\xff")
                await await_for(lambda: watch._watcher is None and hints.lines, what="the failed watcher is given up")
            await await_for(lambda: watch._watcher is not None and len(hints.lines) > 1, what="another one")
            assert [event for event, _ in hints.lines] == ["watch-blind", "watch-restored"]

    go(work)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    async def work() -> None:
        await await_for(closed, what="what was watched before is closed")
        before = descriptors(), threads()
        for _ in range(3):
            async with watching(tmp_path / "store.json") as (watch, hints):
                await hints.after(lambda: write(tmp_path / "store.json"), "a write")
                count = hints.count
                write(tmp_path / "store.json", "1")
                await watch.close()
                await watch.run()
                assert hints.count == count
        # watchfiles' own thread closes what it has opened.
        await await_for(lambda: descriptors() <= before[0] and threads() <= before[1], what="all is closed")

    go(work)


@pytest.mark.parametrize("state", ["idle", "busy", "blind", "cancelled", "not begun"])
def test_closing_is_prompt(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError("OS file watch limit reached.")

    async def work() -> None:
        path = tmp_path / "store.json"
        if state == "blind":
            monkeypatch.setattr(watch_module, "_open", refuse)
        hints = Hints(tmp_path)
        watch = FileWatch([path], hints.hint, hints.log, resync=NEVER)
        task = asyncio.create_task(watch.run())
        if state != "not begun":
            await await_for(lambda: hints.count, what="the first hint")
        writer = None
        if state == "busy":
            before = hints.count
            writer = await asyncio.create_subprocess_exec(sys.executable, "-c", RESTLESS, path)
            await await_for(lambda: hints.count > before, what="a hint")
        started = unhurried()
        if state == "cancelled":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        else:
            await watch.close()
        assert unhurried() - started < 0.5
        assert not [thread for thread in threading.enumerate() if thread.name == "file-watch"]
        count = hints.count
        write(path, "after the end")
        await asyncio.wait([task])
        assert hints.count == count
        if writer is not None:
            writer.kill()
            await writer.wait()

    go(work)


def test_the_thread_does_not_outlive_the_loop(tmp_path: Path) -> None:
    """A thread that is no daemon would keep the process from ending."""

    async def work() -> None:
        hints = Hints(tmp_path)
        tasks.add(asyncio.create_task(FileWatch([tmp_path / "store.json"], hints.hint, hints.log).run()))
        await await_for(lambda: hints.count, what="the first hint")
        raise KeyError("the end")

    tasks: set[asyncio.Task[None]] = set()
    with pytest.raises(KeyError):
        asyncio.run(work())
    assert not [thread for thread in threading.enumerate() if thread.name == "file-watch"]


def test_nothing_piles_up_when_places_change(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "data" / "store.json"
        path.parent.mkdir()
        async with watching(path) as (_, hints):

            def open_now() -> tuple[int, int, int]:
                return len(descriptors()), len(threads()), watches()

            await hints.after(lambda: swap_link(path), "a link in the file's place")
            await hints.calm()
            await await_for(lambda: len(queues()) == 1, what="the watcher before the present one is gone")
            before = open_now()
            for _ in range(50):
                await hints.after(lambda: swap_link(path), "a swap")
            await hints.calm()
            await await_for(
                lambda: all(now <= then for now, then in zip(open_now(), before, strict=True)),
                what="no more than before",
            )
            await hints.after(lambda: shutil.rmtree(path.parent), "the directory goes")
            await await_for(lambda: watches() == before[2] - 2, what="two watches fewer")

    go(work)


def test_the_way_to_a_file(tmp_path: Path) -> None:
    def through(path: str) -> list[str]:
        places = way(f"{tmp_path}/{path}")
        above = way(tmp_path)
        assert places[: len(above)] == above
        return [os.path.relpath(place.path, tmp_path) for place in places[len(above) :]]

    assert way("/") == ()
    assert through("a/b/store.json") == ["a"]
    (tmp_path / "a").mkdir()
    assert through("./a//store.json") == ["a", "a/store.json"]
    (tmp_path / "l").symlink_to("a/../a")
    assert through("l/store.json") == ["l", "a", "a", "a/store.json"]
    (tmp_path / "a" / "store.json").symlink_to("../x")
    assert through("l/store.json") == ["l", "a", "a", "a/store.json", "x"]
    (tmp_path / "a" / "store.json").unlink()
    (tmp_path / "a" / "store.json").symlink_to(tmp_path / "x")
    assert through("a/store.json")[-1] == "x"
    write(tmp_path / "x")
    assert through("x/store.json") == ["x"]
    (tmp_path / "loop").symlink_to("loop")
    assert set(through("loop/store.json")) == {"loop"}


# --- with what reads the files -----------------------------------------------------------------------------------


class Follower:
    """Looks at every hint, as the controller does."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wishes = Wishes(
            path / "store.json",
            path / "credentials.json",
            clock=time.monotonic,
            log=lambda _event, /, **_fields: None,
            wall=lambda: datetime.now(UTC),
        )
        self.wanted = Wanted(None)
        self.looks = 0
        self.changes: list[str] = []

    def look(self) -> None:
        self.looks += 1
        wanted = self.wishes.look()
        if wanted != self.wanted:
            self.changes.append(wanted.target.model if wanted.target else "nothing")
        self.wanted = wanted
        if wanted.again is not None:
            self.loop.call_at(wanted.again, self.look)

    @property
    def model(self) -> str | None:
        return self.wanted.target.model if self.wanted.target else None


def test_a_thousand_edits_in_bursts_end_with_the_last_of_each(tmp_path: Path) -> None:
    """Real writers, every way of writing, no timer: each burst's last content comes through, and no warning."""
    draw, longest = random.Random(7), 0.0
    path = tmp_path / "store.json"
    ways = (write, rename, recreate, swap_link)

    def burst(numbers: range) -> None:
        nonlocal longest
        for number in numbers:
            began = time.monotonic()
            text = json.dumps({"serveArgs": [f"org/m{number}"], "pad": "x" * draw.randrange(4000)})
            if path.is_symlink():
                path.unlink()
            draw.choice(ways)(path, text)
            longest = max(longest, time.monotonic() - began)
            if draw.random() < 0.3:
                time.sleep(draw.random() * 0.004)

    async def work() -> None:
        follower = Follower(tmp_path, asyncio.get_running_loop())
        watch = FileWatch([path, tmp_path / "credentials.json"], follower.look, lambda *_, **__: None, resync=NEVER)
        task = asyncio.create_task(watch.run())
        done = 0
        try:
            while done < 1000:
                size = min(draw.randrange(1, 60), 1000 - done)
                await asyncio.to_thread(burst, range(done + 1, done + size + 1))
                done += size
                last = f"org/m{done}"
                await await_for(lambda last=last: follower.model == last, what=f"{last} is in force")  # type: ignore[misc]
                assert follower.wanted.warnings == ()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # A writer that stands still between two of its calls leaves no file, or half of one.
        assert "nothing" not in follower.changes or longest >= SETTLE
        assert follower.looks < 1000

    go(work)


def test_a_broken_store_is_said_and_repaired_without_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        path = tmp_path / "store.json"
        follower = Follower(tmp_path, asyncio.get_running_loop())
        watch = FileWatch([path, tmp_path / "credentials.json"], follower.look, lambda *_, **__: None, resync=NEVER)
        task = asyncio.create_task(watch.run())
        try:
            write(path, '{"serveArgs": ["org/a"]}')
            await await_for(lambda: follower.model == "org/a", what="the first model")
            started = time.monotonic()
            write(path, '{"serveArgs": ["org/')
            await await_for(lambda: follower.wanted.warnings, what="a warning")
            assert time.monotonic() - started >= SETTLE
            assert follower.model == "org/a"
            write(path, '{"serveArgs": ["org/b"]}')
            await await_for(lambda: follower.model == "org/b" and not follower.wanted.warnings, what="the repair")
            key = json.loads((tmp_path / "credentials.json").read_text())["apiKey"]
            (tmp_path / "credentials.json").unlink()
            await await_for(lambda: follower.wanted.target and follower.wanted.target.key.reveal() != key, what="a key")
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    go(work)
