"""What `/proc` says about processes, and a way to signal one of them without hitting its successor.

Stateless, Linux only, and light: the guardian imports it, so nothing here imports more than `os`, `signal` and `time`.
"""

import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 20
"""Listings of all processes, at most; more than two or three are only needed where somebody forks all the time."""
ESTABLISHED = b"01"
"""The state of a connection in `/proc/net/tcp`."""
LOOPBACK_6 = b"00000000000000000000000001000000"
"""`::1`, as that file has it."""
MAPPED = b"0000000000000000FFFF0000"
"""How an IPv4 address begins that is shown as one of IPv6."""


class Process:
    """One process as `/proc/PID/stat` showed it; `pid` and `start` together are unique during a boot."""

    __slots__ = ("name", "parent", "pid", "session", "start", "state", "threads", "ticks")

    def __init__(
        self, pid: int, name: str, state: str, parent: int, session: int, threads: int, start: int, ticks: int = 0
    ) -> None:
        self.pid = pid
        self.name = name
        self.state = state
        """The letter of proc(5): R, S, D, Z, T, t, X, I."""
        self.parent = parent
        self.session = session
        self.threads = threads
        self.start = start
        """Clock ticks since boot."""
        self.ticks = ticks
        """Clock ticks of CPU time, with those of its children that it has reaped."""

    @property
    def gone(self) -> bool:
        """True for a process that only waits to be reaped.

        A leader thread that ended before its siblings is shown as Z as well; such a process still runs.
        """
        return self.state in "ZX" and self.threads <= 1

    def __repr__(self) -> str:
        return f"{self.name}[{self.pid}] {self.state}"


def parse_stat(stat: bytes) -> Process:
    """Read one line of `/proc/PID/stat`; the name may hold blanks and parentheses. Raises ValueError."""
    head, opened, rest = stat.partition(b"(")
    name, closed, tail = rest.rpartition(b")")
    fields = tail.split()
    if not opened or not closed or len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat")
    # Fields are numbered in proc(5) from 1; the one after the name is number 3.
    return Process(
        pid=int(head),
        name=name.decode("utf-8", "backslashreplace"),
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start=int(fields[19]),
        ticks=sum(map(int, fields[11:15])),
    )


def _content(path: str) -> bytes | None:
    """Read a file of `/proc` whole; None when the process ended or may not be looked at."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read(pid: int) -> Process | None:
    """Return the process with this number, None if there is none."""
    stat = _content(f"/proc/{pid}/stat")
    return parse_stat(stat) if stat else None


def processes() -> list[Process]:
    """Return every process of our PID namespace that lives while it is looked at.

    What came while others were read is read too, until there is nothing new. So a family does not slip through by
    forking and ending in between, as far as so many looks can see.
    """
    found: list[Process] = []
    seen: set[str] = set()
    for _ in range(ROUNDS):
        new = [entry for entry in os.listdir("/proc") if entry.isdigit() and entry not in seen]
        if not new:
            break
        seen.update(new)
        found += [process for entry in new if (process := read(int(entry))) is not None]
    return found


def boot_id() -> str:
    """Return the random name of this boot of the kernel."""
    return (_content("/proc/sys/kernel/random/boot_id") or b"").decode("ascii").strip()


def pid_namespace() -> int:
    """Return the inode of our PID namespace: process numbers mean something inside it only."""
    return os.stat("/proc/self/ns/pid").st_ino


def wall_time(ticks: int) -> float:
    """Return the wall clock's time, in seconds, of a start time in ticks since boot, if the clock was not set since."""
    ago = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - ago


def writes_to(pid: int, pipe: int) -> bool:
    """Tell whether standard output or error of process `pid` is the pipe with inode `pipe`."""
    for descriptor in (1, 2):
        try:
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") == f"pipe:[{pipe}]":
                return True
        except OSError:
            continue
    return False


def was_given(pid: int, assignment: bytes) -> bool:
    """Tell whether `NAME=value` stands in the environment that process `pid` shows."""
    environment = _content(f"/proc/{pid}/environ")
    return environment is not None and assignment in environment.split(b"\0")


def transferred(pid: int) -> int:
    """Return the bytes that process `pid` read and wrote, by calls and from disks; 0 when that may not be known."""
    lines = (_content(f"/proc/{pid}/io") or b"").splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith((b"rchar", b"wchar", b"read_", b"write_")))


def connected(pids: list[int]) -> bool:
    """Tell whether one of these processes has a TCP connection to another machine."""
    remote = {
        fields[9]
        for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6")
        for line in (_content(path) or b"").splitlines()[1:]
        if (fields := line.split())[3] == ESTABLISHED and _remote(fields[1], fields[2])
    }
    return bool(remote) and any(
        (link := _link(f"/proc/{pid}/fd/{name}")).startswith("socket:[") and link[8:-1].encode() in remote
        for pid in pids
        for name in _entries(f"/proc/{pid}/fd")
    )


def _remote(here: bytes, there: bytes) -> bool:
    """Whether two ends as `/proc/net/tcp` shows them, `ADDRESS:PORT` in hexadecimal, are of two machines."""
    local, other = here.partition(b":")[0], there.partition(b":")[0]
    of_ip_4 = len(other) == 8 or other.startswith(MAPPED)
    return local != other and other != LOOPBACK_6 and not (of_ip_4 and other.endswith(b"7F"))


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def received() -> int:
    """Return the bytes that came into our network namespace from outside of it."""
    total = 0
    for line in (_content("/proc/self/net/dev") or b"").splitlines():
        name, colon, counters = line.partition(b":")
        if colon and name.strip() != b"lo":
            total += int(counters.split()[0])
    return total


def cmdline(pid: int) -> bytes:
    """Return the arguments that process `pid` shows, each ended by a NUL; empty when there is no such process."""
    return _content(f"/proc/{pid}/cmdline") or b""


def environ(pid: int) -> bytes:
    """Return the variables that process `pid` shows, each ended by a NUL; empty when it may not be looked at."""
    return _content(f"/proc/{pid}/environ") or b""


def maps(pid: int) -> "Iterator[bytes]":
    """Yield the lines of `/proc/PID/maps`, none when the process ended or may not be looked at.

    One by one: an engine has thousands, and what is taken for a moment for all of them stays with the thread.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            yield from file
    except OSError:
        return


def memory(pid: int) -> int:
    """Return the bytes of memory of process `pid`, pages that several share in equal parts; 0 when it is not told."""
    for line in (_content(f"/proc/{pid}/smaps_rollup") or b"").split(b"\n"):
        if line.startswith(b"Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that process `pid` took so far, 0 when it ended."""
    stat = _content(f"/proc/{pid}/stat")
    if not stat:
        return 0.0
    fields = stat.rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def send(process: Process, number: int) -> bool:
    """Signal exactly this process; False if it has ended meanwhile, whoever has its number now.

    The descriptor is opened first and the start time compared afterwards: a match proves that the descriptor is the
    process that was seen. Raises PermissionError.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except OSError:  # Linux before 5.3, a strict container, no descriptor left: nearly as good
        return _send_by_number(process, number)
    try:
        if not _same(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _send_by_number(process: Process, number: int) -> bool:
    try:
        if _same(process):
            os.kill(process.pid, number)
            return True
    except ProcessLookupError:
        pass
    return False


def _same(process: Process) -> bool:
    current = read(process.pid)
    return current is not None and current.start == process.start
