"""One controller for one directory: a lock that dies with its holder and that a reader can ask about without taking.

Open-file-description locks (`fcntl(2)`): they see across PID namespaces, and a query never gets in a holder's way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

NAME: Final = "lock"
_FLOCK = struct.Struct("hhqqi4x")
_WHOLE = (os.SEEK_SET, 0, 0, 0)


class Held(Exception):
    """Another controller holds the directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"another controller is running on {directory}")
        self.directory = directory


class DirectoryLock:
    """Holds `directory` until the process ends or `release` is called.

    Raises:
        Held: another process holds it.
        OSError: the directory cannot be made or its lock file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE))
        except OSError as error:
            os.close(self._file)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise Held(directory) from None
            raise

    def release(self) -> None:
        """Let go."""
        os.close(self._file)


def held(directory: Path) -> bool:
    """Whether a controller holds `directory`."""
    try:
        file = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # A read lock would be refused while the write lock stands; asking takes neither.
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, *_WHOLE))
    finally:
        os.close(file)
    return int(_FLOCK.unpack(answer)[0]) != fcntl.F_UNLCK
