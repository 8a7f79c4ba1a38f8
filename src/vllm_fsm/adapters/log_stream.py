"""Lines to standard output through a thread: a reader that stands still must not stop the controller."""

from __future__ import annotations

import threading
from queue import Full, Queue
from typing import IO, Final

LIMIT: Final = 10_000
"""Lines that wait for the reader; further ones are lost and counted."""
CLOSE_LIMIT: Final = 1.0
"""Seconds that `close` waits for the reader to take what is left."""


class LogStream:
    """Writes lines in order. A stream that is closed or fails takes no more, and nobody is told: there is no other."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._queue: Queue[str | None] = Queue(LIMIT)
        self._lost = 0
        self._broken = False
        # A daemon: a blocked write must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Write `line` soon; the name is the one by which structlog calls its last logger."""
        if self._broken:
            return
        try:
            self._queue.put_nowait(line)
        except Full:
            self._lost += 1

    def close(self) -> None:
        """Write what is left, for a moment."""
        try:
            self._queue.put(None, timeout=CLOSE_LIMIT)
        except Full:
            return
        self._thread.join(CLOSE_LIMIT)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lost:
                    lost, self._lost = self._lost, 0
                    self._stream.write(f'{{"event": "log-lines-lost", "count": {lost}}}\n')
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                self._broken = True
                return
