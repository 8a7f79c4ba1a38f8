"""What every supervisor can be asked; a module for each says how it does it."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from rivals.place import LIMIT, PARTS, Place, stranger
from rivals.said import Said

GRACE = 5
"""Seconds between asking a server to end and SIGKILL, wherever that can be set."""


class Supervisor(ABC):
    """One supervisor in one place. What it cannot do by itself is said in words; `helper` does what is customary."""

    name = ""
    how = ""
    """The configuration in one sentence, for the page."""
    helper = ""
    """What follows the file, if the supervisor itself does not."""
    restarts = True
    """Whether it starts a crashed server again."""
    readiness = ""
    """By what it calls a server ready; empty if it does not."""
    alone = False
    """Whether it cannot bear that others are measured beside it."""
    contained = ""
    """Why killing it says nothing of orphans; empty if it does."""
    program = ""
    """What must be there, as `tools.install` names it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.environment = dict(place.environment)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.lines: Said[str] = Said()
        """What the supervisor prints."""

    # --- to be said by each ----------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return its version."""

    @abstractmethod
    def begin(self) -> None:
        """Start it."""

    @abstractmethod
    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Return when it called a server ready that began after `since`; None after `limit` seconds."""

    @contextlib.contextmanager
    def stranger(self) -> Iterator[None]:
        """Have a healthy stranger hold the port of the server."""
        with stranger(self.place.port):
            yield

    def end(self) -> None:
        """Ask it in its own way to end the server, and itself where it does that; need not wait."""
        self.main.terminate()

    def excused(self, since: float) -> bool:
        """Whether something that is not its own failed after `since`, so that what happened says nothing of it."""
        return False

    # --- what is the same for all ----------------------------------------------------------------------------------

    @property
    def main(self) -> subprocess.Popen[bytes]:
        """The supervisor's process."""
        return self.processes[0]

    def run(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that belongs to it; the first one is the supervisor."""
        process = subprocess.Popen(
            command,
            cwd=self.place.root,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        # A helper's pipe is emptied too, or it would stand still.
        lines = Said[str]() if self.processes else self.lines
        threading.Thread(target=_relay, args=(process, lines), daemon=True).start()
        self.processes.append(process)
        return process

    def says(self, matches: Callable[[str], bool], since: float, limit: float) -> float | None:
        """Return when it printed a matching line after `since`; None after `limit` seconds."""
        line = self.lines.find(matches, since, limit)
        return line[0] if line else None

    def call(self, *command: str, limit: float = LIMIT) -> int:
        """Run a command of its own to its end; return its status, 124 if it does not end in time."""
        try:
            return subprocess.run(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=limit,
            ).returncode
        except subprocess.TimeoutExpired:
            return 124

    def follow(self, *command: str) -> None:
        """Start the customary helper: it runs `command` whenever the store changed."""
        self.run(sys.executable, str(PARTS / "follow.py"), str(self.place.data), "store.json", *command)

    def start(self) -> None:
        """Start it, and wait until its server listens."""
        since = time.monotonic()
        self.begin()
        self.place.marks.wait("listen", since)

    def own(self) -> list[int]:
        """The processes that are its own, a helper among them, but not the server."""
        return self.place.family(*(process.pid for process in self.processes))

    def helpers(self) -> list[int]:
        """Those of the helper."""
        return self.place.family(*(process.pid for process in self.processes[1:]))

    def close(self) -> None:
        """End everything, the server included, by force."""
        self.place.sweep()
        for process in self.processes:
            process.wait()
        self.processes.clear()


def _relay(process: subprocess.Popen[bytes], lines: Said[str]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.add(line.decode(errors="replace").rstrip())


def announced(place: Place, descriptor: str, text: str) -> str:
    """Return a shell command that becomes the server, beside a companion that writes `text` when it is healthy.

    The companion is nobody's child, so that it is not waited for as a part of the server.
    """
    companion = shlex.join((sys.executable, "-E", "-S", str(PARTS / "announce.py")))
    said = f"{companion} {descriptor} {shlex.quote(text)} {place.port} $$"
    return f"({said} &); exec {shlex.join(place.server)}"


def kill(pid: int) -> float:
    """SIGKILL a process; return the moment right before."""
    now = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return now


def gone(pid: int, limit: float) -> float | None:
    """Return when a process ended, None if it did not within `limit` seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return time.monotonic()
    try:
        return time.monotonic() if select.select((descriptor,), (), (), limit)[0] else None
    finally:
        os.close(descriptor)
