"""s6-supervise: restarts what ends, at most once a second, and hears of readiness. A helper follows the file."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from rivals import tools
from rivals.place import LIMIT, Place
from rivals.said import Said
from rivals.supervisor import GRACE, Supervisor, announced


class Events:
    """What s6-supervise tells its subscribers, as `s6-svwait` hears it: a fifo in the service's `event` directory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        path = folder / f"ftrig1:@{secrets.token_hex(12)}:{secrets.token_hex(3)}"
        os.mkfifo(path)
        self._fifo = os.open(path, os.O_RDWR)
        self.said: Said[bytes] = Said()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while (event := os.read(self._fifo, 1)) != b".":
            self.said.add(event)

    def close(self) -> None:
        """Let go of it."""
        os.write(self._fifo, b".")
        self._thread.join()
        os.close(self._fifo)


class S6(Supervisor):
    """Ready is what the server says on its notification descriptor."""

    name = "s6-supervise"
    how = (
        f"`timeout-kill` {1000 * GRACE}; a server has to write to `notification-fd`, which vLLM does not, so that a "
        "companion asks `/health` every 100 ms and writes, as `s6-notifyoncheck` would; "
        "a helper runs `s6-svc -r` when the file changed"
    )
    helper = "s6-svc -r"
    readiness = "notification-fd; a companion asks /health"
    program = "s6-supervise"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.environment |= tools.libraries()
        self.service = place.root / "service"
        self.events = Events(self.service / "event")

    @classmethod
    def version(cls) -> str:
        """Ask Debian: the program does not say."""
        return tools.debian_version("s6")

    def begin(self) -> None:
        """Write the service directory and start it, and the helper."""
        files = {
            "run": f"#!/bin/sh\n{announced(self.place, '3', '')}\n",
            "notification-fd": "3\n",
            "timeout-kill": f"{1000 * GRACE}\n",
        }
        for name, content in files.items():
            (self.service / name).write_text(content)
        (self.service / "run").chmod(0o755)
        self.run(str(tools.find("s6-supervise")), str(self.service))
        self.follow(str(tools.find("s6-svc")), "-r", str(self.service))

    def ready(self, since: float, limit: float = LIMIT) -> float | None:
        """Wait for the event `U`."""
        event = self.events.said.find(lambda event: event == b"U", since, limit)
        return event[0] if event else None

    def end(self) -> None:
        """Down, and the supervisor out."""
        self.call(str(tools.find("s6-svc")), "-dx", str(self.service))

    def close(self) -> None:
        """End the subscription too."""
        super().close()
        self.events.close()
