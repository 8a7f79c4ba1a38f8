"""What the fetcher has done so far, counted by its threads and read by the one that reports."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass(slots=True)
class Count:
    """Bytes and files. `done` and `files_done` include what lay in the cache."""

    done: int = 0
    total: int | None = None
    files_done: int = 0
    files: int | None = None
    received: int = 0
    """Bytes that came from the hub."""
    hashed: int = 0
    """Bytes of earlier attempts that were read again, to go on with their checksum."""
    lost: int = 0
    """Bytes that had to be thrown away."""
    listed: int = 0
    """Files that the hub named."""

    @property
    def moved(self) -> int:
        """Grows with all that shows that it goes on, in bytes and files."""
        return self.received + self.hashed + self.listed


class Meter:
    """A count that several threads add to."""

    def __init__(self) -> None:
        self._count = Count()
        self._lock = threading.Lock()

    def plan(self, done: int, total: int, files: int, files_done: int) -> None:
        """Set what is known before the first byte."""
        with self._lock:
            self._count.done, self._count.total = done, total
            self._count.files, self._count.files_done = files, files_done

    def add(self, *, received: int = 0, hashed: int = 0, lost: int = 0, files: int = 0, listed: int = 0) -> None:
        """Count bytes that were written, read again or thrown away, and files that became complete or were named."""
        with self._lock:
            count = self._count
            count.done += received - lost
            count.received += received
            count.hashed += hashed
            count.lost += lost
            count.listed += listed
            count.files_done += files

    def read(self) -> Count:
        """Return the count as it is."""
        with self._lock:
            return replace(self._count)
