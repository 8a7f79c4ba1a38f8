"""Where one supervisor keeps one server: a folder, a port, the store, and what the server notes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rig import ROOT  # noqa: F401 - the tests' support can be imported after it

from rivals.said import Said
from support.rude import SCRIPT, free_port
from vllm_fsm.adapters import procfs

PARTS = Path(__file__).parent / "parts"
LIMIT = 20.0
"""Seconds to wait for anything that takes a few of them at most."""
WAYS = ("rename", "in place")


class Mark(NamedTuple):
    """Something that the server noted, in seconds of CLOCK_MONOTONIC."""

    name: str
    at: float
    words: list[str]

    @property
    def number(self) -> str:
        """What the server runs with: the value of `--seed`."""
        return self.words[self.words.index("--seed") + 1]


class Marks:
    """What the servers note, as it happens: a fifo that a thread reads. An `exec` has the time when it is read."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Writing too, so that there is no end of file between two servers.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._ending, self._end = os.pipe()
        self._said: Said[Mark] = Said()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        while self._ending not in (able := select.select((self._fifo, self._ending), (), ())[0]):
            now = time.monotonic()
            *lines, rest = (rest + os.read(able[0], 1 << 16)).split(b"\n")
            for line in lines:
                name, moment, *words = line.decode().split()
                at = now if moment == "now" else float(moment)
                self._said.add(Mark(name, at, words), at)

    def wait(self, name: str, since: float, number: int | None = None, limit: float = LIMIT) -> Mark:
        """Return the first mark of that name after `since`, with that number if given.

        Raises TimeoutError after `limit` seconds.
        """
        found = self._said.find(
            lambda mark: mark.name == name and (number is None or mark.number == str(number)), since, limit
        )
        if found is None:
            raise TimeoutError(f"no {name} of {'any server' if number is None else number} within {limit:g} s")
        return found[1]

    def latest(self, name: str) -> Mark | None:
        """Return the last mark of that name."""
        return self._said.latest(lambda mark: mark.name == name)

    def close(self) -> None:
        """End the thread and let go of the fifo."""
        os.write(self._end, b".")
        self._thread.join()
        for descriptor in (self._fifo, self._ending, self._end):
            os.close(descriptor)


class Place:
    """One folder for one supervisor; the context ends everything that was started with its environment."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="compare"))
        self.modes = self.root / "modes"
        self.port = free_port()
        self.marks = Marks(self.root / "marks")
        self.mode()
        self.move(self.root / "data")
        self.server = ("/bin/sh", str(PARTS / "server.sh"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VLLM_FSM_")},
            "COMPARE_ROOT": str(self.root),
            "COMPARE_PORT": str(self.port),
            "COMPARE_PYTHON": sys.executable,
            "COMPARE_FAKE": str(SCRIPT),
            "RUDE_STAMPS": str(self.root / "marks"),
        }

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        self.sweep()
        self.marks.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def move(self, data: Path) -> None:
        """Keep the store in that folder, with a first server asked for."""
        data.mkdir(parents=True, exist_ok=True)
        self.data, self.store = data, data / "store.json"
        self.write(0)

    def mode(self, **modes: object) -> None:
        """Say how servers behave that start from now on."""
        given = {"BOOT": "", **modes}
        self.modes.write_text("".join(f"{name}={shlex.quote(str(value))}\n" for name, value in given.items()))

    def write(self, number: int, way: str = "rename") -> float:
        """Ask for a server with that number; return the moment right before the write."""
        content = json.dumps({"serveArgs": ["tiny", "--seed", str(number)]})
        if way == "in place":
            now = time.monotonic()
            self.store.write_text(content)
            return now
        # From outside of the folder, so that nobody who watches it takes the temporary file for a change.
        new = self.root / "store.new"
        new.write_text(content)
        now = time.monotonic()
        new.rename(self.store)
        return now

    def servers(self) -> dict[int, int]:
        """The server's processes, leader and children, that live, each with its parent."""
        fake, port = b"\0" + os.fsencode(SCRIPT) + b"\0serve\0", f"\0--port\0{self.port}\0".encode()
        found = {}
        for process in procfs.processes():
            line = procfs.cmdline(process.pid)
            if not process.gone and fake in line and port in line:
                found[process.pid] = process.parent
        return found

    def tree(self) -> tuple[int, list[int]]:
        """Return the leader of the only server and its other processes."""
        servers = self.servers()
        (leader,) = [pid for pid, parent in servers.items() if parent not in servers]
        return leader, [pid for pid in servers if pid != leader]

    def family(self, *roots: int) -> list[int]:
        """These processes and what descends from them, without the server's."""
        servers, found = set(self.servers()), list(roots)
        everyone = procfs.processes()
        for pid in found:
            found += [p.pid for p in everyone if p.parent == pid and not p.gone and p.pid not in servers]
        return found

    def sweep(self) -> None:
        """End everything that was started here, however far it got from us."""
        mark = os.fsencode(str(self.root))
        until(lambda: not self._kill(mark), LIMIT, "everything is ended")

    def _kill(self, mark: bytes) -> bool:
        hit = False
        for process in procfs.processes():
            if process.gone or process.pid == os.getpid():
                continue
            with contextlib.suppress(OSError):
                given = Path(f"/proc/{process.pid}/environ").read_bytes()
                if b"COMPARE_ROOT=" + mark + b"\0" in given or mark in procfs.cmdline(process.pid):
                    hit = True
                    procfs.send(process, signal.SIGKILL)
        return hit


def until(condition: Callable[[], object], limit: float, what: str) -> None:
    """Wait until `condition` holds; raise TimeoutError after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit:g} s: {what}")
        time.sleep(0.005)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def stranger(port: int) -> Iterator[None]:
    """Hold the port with a server that is nobody's, and healthy."""
    process = subprocess.Popen((sys.executable, "-E", "-S", str(PARTS / "stranger.py"), str(port)))
    try:
        until(lambda: _listens(port), LIMIT, "the stranger listens")
        yield
    finally:
        process.kill()
        process.wait()
