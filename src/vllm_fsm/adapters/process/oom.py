"""How many processes of our own cgroup the kernel ended for want of memory."""

from __future__ import annotations

from typing import Final

PROC: Final = "/proc/self/cgroup"
ROOT: Final = "/sys/fs/cgroup"
COUNTER: Final = "oom_kill"
"""Version 2 has it in `memory.events`, with the groups below ours; version 1 in `memory.oom_control` (Linux 4.13)."""


def kills(*, proc: str = PROC, root: str = ROOT) -> int | None:
    """Return the counter, None where there is none that can be read.

    In a container the group's path may be that of the machine, while its files are mounted at the root.
    """
    for path in _files(_read(proc) or "", root):
        text = _read(path)
        if text is not None and (count := _count(text)) is not None:
            return count
    return None


def _files(groups: str, root: str) -> list[str]:
    """Return where the counter may stand, the nearest place first, from the lines of cgroups(7)."""
    found = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if "memory" in controllers.split(","):
            found += [f"{root}/memory{group.rstrip('/')}/memory.oom_control", f"{root}/memory/memory.oom_control"]
        elif not controllers and group:
            found += [f"{root}{group.rstrip('/')}/memory.events", f"{root}/memory.events"]
    return found


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return None


def _count(text: str) -> int | None:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == COUNTER and value.isascii() and value.isdigit():
            return int(value)
    return None
