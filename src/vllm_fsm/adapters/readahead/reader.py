"""Reads the weights of one start into the page cache: a process of its own, executed by path, told what in JSON.

It reads plainly. One posix_fadvise(POSIX_FADV_WILLNEED) is cut to the device's read-ahead window by the kernel (Linux
6.18: 8 MiB of a file of 1.5 GiB were cached, the rest never), tells no error, and cannot be followed.

It says how far it is in JSON lines, and may be killed at any time. It ends with the controller.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

if __name__ == "__main__":  # -P leaves our folder out of sys.path, whose names would hide others'
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))

from vllm_fsm.adapters import memory
from vllm_fsm.adapters.process.warm.parent import IDLE_CLASS, IOPRIO_SET, LOWEST
from vllm_fsm.weights.completeness import local_weights, weights
from vllm_fsm.weights.hub_cache import RepoFolder
from vllm_fsm.weights.needs import Repo, Role

PIECE: Final = 1 << 20
"""Bytes that are read, or found cached, at once."""
LOOK: Final = 64 << 20
"""Bytes after which is looked how much memory is free."""
PAUSE: Final = 0.5
"""Seconds between two looks when there is too little, and between two reports."""
PR_SET_PDEATHSIG: Final = 1


class NotKept(Exception):
    """What is read from this file system may not stay in the page cache, or it cannot be known."""


class Reader:
    """Reads files one after the other.

    Args:
        say: takes how far it is: `bytes` that are in the page cache by now, those of them that came `from_disk` as the
            kernel counts, `files`, whether it is `short` of memory, `error`, whether it has `ended`.
        budget: how many bytes of the page cache may be taken, those counted that are taken already.
    """

    def __init__(
        self,
        say: Callable[[dict[str, Any]], None],
        *,
        budget: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._say = say
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._buffer = memoryview(bytearray(PIECE))
        self._allowed = 0
        self._said_at = clock()
        self._before = _from_disk()
        self._kept = False
        """What was read here was seen to stay."""
        self.bytes = self.files = 0
        self.short = False
        self.error = ""

    def run(self, files: Iterable[tuple[str, str]]) -> None:
        """Read `files`, each with the directory that it must lie in; empty: anywhere on its folder's file system."""
        for path, inside in files:
            try:
                descriptor = opened(path, inside)
                try:
                    self._file(descriptor)
                finally:
                    os.close(descriptor)
                self.files += 1
            except (OSError, NotKept) as error:
                self.error = self.error or f"{os.path.basename(path)}: {getattr(error, 'strerror', None) or error}"
        self.report(ended=True)

    def report(self, *, ended: bool = False) -> None:
        """Say how far it is."""
        self._said_at = self._clock()
        fields = {"bytes": self.bytes, "from_disk": _from_disk() - self._before, "files": self.files}
        self._say({**fields, "short": self.short, "error": self.error, "ended": ended})

    def _file(self, descriptor: int) -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        end = os.fstat(descriptor).st_size
        at = 0
        while (at := _data(descriptor, at)) < end:
            self._wait_for_room()  # before it is asked: to ask makes the kernel read on
            length = min(PIECE, end - at)
            if not cached(descriptor, at, length):
                length = os.preadv(descriptor, [self._buffer[:length]], at)
                if not length:  # it was cut
                    return
                if not self._kept and not cached(descriptor, at, length):
                    raise NotKept("this file system keeps nothing in the page cache")
                self._kept = True
            self.bytes += length
            at += length
            if self._clock() - self._said_at >= PAUSE:
                self.report()

    def _wait_for_room(self) -> None:
        """Wait while more would push out what was read before the engine has read it."""
        taken = self.bytes + PIECE
        while taken > self._allowed:
            budget = self._budget()
            self._allowed = min(taken + LOOK, budget)
            self.short = taken > budget
            if self.short:
                self.report()
                self._sleep(PAUSE)


def opened(path: str, inside: str) -> int:
    """Return a descriptor of the regular file at `path`, to be read; links are followed within `inside` only.

    Nothing but a regular file is opened: to open a device or a pipe may do something.

    Raises:
        OSError: it is none, lies elsewhere, or cannot be read.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        here = f"/proc/self/fd/{handle}"
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a file", path)
        if inside:
            outside = not os.readlink(here).startswith(os.path.join(os.path.realpath(inside), ""))
        else:
            outside = status.st_dev != os.stat(os.path.dirname(path) or ".").st_dev
        if outside:
            raise OSError(errno.EXDEV, "A link leads elsewhere", path)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return os.open(here, flags | os.O_NOATIME)
        except PermissionError:  # it belongs to somebody else
            return os.open(here, flags)
    finally:
        os.close(handle)


def cached(descriptor: int, at: int, length: int) -> bool:
    """Whether a piece of the file is in the page cache, as far as its first and last byte show.

    Asked by a read that must not wait, and not by mincore(2), which says yes about all files of others. Where it finds
    the mark that readahead left, the kernel reads on: a file may be cached as a whole after its first piece was read.

    Raises:
        NotKept: the file system cannot be asked; on Linux 6.18 overlayfs and tmpfs are among those.
        OSError: it cannot be read.
    """
    try:
        return all(os.preadv(descriptor, [bytearray(1)], place, os.RWF_NOWAIT) for place in (at, at + length - 1))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise NotKept("this file system does not say what the page cache holds") from error
        raise


def rooms() -> Iterable[memory.Room]:
    """Return the places that have an end; what files take there is free, also what was used more than once."""
    return memory.rooms(active_files=True)


def free(rooms: Callable[[], Iterable[memory.Room]] = rooms) -> int:
    """Return how many bytes the page cache may take before something else must go, 0 where that cannot be known."""
    return max(0, min((room.free - max(memory.LEAST, room.total // memory.SHARE) for room in rooms()), default=0))


def files(order: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the weights that `order` names, each with the directory that it must lie in."""
    models: str = order["models"]
    for kind in ("repos", "local"):
        for fields in order[kind]:
            repo = Repo(**{**fields, "role": Role(fields["role"])})
            if kind == "repos":
                yield from ((path, models) for path in weights(RepoFolder(models, repo.id), repo))
            else:
                yield from ((path, "") for path in local_weights(repo))


def _from_disk() -> int:
    """Return how many bytes this process has had fetched, readahead on its behalf counted."""
    return 512 * resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _data(descriptor: int, at: int) -> int:
    """Return where the next bytes lie that are on the disk; holes need no reading."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return sys.maxsize
        return at


def say(said: dict[str, Any]) -> None:
    """Tell the controller how far it is."""
    sys.stdout.write(f"{json.dumps(said)}\n")
    sys.stdout.flush()


def main() -> int:
    """End with the controller, read the order, do it."""
    order = json.load(sys.stdin)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != order["parent"]:
        return 1
    os.nice(LOWEST)
    # Where the scheduler shares by session, a nice value counts inside of one only.
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write(str(LOWEST))
    number = IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        # What the engine reads meanwhile goes first: its modules, right after a start of the machine.
        libc.syscall(number, 1, 0, IDLE_CLASS)
    Reader(say, budget=free).run(files(order))
    return 0


if __name__ == "__main__":
    sys.exit(main())
