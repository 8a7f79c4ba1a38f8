"""pm2-runtime --watch: follows the folder itself."""

from __future__ import annotations

import json
import os

from rivals import tools
from rivals.place import LIMIT
from rivals.supervisor import GRACE, Supervisor, announced


class Pm2(Supervisor):
    """Ready is `online`, which waits for the word of the server: a companion of the server says it."""

    name = "pm2-runtime --watch"
    how = (
        f"`watch` of the folder, `wait_ready`, `kill_timeout` {GRACE} s, SIGTERM; the server cannot say `ready` to "
        "pm2, so that a companion asks `/health` every 100 ms and says it; `watch_delay` stays 0, since it would "
        "delay every restart"
    )
    readiness = "wait_ready; a companion asks /health"
    program = "pm2-runtime"

    @classmethod
    def version(cls) -> str:
        """Read it from the package, since the command starts a daemon."""
        place = os.path.realpath(str(tools.find("pm2-runtime")))
        with open(os.path.join(os.path.dirname(os.path.dirname(place)), "package.json")) as file:
            return str(json.load(file)["version"])

    def begin(self) -> None:
        """Write the ecosystem file and start it."""
        root = self.place.root
        command = announced(self.place, "$NODE_CHANNEL_FD", '"ready"')
        app = {
            "name": "server",
            "script": "/bin/sh",
            "args": ["-c", command],
            "interpreter": "none",
            "cwd": str(root),
            "watch": [str(self.place.data)],
            "wait_ready": True,
            "listen_timeout": 3_600_000,
            "kill_timeout": 1000 * GRACE,
            "max_restarts": 1_000_000,
            "out_file": "/dev/null",
            "error_file": "/dev/null",
        }
        file = root / "ecosystem.config.json"
        file.write_text(json.dumps({"apps": [app]}))
        self.run(
            str(tools.find("pm2-runtime")),
            "start",
            str(file),
            PM2_HOME=str(root / "pm2"),
            PM2_KILL_SIGNAL="SIGTERM",
        )

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Wait for the line that says online."""
        return self.says(lambda line: "App [server:" in line and "] online" in line, since, limit)
