"""runsv: restarts what ends, at most once a second. A helper follows the file."""

from __future__ import annotations

import shlex
import sys
import time

from rivals import tools
from rivals.place import LIMIT, PARTS
from rivals.supervisor import GRACE, Supervisor


class Runit(Supervisor):
    """Ready is what `sv check` says, which runs `./check`."""

    name = "runsv"
    how = (
        "`./check` asks `/health`, run by `sv check`; a helper runs `sv restart` when the file changed; "
        f"stopped by `sv -w {GRACE} force-shutdown`"
    )
    helper = "sv restart"
    readiness = "sv check; ./check asks /health"
    program = "runsv"

    @classmethod
    def version(cls) -> str:
        """Ask Debian: the program does not say."""
        return tools.debian_version("runit")

    def begin(self) -> None:
        """Write the service directory and start it, and the helper."""
        service = self.place.root / "service"
        service.mkdir(exist_ok=True)
        check = shlex.join((sys.executable, "-I", "-S", str(PARTS / "check.py"), str(self.place.port)))
        for name, command in (("run", shlex.join(self.place.server)), ("check", check)):
            (service / name).write_text(f"#!/bin/sh\nexec {command}\n")
            (service / name).chmod(0o755)
        self.service = str(service)
        self.run(str(tools.find("runsv")), self.service)
        self.follow(str(tools.find("sv")), "restart", self.service)

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Ask `sv check` until it says so."""
        end = time.monotonic() + limit
        while (rest := end - time.monotonic()) > 0.0:
            if self.call(str(tools.find("sv")), "-w", str(max(1, int(rest))), "check", self.service, limit=rest) == 0:
                return time.monotonic()
        return None

    def end(self) -> None:
        """Down, by force after the grace, and the supervisor out."""
        self.call(str(tools.find("sv")), "-w", str(GRACE), "force-shutdown", self.service)
