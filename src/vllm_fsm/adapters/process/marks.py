"""Durable marks: what proves, after our own end, that a process belongs to an engine that we started.

A mark is one line of text, the same in its file and on the guardian's pipe. It is written before the engine can be
executed, so a file that was cut short by our end stands for an engine that never was. Light, see `procfs`.
"""

import os

from vllm_fsm.adapters import procfs
from vllm_fsm.files import own

PREFIX, SUFFIX = "engine-", ".mark"
LONGEST = 1 << 16
"""Bytes of a mark."""


class Mark:
    """One engine start: the identity of its session's leader, and what its processes carry."""

    __slots__ = ("boot", "namespace", "pipe", "session", "since", "start", "tmpdir")

    def __init__(self, *, boot: str, namespace: int, session: int, start: int, pipe: int, tmpdir: str) -> None:
        self.boot = boot
        self.namespace = namespace
        self.session = session
        """The number of the session, which is the pid of its leader."""
        self.start = start
        """Start time of the leader, in clock ticks since boot."""
        self.since = procfs.wall_time(start)
        """The same by the wall clock, as it was set when the mark was made or read."""
        self.pipe = pipe
        """Inode of the pipe that is standard output and error of the engine."""
        self.tmpdir = tmpdir
        """The private directory that no other process has as its TMPDIR."""

    @classmethod
    def of_child(cls, pid: int, *, pipe: int, tmpdir: str) -> "Mark":
        """Describe our child `pid`, which leads a session. Raises ProcessLookupError when it is gone."""
        process = procfs.read(pid)
        if process is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(
            boot=procfs.boot_id(),
            namespace=procfs.pid_namespace(),
            session=pid,
            start=process.start,
            pipe=pipe,
            tmpdir=tmpdir,
        )

    def line(self) -> str:
        """Return the text form, without a newline. The directory comes last: it may hold blanks."""
        return f"{self.boot} {self.namespace} {self.session} {self.start} {self.pipe} {self.tmpdir}"

    @classmethod
    def parse(cls, line: str) -> "Mark":
        """Read the text form. Raises ValueError."""
        boot, namespace, session, start, pipe, tmpdir = line.split(" ", 5)
        return cls(
            boot=boot,
            namespace=int(namespace),
            session=int(session),
            start=int(start),
            pipe=int(pipe),
            tmpdir=tmpdir,
        )

    @property
    def current(self) -> bool:
        """True if the recorded numbers can still mean something: same boot, same PID namespace."""
        return self.boot == procfs.boot_id() and self.namespace == procfs.pid_namespace()

    @property
    def file(self) -> str:
        """The name of this mark's file."""
        return f"{PREFIX}{self.session}-{self.start}{SUFFIX}"


def write(mark: Mark, directory: str) -> None:
    """Record `mark` in `directory`. Not synced: the processes do not outlive the kernel either. Raises OSError."""
    descriptor = own.open_anew(os.path.join(directory, mark.file), 0o644)
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{mark.line()}\n")


def remove(mark: Mark, directory: str) -> OSError | None:
    """Take the record back; return why that is impossible. It does no harm to leave it: it proves its own age."""
    try:
        os.unlink(os.path.join(directory, mark.file))
    except FileNotFoundError:
        pass
    except OSError as error:
        return error
    return None


def read_all(directory: str) -> list[Mark]:
    """Return the marks of `directory` and remove the files that were cut short. Raises OSError."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if not (name.startswith(PREFIX) and name.endswith(SUFFIX)):
            continue
        path = os.path.join(directory, name)
        try:
            line = own.read(path, LONGEST).decode("utf-8", "surrogateescape")
        except OSError:
            continue  # whatever it is, it is no mark of ours, and hides no other
        try:
            if not line.endswith("\n"):
                raise ValueError("cut short")
            found.append(Mark.parse(line[:-1]))
        except ValueError:
            os.unlink(path)
    return found
