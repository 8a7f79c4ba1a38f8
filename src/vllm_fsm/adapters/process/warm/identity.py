"""What a warm parent must have in common with a plain start, down to the last variable: read at import, or inherited.

Everything here is taken anew for each start. One difference, and the parent is of no use.
"""

from __future__ import annotations

import glob
import os
import resource
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from vllm_fsm import engine_version
from vllm_fsm.adapters.process.warm import parent

Stamp = tuple[str, int, int, int]
"""Path, inode, bytes, and time of the last change in nanoseconds."""
DEVICES: Final = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dri/render*")
PACKAGE: Final = ("__init__.py", "_version.py", "entrypoints/cli/main.py", "entrypoints/cli/serve.py")
"""Files of vLLM that are looked at beside its metadata: who edits an installation, edits or replaces these in time."""


class Identity(NamedTuple):
    """All that is compared."""

    interpreter: tuple[str, ...]
    script: str
    version: str
    files: tuple[Stamp, ...]
    """Of the interpreter, the script, vLLM's metadata and package, and the directory that packages are installed in."""
    environment: Mapping[str, str]
    """Without what is given at the start only."""
    directory: tuple[str, int]
    limits: tuple[tuple[int, int], ...]
    umask: int
    devices: tuple[str, ...]
    """The GPUs' files: the platform is chosen at import."""
    cpus: tuple[int, ...]
    """Those that may be used: libraries count them when they are loaded."""

    def difference(self, other: Identity) -> str:
        """Name what differs, with the names of variables but never their values; empty when nothing does."""
        ours, theirs = self._asdict(), other._asdict()
        found = [name for name in ours if ours[name] != theirs[name]]
        if "environment" in found:
            names = {*self.environment, *other.environment}
            changed = sorted(name for name in names if self.environment.get(name) != other.environment.get(name))
            found[found.index("environment")] = f"environment ({', '.join(changed)})"
        return ", ".join(found)


def of(command: Sequence[str], environment: Mapping[str, str]) -> Identity | None:
    """Return the identity of a start of `command` with `environment` now; None where vLLM's interpreter is unknown."""
    found = engine_version.installed(command) if len(command) == 1 else None
    if found is None or not _runs(found, command[0], environment):
        return None
    packages = os.path.dirname(found.metadata)
    package = os.path.join(packages, "vllm")
    paths = [os.path.realpath(found.interpreter[0]), found.script, packages, found.metadata]
    paths += [os.path.join(found.metadata, "RECORD"), package, *(os.path.join(package, name) for name in PACKAGE)]
    kept = {name: value for name, value in environment.items() if name not in parent.VOLATILE}
    return Identity(
        found.interpreter,
        found.script,
        found.version,
        tuple(_stamp(path) for path in paths),
        kept,
        _directory(),
        tuple(resource.getrlimit(number) for number in parent.limits()),
        parent.umask(),
        tuple(sorted(path for pattern in DEVICES for path in glob.iglob(pattern))),
        tuple(sorted(os.sched_getaffinity(0))),
    )


def _runs(found: engine_version.Installed, command: str, environment: Mapping[str, str]) -> bool:
    """Whether a plain start executes this script, and the kernel this interpreter for it with at most one option.

    A start looks along the engine's PATH. Through `env` or a shell another name would be shown for the process.
    """
    if "/" not in command and environment.get("PATH") != os.environ.get("PATH"):
        return False
    try:
        with open(found.script, "rb") as file:
            first = file.readline(engine_version.FIRST)
    except OSError:
        return False
    words = first[2:].split(None, 1)
    options = [os.fsdecode(word).strip() for word in words]
    return first.startswith(b"#!") and tuple(options) == found.interpreter


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, found.st_ino, found.st_size, found.st_mtime_ns


def _directory() -> tuple[str, int]:
    try:
        path = os.getcwd()
        return path, os.stat(path).st_ino
    except OSError:
        return "", 0
