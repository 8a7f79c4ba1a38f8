"""Notice that a file may have changed, whatever way it was changed, and say only that: look again.

What is watched, never recursively (the model cache lies below one of the directories):

- the directory of each file, so that renaming, deleting and creating are seen;
- each directory on the way there, for the one name that the way goes through: directories come, go and are replaced,
  and Kubernetes swaps the symbolic link `..data` beside the files;
- the file itself, as it may be a mount of its own whose directory lies elsewhere (`-v ./store.json:/data/store.json`).

All of this is worked out anew before every hint, and a new watcher is open before the old one ends and before the hint
is given: a hint always comes after the watch that would see the next change. watchfiles' set of changes is no more than
a reason for a hint, and what it drops when a wait ends lies before the reading of the files that the hint asks for.

A slow timer looks as well, for what nobody tells: changes made on another machine, writes through a memory mapping,
another volume mounted over the directory, an overflow of the kernel's queue (watchfiles passes over it), a change that
watchfiles before 1.1 drops between copying and clearing a set in which nothing matters.

watchfiles looks at every step and answers at the second look in a row that finds as much as the last: a step is a
wake-up, and one and a half of them are the mean delay. Before each look it asks whether it is to stop, and `Pace`
sleeps in that question instead, every other time, so that the second look comes right after the first. What comes
between the two is found by the next ones. Of two writes in a row each may so have a hint of its own, which costs a look
at the files.

Half a step is the delay then (`benchmarks/watch.py`, two cores of a virtual machine that others use too; median to the
hint, % of a core): 40 ms: 27 ms, 0.13 %; 60 ms: 30 ms, 0.10 %; 80 ms: 42 ms, 0.09 %. Sleeping in watchfiles itself, 30
ms took 47 ms and 0.15 %, and more of cores that sleep in between. 60 ms leaves room in the controller's figures, 60 ms
from a write to SIGTERM and 0.3 %, and no hint comes later than with those 30 ms.

`RustNotify` is how watchfiles documents the direct use of its back end. Its generator `watch` opens the watcher in the
call that then waits for a change, and so can't tell when changes begin to be seen.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from vllm_fsm.adapters.ports import Log

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

STEP: Final = 0.06
"""Seconds between two pairs of looks of watchfiles. It does no debouncing of its own, so that a steady stream of events
can't hold a hint back for more than two."""

RESYNC: Final = 30.0
"""Seconds between two hints without any event."""

RESYNC_BLIND: Final = 2.0
"""The same while watching is refused."""

_DELETED: Final = 3
"""`watchfiles.Change.deleted`."""
_POLL: Final = 1000
"""Milliseconds between two looks at all places on a kernel without inotify, where watchfiles goes over to polling."""
_LINKS: Final = 40
"""Symbolic links on one way, as many as Linux follows."""
_PASSES: Final = 5
"""Times that a watcher is opened again at once because the ways have changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Place:
    """Something that decides what a path leads to: `name` in the physical directory `directory`."""

    directory: str
    name: str

    @property
    def path(self) -> str:
        """The place as one path."""
        return os.path.join(self.directory, self.name)


def way(path: str | os.PathLike[str]) -> tuple[Place, ...]:
    """Return what the way to the absolute `path` goes through, in order: directories, symbolic links, the file.

    It ends at the file, or at the first part that does not exist or may not be looked at.
    """
    places: list[Place] = []
    here = "/"
    rest = deque(os.fspath(path).split("/"))
    links = 0
    while rest:
        part = rest.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
            continue
        place = Place(here, part)
        places.append(place)
        try:
            if not os.path.islink(place.path):
                if not stat.S_ISDIR(os.lstat(place.path).st_mode):
                    break
                here = place.path
                continue
            target = os.readlink(place.path)
        except OSError:
            break
        links += 1
        if links > _LINKS:
            break
        if target.startswith("/"):
            here = "/"
        rest.extendleft(reversed(target.split("/")))
    return tuple(places)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to watch, and which names matter there."""

    paths: tuple[str, ...]
    """From the root downwards: what is replaced while they are watched one by one is seen by those above it."""
    names: frozenset[str]
    """Not bound to a directory: the kernel names a directory with two mounts by the one that was watched last."""
    arrivals: frozenset[str]
    """Names of which only the appearing matters."""

    def matters(self, changes: Iterable[tuple[int, str]]) -> bool:
        """Tell whether one of watchfiles' changes may have changed what the files say."""
        for change, path in changes:
            name = os.path.basename(path)
            if name in self.names or (name in self.arrivals and change != _DELETED):
                return True
        return False


def plan(files: Iterable[str], arrivals: Iterable[str]) -> Plan:
    """Return what the absolute paths depend on now."""
    paths: dict[str, None] = {}
    names: set[str] = set()
    arriving: set[str] = set()
    for path in files:
        places = way(path)
        paths |= dict.fromkeys([*(place.directory for place in places), places[-1].path])
        names |= {place.name for place in places}
    for path in arrivals:
        *before, last = way(path)
        paths |= dict.fromkeys([*(place.directory for place in before), last.directory])
        names |= {place.name for place in before}
        arriving.add(last.name)
    # What is not there, or not ours to read, is watched through its directory or not at all.
    return Plan(tuple(path for path in paths if os.access(path, os.R_OK)), frozenset(names), frozenset(arriving))


class Pace:
    """What watchfiles takes for its stop event: says whether `wake` is set, after `step` seconds every other time."""

    def __init__(self, step: float, wake: threading.Event) -> None:
        self._step = step
        self._wake = wake
        self._slept = False

    def is_set(self) -> bool:
        """Sleep or not, and return whether to stop."""
        self._slept = not self._slept
        if self._slept:
            time.sleep(self._step)
        return self._wake.is_set()


class FileWatch:
    """Calls `hint` on the event loop when one of the files may have changed, at most once in `step` seconds.

    `files` may be written in any way. `arrivals` are files that others put in place and we take away: only their
    appearing counts. `resync` is the seconds between two hints without any event. One thread works the places out,
    opens the watcher and waits.
    """

    def __init__(
        self,
        files: Iterable[str | os.PathLike[str]],
        hint: Callable[[], None],
        log: Log,
        *,
        arrivals: Iterable[str | os.PathLike[str]] = (),
        step: float = STEP,
        resync: float = RESYNC,
    ) -> None:
        self._files = [_absolute(path) for path in files]
        self._arrivals = [_absolute(path) for path in arrivals]
        self._hint = hint
        self._log = log
        self._step = step
        self._resync = resync
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._wake = threading.Event()
        """Ends the thread's wait, a step later at most."""
        self._ended = asyncio.Event()
        self._due = False
        """A hint is on its way to the loop."""
        # Set by the thread.
        self._pause = resync
        """Seconds after which the thread is to look although nothing happens."""
        self._watcher: RustNotify | None = None
        self._plan = Plan((), frozenset(), frozenset())
        self._blind = False

    async def run(self) -> None:
        """Watch until cancelled or closed; the first hint comes as soon as the watcher is open."""
        self._loop = asyncio.get_running_loop()
        try:
            while self._thread is None and not self._closed:
                thread = threading.Thread(target=self._work, name="file-watch")
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no room for another thread
                    self._go_blind(error)
                    self._hint()
                    await asyncio.sleep(self._pause)
                else:
                    self._thread = thread
            await self._ended.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Give no hint any more and wait until the thread has ended, a step at most; may be called more than once."""
        self._closed = True
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is None:
            self._ended.set()
            return
        await self._ended.wait()
        self._thread.join()

    def _give(self) -> None:
        """Give a hint, and arrange for the next in case that nothing happens."""
        assert self._loop is not None
        self._due = False
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        # Not a time-out of watchfiles, which goes by the wall clock.
        self._timer = self._loop.call_later(self._pause, self._wake.set)
        self._hint()

    def _post(self, call: Callable[[], None]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._closed = True

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closed:
            try:
                self._arm()
            except BaseException as error:  # a panic in Rust is no Exception
                self._go_blind(error)
            if not self._due:
                self._due = True
                self._post(self._give)
            self._await_change()
            self._wake.clear()
        self._replace(None)
        self._post(self._ended.set)

    def _arm(self) -> None:
        """Watch what the files depend on now, and nothing else.

        Raises whatever watchfiles does when it can't open; the watcher so far stays open then.
        """
        now = self._plan_anew()
        for _ in range(_PASSES):
            refusal: BaseException | None = None
            try:
                watcher = _open(now.paths)
            except BaseException as error:
                refusal = error
            else:
                self._plan = now
                self._replace(watcher)
            before, now = now, self._plan_anew()
            if now != before:
                continue
            if refusal is not None:
                raise refusal
            self._pause = self._resync
            if self._blind:
                self._blind = False
                self._post(partial(self._log, "watch-restored"))
            return
        self._pause = 0.0

    def _plan_anew(self) -> Plan:
        return plan(self._files, self._arrivals)

    def _await_change(self) -> None:
        """Return when something has changed that matters, or when woken."""
        if self._watcher is None:
            self._wake.wait()
            return
        while True:
            try:
                changes = self._watcher.watch(0, 0, 0, Pace(self._step, self._wake))
            except BaseException:
                # A name that is not UTF-8 is enough, and the watcher is of no use any more.
                self._replace(None)
                return
            if isinstance(changes, str) or self._plan.matters(changes):
                return

    def _replace(self, watcher: RustNotify | None) -> None:
        old, self._watcher = self._watcher, watcher
        if old is not None:
            old.close()

    def _go_blind(self, error: BaseException) -> None:
        self._pause = min(self._resync, RESYNC_BLIND)
        if not self._blind:
            self._blind = True
            advice = "if a limit is reached, raise fs.inotify.max_user_instances or max_user_watches"
            advice += f"; until then the files are read every {self._pause:g} s"
            self._post(partial(self._log, "watch-blind", detail=f"{type(error).__name__}: {error}", advice=advice))


def _open(paths: Iterable[str]) -> RustNotify:
    """Return a watcher that sees all that happens from now on. Raises OSError, RuntimeError, UnicodeError and worse."""
    # Here, as it takes tens of milliseconds and brings anyio along.
    from watchfiles._rust_notify import RustNotify

    # Ignoring what is denied would ignore every other error as well.
    return RustNotify(list(paths), False, False, _POLL, False, False)


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    # Not os.path.abspath, which takes `link/..` for nothing.
    return name if os.path.isabs(name) else os.path.join(os.getcwd(), name)
