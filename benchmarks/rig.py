"""A real controller to be measured: stamps of the fake engine, edits with their moment, changes of the health file."""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import shlex
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
# A controller is measured as it is installed: with compiled modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from support.controller import Controller  # noqa: E402
from support.rude import COMMAND  # noqa: E402
from vllm_fsm.adapters import procfs  # noqa: E402

LIMIT = 30.0
"""Seconds to wait for anything that takes a fraction of one."""
WAYS = ("rename", "in place")
_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")


ENGINE = """\
echo "exec now $*" > "$RUDE_STAMPS"
exec {fake} "$@"
"""
"""A shell says that the engine is executed, a millisecond after it is, and becomes the fake. An interpreter says it of
itself 10 to 20 ms later."""


class Stamp(NamedTuple):
    """Something that the fake engine noted, in seconds of CLOCK_MONOTONIC."""

    name: str
    at: float
    arguments: list[str]


class Stamps:
    """What the engines note, as it happens: a fifo that `RUDE_STAMPS` names.

    `exec` is stamped when it is read, so it must be waited for right after `forget` and what leads to it.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Writing too, so that there is no end of file between two engines.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""
        self._seen: list[Stamp] = []
        self.path = path

    def wait(self, name: str, since: float, *words: str, limit: float = LIMIT) -> float:
        """Return when `name` first happened after `since` to an engine with `words` among its arguments.

        Raises TimeoutError after `limit` seconds. Stamps from before `since` are forgotten.
        """
        self._seen = [stamp for stamp in self._seen if stamp.at >= since]
        end = time.monotonic() + limit
        while True:
            for stamp in self._seen:
                if stamp.name == name and set(words) <= set(stamp.arguments):
                    return stamp.at
            rest = end - time.monotonic()
            if rest <= 0.0:
                raise TimeoutError(f"no {name} {' '.join(words)} within {limit:g} s")
            select.select((self._fifo,), (), (), rest)
            self._read(since)

    def forget(self) -> None:
        """Read what was noted until now, and forget it."""
        while select.select((self._fifo,), (), (), 0)[0]:
            self._read(time.monotonic())
        self._seen.clear()

    def _read(self, since: float) -> None:
        now = time.monotonic()
        try:
            *lines, self._rest = (self._rest + os.read(self._fifo, 1 << 16)).split(b"\n")
        except BlockingIOError:
            return
        for line in lines:
            name, moment, *arguments = line.decode().split()
            at = now if moment == "now" else float(moment)
            if at >= since:
                self._seen.append(Stamp(name, at, arguments))

    def close(self) -> None:
        """Let go of the fifo."""
        os.close(self._fifo)


class Renames:
    """Files that are renamed into a directory, by inotify: nothing is polled while the controller works."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._file: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._file < 0 or libc.inotify_add_watch(self._file, os.fsencode(directory), _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), f"inotify on {directory}")

    def wait(self, limit: float = LIMIT) -> float:
        """Return when the next one was noticed; raise TimeoutError if there is none within `limit` seconds."""
        if not select.select((self._file,), (), (), limit)[0]:
            raise TimeoutError(f"nothing was renamed within {limit:g} s")
        now = time.monotonic()
        os.read(self._file, 1 << 16)
        return now

    def close(self) -> None:
        """End the watch."""
        os.close(self._file)


class Rig(Controller):
    """A controller with the fake engine in a directory of its own, gone afterwards with all that it made."""

    def __init__(self, *flags: str, **options: Any) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="bench"))
        self.stamps = Stamps(self.root / "stamps")
        self.draw = random.Random(1)
        script = self.root / "engine.sh"
        script.write_text(ENGINE.format(fake=shlex.join(COMMAND)))
        options = {"engine": ("/bin/sh", str(script)), **options}
        super().__init__(self.root, *flags, environment={"RUDE_STAMPS": str(self.stamps.path)}, **options)

    def __enter__(self) -> Rig:
        super().__enter__()
        self.until("NoModel", LIMIT)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            super().__exit__(*error)
        finally:
            self.stamps.close()
            shutil.rmtree(self.root)

    def edit(self, number: int, way: str = "rename", **environment: object) -> float:
        """Ask for another engine, recognised by `number`; return the moment right before the write.

        Stamps from before are forgotten.
        """
        self.stamps.forget()
        variables = [{"name": name, "value": str(value)} for name, value in environment.items()]
        content = json.dumps({"serveArgs": ["tiny", "--seed", str(number)], "serveEnv": variables})
        path = self.store.with_name("store.new") if way == "rename" else self.store
        now = time.monotonic()
        path.write_text(content)
        if way == "rename":
            now = time.monotonic()
            path.rename(self.store)
        return now

    def proven(self, number: int) -> dict[str, Any]:
        """Wait until the engine with `number` is Ready."""
        arguments = ["tiny", "--seed", str(number)]
        return self.until("Ready", LIMIT, also=lambda health: health["active"]["arguments"] == arguments)

    def linger(self, longest: float = 0.3) -> None:
        """Wait for a random while, so that no rhythm of ours meets one of the controller's."""
        time.sleep(longest * self.draw.random())

    def helpers(self) -> dict[str, int]:
        """Return the pids of the controller and its guardian by these names."""
        assert self.process is not None
        family = [p.pid for p in procfs.processes() if p.parent == self.process.pid]
        (guardian,) = [pid for pid in family if b"guardian.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return {"controller": self.process.pid, "guardian": guardian}
