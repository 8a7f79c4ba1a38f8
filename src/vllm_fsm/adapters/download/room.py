"""Room on the volume of the cache."""

from __future__ import annotations

import os
from collections.abc import Container


class NoRoom(Exception):
    """The volume has too little room.

    Bytes: `needed` besides what is there, `spare` besides those, `free`, `other` models in the cache.
    """

    def __init__(self, needed: int, spare: int, free: int, other: int) -> None:
        super().__init__(f"{needed} bytes are needed and {spare} to spare, and {free} are free")
        self.needed, self.spare, self.free, self.other = needed, spare, free, other


def free_bytes(path: str) -> int:
    """Return what may be written on the volume of `path`.

    Raises:
        OSError: it cannot be known.
    """
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def other_models(models: str, kept: Container[str]) -> int:
    """Return the bytes that the models in the cache take up whose folders are not among `kept`."""
    total = 0
    try:
        folders = os.listdir(models)
    except OSError:
        return 0
    for folder in folders:
        if folder.startswith("models--") and folder not in kept:
            try:
                with os.scandir(os.path.join(models, folder, "blobs")) as blobs:
                    total += sum(blob.stat(follow_symlinks=False).st_size for blob in blobs)
            except OSError:
                continue
    return total
