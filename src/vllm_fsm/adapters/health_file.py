"""`health.json`: written atomically when its content changes, touched while it does not.

A reader tells a dead controller from a quiet one: older than 15 s means stuck, a free lock means dead.
"""

from __future__ import annotations

import json
import os

from vllm_fsm.files import own

TYPE_CHECKING = False  # `vllm-fsm health` reads the names here, and importing `typing` would take a fifth of its time
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from vllm_fsm.adapters.ports import Log

NAME = "health.json"
HEARTBEAT = 5.0
"""Seconds between two touches."""
STALE = 15.0
"""Seconds after which a reader calls the controller stuck."""


class HealthFile:
    """Keeps the file in step with what `content` returns."""

    def __init__(self, directory: Path, content: Callable[[], dict[str, Any]], log: Log) -> None:
        self._path = directory / NAME
        self._temporary = directory / f".{NAME}.tmp"
        self._content = content
        self._log = log
        self._written = b""
        self._failed = False

    def write(self) -> None:
        """Write the file if its content changed. A failure is logged once and tried again with the heartbeat.

        What cannot be brought up to date is removed: no `success` outlives its truth, on a full disk either.
        """
        data = json.dumps(self._content(), ensure_ascii=False).encode() + b"\n"
        if data == self._written:
            return
        # No fsync: the file says what is true now, and after a power cut nothing of it is.
        try:
            with open(own.open_anew(self._temporary, 0o644), "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(data)
            os.replace(self._temporary, self._path)
        except OSError as error:
            self.remove()
            self._fail(error)
            return
        self._written = data
        self._failed = False

    def beat(self) -> None:
        """Write what changed, touch what did not; to be called every `HEARTBEAT` seconds."""
        self.write()
        if not self._failed:
            try:
                os.utime(self._path)
            except OSError as error:
                self._written = b""
                self._fail(error)
                self.write()

    def remove(self) -> None:
        """Say nothing any more."""
        self._written = b""
        for path in (self._path, self._temporary):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                continue

    def _fail(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._log("health-file-failed", path=str(self._path), error=error.strerror)
