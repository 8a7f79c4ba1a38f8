"""Whether there is memory to spare for something that only waits: of the machine, and of the cgroups above us."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

LEAST: Final = 4 << 30
"""Bytes that must stay free."""
SHARE: Final = 10
"""One part in so many must stay free."""
MARGIN: Final = 1.25
"""What is about to be used counts so often, so that what was thrown away for want of memory is not made at once."""
FIRST_COST: Final = 2 << 30
"""Bytes that a warm parent with all its children is taken for until one was measured; the CPU build's has 1.4 GB."""


class Room(NamedTuple):
    """Bytes of one place that has an end."""

    free: int
    total: int

    def keeps(self, cost: float = 0.0) -> bool:
        """Whether enough stays free when `cost` more is used."""
        return self.free - cost >= max(LEAST, self.total // SHARE)


def rooms(
    *,
    active_files: bool = False,
    meminfo: str = "/proc/meminfo",
    proc: str = "/proc/self/cgroup",
    root: str = "/sys/fs/cgroup",
) -> list[Room]:
    """Return the machine's memory, and that of each cgroup from ours to the root that has a limit and can be read.

    In a cgroup, pages of files that were used once count as free; with `active_files` those that were used more often
    too, as they do for the machine in part.
    """
    kinds = ("inactive_file", "active_file")[: 1 + active_files]
    found = [_machine(_read(meminfo))]
    for line in _read(proc).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found += [_group(folder, "memory.max", "memory.current", kinds) for folder in _chain(root, group)]
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            totals = [f"total_{kind}" for kind in kinds]
            found += [_group(folder, *names, totals) for folder in _chain(f"{root}/memory", group)]
    return [room for room in found if room is not None]


def enough(cost: float = 0.0, places: Iterable[Room] | None = None) -> bool:
    """Whether `cost` bytes may be used everywhere; False where the machine's memory cannot be known."""
    known = list(rooms() if places is None else places)
    return bool(known) and all(room.keeps(cost) for room in known)


def _chain(root: str, group: str) -> Iterable[str]:
    """The folders from our own group up; in a container its path may be that of the machine, and only `root` exists."""
    parts = [part for part in group.split("/") if part]
    return [f"{root}/{'/'.join(parts[:length])}".rstrip("/") for length in range(len(parts), -1, -1)]


def _machine(text: str) -> Room | None:
    numbers = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        return Room(*(1024 * int(numbers[name].split()[0]) for name in ("MemAvailable", "MemTotal")))
    except (KeyError, ValueError, IndexError):
        return None


def _group(folder: str, limit: str, usage: str, caches: Iterable[str]) -> Room | None:
    """What a group may use still; its `caches` count as free."""
    stat = dict(line.split(" ", 1) for line in _read(f"{folder}/memory.stat").splitlines() if " " in line)
    try:
        total = int(_read(f"{folder}/{limit}"))
        used = int(_read(f"{folder}/{usage}")) - sum(int(stat.get(cache, 0)) for cache in caches)
    except ValueError:  # "max", or no such file
        return None
    return Room(total - used, total)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
