"""One controller for one directory: a lock that dies with its holder and that a reader can ask about without taking.

Open-file-description locks (`fcntl(2)`): they see across PID namespaces, and a query never gets in a holder's way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from vllm_fsm.files import own

TYPE_CHECKING = False  # `vllm-fsm health` asks for the lock, and `typing` and `pathlib` would take a third of its time
if TYPE_CHECKING:
    from pathlib import Path

NAME = "lock"
MODE = 0o755
"""Of a directory that we make: nobody else writes there, whatever the umask allows."""
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
        self._directory = directory
        self._file = _take(directory)

    @property
    def intact(self) -> bool:
        """Whether the lock file that others find is the one that is locked."""
        try:
            found = os.stat(self._directory / NAME)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._file))

    def renew(self) -> None:
        """Take the directory anew after somebody removed it or its lock file. Raises as the class does."""
        file = _take(self._directory)
        os.close(self._file)
        self._file = file

    def release(self) -> None:
        """Let go."""
        os.close(self._file)


def _take(directory: Path) -> int:
    """Make and lock the lock file; return its descriptor."""
    directory.mkdir(MODE, parents=True, exist_ok=True)
    file = own.open_to_write(directory / NAME, os.O_RDWR | os.O_CREAT, 0o644, alone=False)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, *_WHOLE))
    except OSError as error:
        os.close(file)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise Held(directory) from None
        raise
    return file


def held(directory: str | Path) -> bool:
    """Whether a controller holds `directory`."""
    try:
        file = own.open_to_read(os.path.join(directory, NAME))
    except OSError:
        return False
    try:
        # A read lock would be refused while the write lock stands; asking takes neither.
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, *_WHOLE))
    finally:
        os.close(file)
    return int(_FLOCK.unpack(answer)[0]) != fcntl.F_UNLCK
