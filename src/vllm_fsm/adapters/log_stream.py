"""Lines to standard output through a thread: a reader that stands still must not stop the controller."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from typing import Final

LIMIT: Final = 4 * 1024 * 1024
"""Bytes that wait for the reader; the lines that come then are lost and counted."""
PIECE: Final = 32 * 1024
"""Bytes of many lines that are written at once. The thread keeps the memory of the largest for good, and a pipe does
not take much more."""
CLOSE_LIMIT: Final = 1.0
"""Seconds that `close` waits for the reader to take what is left."""
PAUSE: Final = 0.05
"""Seconds until the next try after the stream took nothing (a full disk, a pipe that somebody made non-blocking)."""
GONE: Final = (errno.EPIPE, errno.EBADF)


class LogStream:
    """Writes lines to a descriptor, in order. When nobody reads any more it takes no more; there is nobody to tell."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self.lost = 0
        """Lines that were lost and not yet told of."""
        self._gone = self._closing = False
        self._change = threading.Condition()
        # A daemon: a blocked write must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def msg(self, line: str) -> None:
        """Write `line` soon; the name is the one by which structlog calls its last logger."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._change:
            if self._gone:
                return
            if self._waiting + len(data) > LIMIT:
                self.lost += 1
                return
            self._lines.append(data)
            self._waiting += len(data)
            self._change.notify()

    def close(self) -> None:
        """Write what is left, for a moment."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(CLOSE_LIMIT)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._lines:
                    if self._closing:
                        return
                    self._change.wait()
                data = self._take()
            if not self._write(data):
                with self._change:
                    self._gone = True
                    self._lines.clear()
                return
            with self._change:
                self._waiting -= len(data)

    def _take(self) -> bytes:
        """Take out what is written at once: one call for hundreds of lines, or for a long one."""
        taken = [self._lines.popleft()]
        size = len(taken[0])
        while self._lines and (size := size + len(self._lines[0])) <= PIECE:
            taken.append(self._lines.popleft())
        return b"".join(taken)

    def _write(self, data: bytes) -> bool:
        """Write all of `data`, however long it takes; False when nobody can read it any more."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError as error:
                if error.errno in GONE:
                    return False
                with self._change:
                    self._change.wait(PAUSE)
                    if self._closing:
                        return False
        return True
