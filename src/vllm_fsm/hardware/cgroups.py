"""Which memory limits lie above a process: where their files are, and what stands in them. Version 1 and 2, and both.

A container sees the chain up to the root of its namespace or mount. What lies above cannot be seen with version 2; with
version 1, `memory.stat` tells the smallest limit of the whole chain all the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT: Final = {1: "memory.limit_in_bytes", 2: "memory.max"}
STAT: Final = "memory.stat"
"""Version 1 only; of it, the line `hierarchical_memory_limit`."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def files(cgroup: str, mountinfo: str) -> list[str]:
    """Return the files that may hold a limit, from our own group up to the mounted root.

    `cgroup` and `mountinfo` are `/proc/self/cgroup` (cgroups(7)) and `/proc/self/mountinfo` (proc(5)). Not every file
    exists: the root of version 2 has none, and a hybrid system keeps memory in one of the two hierarchies.
    """
    ours = dict(_memberships(cgroup))
    found = []
    for version, root, point in _mounts(mountinfo):
        if version not in ours:
            continue
        for directory in _chain(ours[version], root, point):
            found.append(f"{directory}/{LIMIT[version]}")
            if version == 1:
                found.append(f"{directory}/{STAT}")
    return list(dict.fromkeys(found))


def relevant(file: str, text: str) -> str:
    """Return the part of a limit file's content that says the limit; empty when it says none."""
    if not file.endswith(STAT):
        return text.strip()
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "hierarchical_memory_limit":
            return value.strip()
    return ""


def limit(text: str) -> int | None:
    """Return the bytes of one limit, None for no limit and for what is none.

    Version 1 writes the largest multiple of a page for "unlimited"; that is a number larger than any memory, and needs
    no rule of its own.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _memberships(cgroup: str) -> Iterator[tuple[int, str]]:
    """Yield version and path of our group in each hierarchy that may limit memory: `ID:CONTROLLERS:PATH`."""
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "memory" in controllers.split(","):
            yield 1, path


def _mounts(mountinfo: str) -> Iterator[tuple[int, str, str]]:
    """Yield version, root and mount point of each hierarchy that may limit memory."""
    for line in mountinfo.splitlines():
        mount, dash, source = line.partition(" - ")
        before, after = mount.split(), source.split()
        if not dash or len(before) < 5 or len(after) < 3:
            continue
        root, point = _unescaped(before[3]), _unescaped(before[4])
        if after[0] == "cgroup2":
            yield 2, root, point
        elif after[0] == "cgroup" and "memory" in after[2].split(","):
            yield 1, root, point


def _unescaped(path: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path)


def _chain(path: str, root: str, point: str) -> Iterator[str]:
    """Yield our group's directory below the mount point, and each directory above it up to the mount point.

    A mount shows the hierarchy from `root` on. A path outside of it, as `/../x` out of a namespace or the host's path
    in a container, leaves what the mount point itself shows.
    """
    parts = [part for part in path.split("/") if part]
    above = [part for part in root.split("/") if part]
    inside = parts[: len(above)] == above and ".." not in parts
    below = parts[len(above) :] if inside else []
    for depth in range(len(below), -1, -1):
        yield "/".join([point.rstrip("/"), *below[:depth]])
