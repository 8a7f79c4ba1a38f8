"""The engine's TMPDIR: a private directory for each attempt, with a name that no other attempt ever has.

vLLM leaves sockets there. A Unix socket's path has 107 bytes, of which vLLM takes a blank-free name of 36 characters.
"""

import os
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path

FOLDER = "t"
LONGEST = 107 - len("/") - 36
"""Bytes of a TMPDIR in which vLLM can make its sockets."""
ELSEWHERE, PREFIX = "/tmp", "vllm-fsm-"  # noqa: S108 - mkdtemp makes it private
"""Where and how the directory is made when the path of the run directory is too long."""


class Scratch:
    """Makes and removes the directories; they live in `run_dir` if its path is short enough."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = os.path.join(os.path.abspath(run_dir), FOLDER)

    def make(self, epoch: int) -> str:
        """Return the path of a new directory with mode 0700. Raises OSError."""
        self._drop_link()
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = tempfile.mkdtemp(prefix=f"{epoch}-", dir=self._folder)
        if len(os.fsencode(path)) <= LONGEST:
            return path
        os.rmdir(path)
        return tempfile.mkdtemp(prefix=PREFIX, dir=ELSEWHERE)

    def remove(self, path: str) -> None:
        """Remove one of these directories with all that is in it; anything else is left alone."""
        parent, name = os.path.split(path)
        if parent == self._folder or (parent == ELSEWHERE and name.startswith(PREFIX)):
            shutil.rmtree(path, ignore_errors=True)

    def _drop_link(self) -> None:
        """A link in the folder's place was not made by us: nothing behind it is made or removed."""
        if os.path.islink(self._folder):
            os.unlink(self._folder)

    def remove_all(self, keep: Container[str] = ()) -> None:
        """Remove what earlier attempts left in the run directory, but the paths in `keep`: somebody lives there."""
        self._drop_link()
        try:
            paths = [os.path.join(self._folder, name) for name in os.listdir(self._folder)]
        except OSError:
            return
        for path in paths:
            if path not in keep:
                shutil.rmtree(path, ignore_errors=True)
        try:
            os.rmdir(self._folder)
        except OSError:  # not empty
            pass
