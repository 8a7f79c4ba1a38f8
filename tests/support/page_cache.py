"""What the page cache holds of a file, and a file that it does not hold."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def resident(path: Path | str) -> int:
    """Return how many bytes of the file are in the page cache. It must be ours, else mincore(2) says all."""
    size = os.path.getsize(path)
    if not size:
        return 0
    pages = -(-size // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        place = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        assert place != ctypes.c_void_p(-1).value
        said = _libc.mincore(place, size, found)
        _libc.munmap(place, size)
        assert said == 0
    finally:
        os.close(descriptor)
    return min(size, mmap.PAGESIZE * sum(page & 1 for page in bytes(found)))


def cool(path: Path | str) -> None:
    """Take the file out of the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    assert resident(path) == 0, f"{path} stays in the page cache: somebody uses it, or it lies in memory"
