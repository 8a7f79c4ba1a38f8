"""The engine's output: one pipe, read without blocking, handed on line by line."""

import asyncio
import fcntl
import os
from collections.abc import Callable

CHUNK = 1 << 16
"""Bytes read in one turn of the loop, so that a flood leaves the other readers their turns."""
LONGEST_LINE = 16 * 1024
"""Bytes of a line that are handed on."""


class Output:
    """Reads descriptor `source`, which it owns, and calls `relay` with every complete line.

    A line ends with a newline or a carriage return (progress bars); empty ones are left out. What is longer than
    LONGEST_LINE is cut, with a mark that says so, and never inside `secret`: a piece of it would not be recognised.
    """

    def __init__(self, source: int, *, relay: Callable[[str], None], secret: str) -> None:
        self._source = source
        self._relay = relay
        self._secret = os.fsencode(secret)
        self._line = bytearray()
        self._dropped = 0
        self.open = True
        """False after the end of the pipe, or `close`."""
        os.set_blocking(source, False)
        asyncio.get_running_loop().add_reader(source, self._read)

    def drain(self) -> None:
        """Hand on all that is in the pipe now; not more than it can hold, since a survivor may go on writing."""
        if not self.open:
            return
        left = fcntl.fcntl(self._source, fcntl.F_GETPIPE_SZ)
        while left > 0 and (size := self._read()):
            left -= size
        self._end_line()

    def pass_to(self, relay: Callable[[str], None], secret: str) -> None:
        """Hand on what was written until now, and everything from now on to `relay`."""
        self.drain()
        self._relay, self._secret = relay, os.fsencode(secret)

    def close(self) -> None:
        """Hand on the unfinished line and stop reading."""
        if not self.open:
            return
        self.open = False
        self._end_line()
        asyncio.get_running_loop().remove_reader(self._source)
        os.close(self._source)

    def _read(self) -> int:
        """Read once; return the number of bytes."""
        try:
            data = os.read(self._source, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self.close()
            return 0
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            self._append(piece)
            self._end_line()
        self._append(rest)
        return len(data)

    def _append(self, piece: bytes) -> None:
        room = LONGEST_LINE + len(self._secret) - len(self._line)
        self._line += piece[:room]
        self._dropped += max(0, len(piece) - room)

    def _end_line(self) -> None:
        if not self._line:
            return
        line, dropped = bytes(self._line), self._dropped
        self._line.clear()
        self._dropped = 0
        if len(line) > LONGEST_LINE:
            kept = self._cut(line)
            dropped += len(line) - len(kept)
            line = kept
        text = line.decode("utf-8", "replace")
        if dropped:
            text += f" … [{dropped} bytes more]"
        self._relay(text)

    def _cut(self, line: bytes) -> bytes:
        """Shorten `line` at a blank near the limit, since no secret holds one; else before what may be a secret."""
        kept = line[:LONGEST_LINE]
        blank = kept.rfind(b" ", LONGEST_LINE - 1024)
        if blank >= 0:
            return kept[:blank]
        for length in range(len(self._secret) - 1, 0, -1):
            if kept.endswith(self._secret[:length]):
                return kept[:-length]
        return kept
