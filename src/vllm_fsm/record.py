"""The output of the last engine starts, in bounded files: their first words and their last ones.

A start is a row of parts, `SERIAL-ATTEMPT.PART.log`: the first part and the two newest are kept. `SERIAL` counts over
the lives of the controller, `ATTEMPT` is the number that health and history have, which begins anew with each of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vllm_fsm.files import own

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME: Final = "attempts"
"""Below the state directory."""
KEPT: Final = 3
"""Starts of which the output is kept."""
FIRST: Final = 1024 * 1024
"""Bytes of the first part: arguments, configuration, and how most failures begin."""
LATER: Final = 7 * 1024 * 1024 // 2
"""Bytes of each later part, of which two are kept."""
MISSING: Final = "[lines are missing here]"

_FILE: Final = re.compile(r"(\d{8,18})-(\d{1,10})\.(\d{6,9})\.log")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file."""

    serial: int
    attempt: int
    number: int

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.serial:08}-{self.attempt}.{self.number:06}.log"


class Record:
    """Writes below `directory`; lines arrive redacted.

    It is unbuffered, so that what an engine said last is there whatever ends us.
    """

    def __init__(self, directory: Path, *, first: int = FIRST, later: int = LATER) -> None:
        self._directory = directory / NAME
        self._first, self._later = first, later
        self._part: Part | None = None
        self._file = -1
        self._room = 0

    def write(self, attempt: int, line: str) -> None:
        """Add a line of start number `attempt`, the first of which begins a new record.

        Raises:
            OSError: it could not be written; the next line is tried again.
        """
        data = line.encode(errors="backslashreplace") + b"\n"
        if self._part is None or self._part.attempt != attempt:
            self._begin(attempt)
        elif len(data) > self._room:
            self._turn_over(self._part)
        self._room -= os.write(self._file, data)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._part = -1, None

    def _begin(self, attempt: int) -> None:
        self.close()
        self._make_directory()
        earlier = sorted({part.serial for part in parts(self._directory.parent)})
        serial = earlier[-1] + 1 if earlier else 1
        for part in parts(self._directory.parent):
            if part.serial not in earlier[-(KEPT - 1) :]:
                self._unlink(part)
        self._open(Part(serial, attempt, 0), self._first)

    def _turn_over(self, full: Part) -> None:
        os.close(self._file)
        self._file = -1
        self._part = None
        oldest = Part(full.serial, full.attempt, full.number - 1)
        if oldest.number > 0:
            self._unlink(oldest)
        self._open(Part(full.serial, full.attempt, full.number + 1), self._later)

    def _make_directory(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700)
        if not stat.S_ISDIR(os.lstat(self._directory).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._directory))

    def _open(self, part: Part, room: int) -> None:
        self._file = own.open_anew(self._directory / part.name, 0o600)
        self._part, self._room = part, room

    def _unlink(self, part: Part) -> None:
        (self._directory / part.name).unlink(missing_ok=True)


def parts(state: Path) -> list[Part]:
    """Return what is kept below the state directory, the oldest first.

    Raises:
        OSError: it cannot be read.
    """
    try:
        names = os.listdir(state / NAME)
    except FileNotFoundError:
        return []
    found = (_FILE.fullmatch(name) for name in names)
    return sorted(Part(*map(int, one.groups())) for one in found if one is not None)


def latest(state: Path, attempt: int | None = None) -> list[Part]:
    """Return the parts of the latest start, or of the latest one with this number; none when there is no such.

    Raises:
        OSError: the directory cannot be read.
    """
    kept = [part for part in parts(state) if attempt is None or part.attempt == attempt]
    return [part for part in kept if part.serial == kept[-1].serial]


def read(state: Path, chosen: list[Part]) -> Iterator[str]:
    """Yield the lines of one start; a line of ours stands where some are missing.

    Raises:
        OSError: a part cannot be read. One that was removed meanwhile is left out.
    """
    last = -1
    for part in chosen:
        try:
            text = own.read(state / NAME / part.name).decode(errors="replace")
        except FileNotFoundError:
            continue
        if part.number != last + 1:
            yield MISSING
        last = part.number
        yield from text.removesuffix("\n").split("\n")


def follow(state: Path, attempt: int | None, wait: Callable[[], None]) -> Iterator[str]:
    """Yield the lines of the latest start, and each that comes, over all later starts when `attempt` is None.

    `wait` is called when there is nothing more to read at present; it ends the iteration by raising.
    """
    at: Part | None = None
    offset, rest = 0, b""
    while True:
        kept = latest(state, attempt) if at is None else [part for part in parts(state) if part >= at]
        grown = False
        for part in kept:
            if attempt is not None and part.attempt != attempt:
                continue
            if part != at:
                if at is not None and part.serial == at.serial and part.number != at.number + 1:
                    yield MISSING
                at, offset, rest = part, 0, b""
            data = _from(state / NAME / part.name, offset)
            offset += len(data)
            grown = grown or bool(data)
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
        if not grown:
            wait()


def _from(path: Path, offset: int) -> bytes:
    try:
        with open(own.open_to_read(path), "rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""
