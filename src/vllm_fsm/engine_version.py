"""Which version of vLLM an engine command starts, without starting or importing it.

A console script names its interpreter in the first line; beside that interpreter's packages lies a folder
`vllm-<version>.dist-info`. Reading its name takes a millisecond, where `vllm --version` takes ten seconds.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

FIRST: Final = 1024
"""Bytes of the script that are read."""

_DIST_INFO = re.compile(r"vllm-([^-/]+)\.dist-info")
_PYTHON = re.compile(r"python(\d(?:\.\d+)?)?")
_LIBRARIES: Final = ("lib", "lib64")
_PACKAGES: Final = ("site-packages", "dist-packages")


class Installed(NamedTuple):
    """The vLLM that a command starts."""

    script: str
    """The console script, or the interpreter itself where the command names one."""
    interpreter: tuple[str, ...]
    """The Python that runs the script, with its options."""
    metadata: str
    """The folder `vllm-<version>.dist-info` among its packages."""

    @property
    def version(self) -> str:
        """As the metadata writes it: `0.32.0`, `0.32.0+cpu`."""
        match = _DIST_INFO.fullmatch(os.path.basename(self.metadata))
        assert match is not None
        return match[1]


def installed(command: Sequence[str]) -> Installed | None:
    """Return the vLLM that `command` starts.

    None where that cannot be known: no such command, a wrapper in another language, or several versions beside one
    another. Never raises.
    """
    script = shutil.which(command[0]) if command else None
    if script is None:
        return None
    interpreter = _interpreter(script)
    if interpreter is None:
        return None
    for python in dict.fromkeys((interpreter[0], os.path.realpath(interpreter[0]))):
        found = {os.path.basename(path): path for path in _folders(python, script)}
        found = {name: path for name, path in found.items() if _DIST_INFO.fullmatch(name)}
        if found:
            return Installed(script, interpreter, *found.values()) if len(found) == 1 else None
    return None


def version(command: Sequence[str]) -> str | None:
    """Return the version of the vLLM that `command` starts, None where `installed` knows none."""
    found = installed(command)
    return found.version if found else None


def _interpreter(script: str) -> tuple[str, ...] | None:
    """Return the path of the Python that runs `script`, which may be one itself, and its options."""
    if _PYTHON.fullmatch(os.path.basename(script)):
        return (script,)
    try:
        with open(script, "rb") as file:
            head = file.read(FIRST).decode()
        first, _, rest = head.partition("\n")
        if not first.startswith("#!"):
            return None
        words = shlex.split(first[2:])
        if words[:1] == ["/bin/sh"] and rest.startswith("'''exec'"):
            # How pip writes an interpreter whose path is too long for the kernel or has blanks.
            words = shlex.split(rest.partition("\n")[0])[1:2]
        elif words and os.path.basename(words[0]) == "env":
            words = [found for word in words[1:] if not word.startswith("-") and (found := shutil.which(word))]
    except (OSError, ValueError):
        return None
    return tuple(words) if words and _PYTHON.fullmatch(os.path.basename(words[0])) else None


def _folders(python: str, script: str) -> Iterator[str]:
    """Yield vLLM's metadata folders among the packages of `python`, which runs `script`."""
    named = _PYTHON.fullmatch(os.path.basename(python))
    versioned = f"python{named[1]}" if named and named[1] and "." in named[1] else "python3*"
    # A script of the system's Python may come with packages of its own prefix: /usr/local/bin beside /usr/bin.
    prefixes = dict.fromkeys(os.path.dirname(os.path.dirname(os.path.abspath(path))) for path in (python, script))
    for prefix in prefixes:
        for library in _LIBRARIES:
            for packages in _PACKAGES:
                pattern = os.path.join(glob.escape(prefix), library, versioned, packages, "vllm-*.dist-info")
                yield from glob.iglob(pattern)
