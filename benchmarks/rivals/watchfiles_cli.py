"""The `watchfiles` command line: follows the folder, and does nothing else."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rivals import tools
from rivals.place import LIMIT
from rivals.supervisor import GRACE, Supervisor


class Watchfiles(Supervisor):
    """It neither restarts a crashed server nor says anything of readiness."""

    name = "watchfiles"
    how = f"`watchfiles --sigint-timeout {GRACE}` on the folder; it asks with SIGINT instead of SIGTERM"
    restarts = False
    program = "watchfiles"

    @classmethod
    def version(cls) -> str:
        """Ask the program."""
        return tools.version(_program(), "--version")

    def begin(self) -> None:
        """Start it."""
        command = (_program(), "--target-type", "command", "--sigint-timeout", str(GRACE))
        self.run(*command, shlex.join(self.place.server), str(self.place.data))

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """It says nothing of the kind."""
        return None


def _program() -> str:
    """Return the command that came with the library, beside the interpreter."""
    beside = Path(sys.executable).with_name("watchfiles")
    return str(beside) if beside.exists() else str(tools.find("watchfiles"))
