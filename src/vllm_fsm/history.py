"""The journal of transitions in a bounded file: one JSON object a line, the newest last."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vllm_fsm.files import own

NAME: Final = "history.jsonl"
OLDER: Final = "history.1.jsonl"
LIMIT: Final = 256 * 1024
"""Bytes of one file; when it is full it replaces the older one, so that at most twice as much is kept."""


class History:
    """Appends to the file in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._older = directory / OLDER

    def append(self, entry: dict[str, Any]) -> None:
        """Add one entry.

        Raises:
            OSError: it could not be written.
        """
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        try:
            descriptor = own.open_to_write(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            os.replace(self._path, self._older)
            descriptor = own.open_to_write(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        with open(descriptor, "ab") as file:
            os.fchmod(descriptor, 0o600)
            size = file.tell()
            if size and size + len(line) > LIMIT:
                os.replace(self._path, self._older)
            else:
                # What a power cut left of a line takes no other with it.
                file.write((b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b"") + line)
                return
        self.append(entry)


def read(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of `directory`, the oldest first; lines that a power cut left in pieces are skipped.

    Raises:
        OSError: one of the files cannot be read.
    """
    for name in (OLDER, NAME):
        try:
            lines = own.read(directory / name).splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry
