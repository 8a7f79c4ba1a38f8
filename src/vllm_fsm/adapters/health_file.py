"""`health.json`: written atomically when its content changes, touched while it does not.

A reader tells a dead controller from a quiet one: older than 15 s means stuck, a free lock means dead.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from vllm_fsm.adapters.ports import Log

NAME: Final = "health.json"
HEARTBEAT: Final = 5.0
"""Seconds between two touches."""
STALE: Final = 15.0
"""Seconds after which a reader calls the controller stuck."""


class HealthFile:
    """Keeps the file in step with what `content` returns."""

    def __init__(self, directory: Path, content: Callable[[], dict[str, Any]], log: Log) -> None:
        self._path = directory / NAME
        self._content = content
        self._log = log
        self._written = b""
        self._failed = False

    def write(self) -> None:
        """Write the file if its content changed. A failure is logged once, and tried again with the heartbeat."""
        data = json.dumps(self._content(), ensure_ascii=False).encode() + b"\n"
        if data == self._written:
            return
        # No fsync: the file says what is true now, and after a power cut nothing of it is.
        temporary = self._path.with_name(f".{NAME}.tmp")
        try:
            with open(temporary, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
            os.replace(temporary, self._path)
        except OSError as error:
            self._fail(error)
            return
        self._written = data
        self._failed = False

    async def beat(self) -> None:
        """Touch the file every `HEARTBEAT` seconds until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT)
            try:
                os.utime(self._path)
            except OSError as error:
                self._written = b""
                self._fail(error)
            self.write()

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._log("health-file-failed", path=str(self._path), error=error.strerror)
