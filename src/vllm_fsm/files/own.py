"""Files that only we write: opened without following a link, without waiting, and never together with another file.

Somebody may have planted something in such a file's place: a link to a file that we must not change, a second name of
one, a named pipe whose opening waits for ever. The two files of people are another matter, see `reading`: links are
followed there. Light: `vllm-fsm health` and the guardian import it.
"""

import errno
import os
import stat

_OPEN = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
LARGEST = 256 * 1024 * 1024
"""Bytes; the longest list of a repository's files takes a fifth."""


def open_to_read(path: str | os.PathLike[str], *, follow: bool = False) -> int:
    """Return a descriptor of the regular file at `path`. `follow`: a link may lead to it.

    Raises:
        OSError: there is none.
    """
    return _regular(os.open(path, os.O_RDONLY | _OPEN | (0 if follow else os.O_NOFOLLOW)), path)


def open_to_write(path: str | os.PathLike[str], flags: int, mode: int = 0o600, *, alone: bool = True) -> int:
    """Return a descriptor of the regular file at `path`; `flags` as for `os.open`.

    Raises:
        OSError: something else stands there, or it cannot be opened; EMLINK: it has another name, which it must not
            have where it is to be `alone`. A snapshot made of hard links gives it one.
    """
    descriptor = _regular(os.open(path, flags | _OPEN | os.O_NOFOLLOW, mode), path)
    if alone and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "It has a second name", os.fspath(path))
    return descriptor


def open_anew(path: str | os.PathLike[str], mode: int) -> int:
    """Return a descriptor of a new file at `path`, to be written; what stood there is removed.

    Raises:
        OSError: a directory stands there, or it cannot be made.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def read(path: str | os.PathLike[str], limit: int = LARGEST, *, follow: bool = False) -> bytes:
    """Return what the regular file at `path` holds.

    Raises:
        OSError: there is none, it cannot be read, or it holds more than `limit` bytes.
    """
    with open(open_to_read(path, follow=follow), "rb") as file:
        if os.fstat(file.fileno()).st_size <= limit and len(content := file.read(limit + 1)) <= limit:
            return content
    raise OSError(errno.EFBIG, "It is too large", os.fspath(path))


def _regular(descriptor: int, path: str | os.PathLike[str]) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is not a file", os.fspath(path))
    return descriptor
