"""One blob: continued where an earlier attempt ended, checked, and put in its place.

huggingface_hub 2.4 begins each attempt at zero in a file of a random name (`file_download.py`,
`_download_to_tmp_and_move`). Here the name is the blob's, each piece is written as it comes, so that a killed process
loses nothing that it had read, and synced now and then for the case that the power goes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from vllm_fsm.adapters.download.hub import Cut, Hub
from vllm_fsm.files import own
from vllm_fsm.weights.hub_cache import PIECE, Entry, RepoFolder

if TYPE_CHECKING:
    from vllm_fsm.adapters.download.meter import Meter

CHUNK = 1 << 20
"""Bytes read at once from the disk."""
TRIES = 5
"""Broken connections in a row, without a byte between them, that one file may have in one attempt."""
PAUSE = 1.0
"""Seconds after a broken connection."""


class Stopped(Exception):
    """The attempt is being given up; this file goes on in the next one."""


class WrongContent(Exception):
    """What was fetched is not what the hub listed; the file begins anew in the next attempt."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Transfer:
    """Fetches blobs of one commit of `repo_id` into `folder`. `stop`: set when the attempt is given up."""

    def __init__(self, hub: Hub, folder: RepoFolder, repo_id: str, commit: str, meter: Meter, stop: Event) -> None:
        self._hub = hub
        self._folder = folder
        self._repo_id = repo_id
        self._commit = commit
        self._meter = meter
        self._stop = stop

    def fetch(self, entries: list[Entry]) -> None:
        """Make files of the same content complete and readable.

        Raises:
            Stopped, WrongContent, Locked: see there.
            OSError: the cache cannot be written.
            HfHubHTTPError, and what `Hub.broken` names: the hub does not give it.
        """
        entry = entries[0]
        blob = self._folder.blob(entry)
        if _size(blob) != entry.size:
            with self._hub.locked(self._folder.lock(entry.etag)), self._partial(entry) as file:
                self._fill(file, entry)
                os.fsync(file)
                os.replace(self._folder.partial(entry), blob)
        for each in entries:
            self._folder.link(self._commit, each)
        self._meter.add(files=len(entries))

    @contextmanager
    def _partial(self, entry: Entry) -> Iterator[int]:
        place = self._folder.partial(entry)
        try:
            file = own.open_to_write(place, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            file = own.open_anew(place, 0o644)
        try:
            yield file
        finally:
            os.close(file)

    def _fill(self, file: int, entry: Entry) -> None:
        """Write what is missing of `entry` and check all of it."""
        digest = _digest(entry)
        done = 0
        while chunk := os.pread(file, CHUNK, done):
            self._go_on()
            digest.update(chunk)
            done += len(chunk)
            self._meter.add(hashed=len(chunk))
        broken, synced = 0, done // PIECE
        while done < entry.size:
            before = done
            try:
                with self._hub.read(self._repo_id, self._commit, entry.path, done) as (begins, pieces):
                    if begins != done:
                        os.ftruncate(file, begins)
                        self._meter.add(lost=done - begins)
                        digest, done = _digest(entry), begins
                    for piece in pieces:
                        self._go_on()
                        room = entry.size - done
                        if len(piece) > room:
                            self._throw_away(file, entry, done)
                        _write(file, piece, done)
                        digest.update(piece)
                        done += len(piece)
                        self._meter.add(received=len(piece))
                        if done // PIECE != synced:
                            # At the boundaries to which a power cut sets back, wherever this attempt began.
                            os.fdatasync(file)
                            synced = done // PIECE
                if done < entry.size:
                    raise Cut(f"{entry.path} ended after {done} of {entry.size} bytes")
            except self._hub.broken:
                broken = 1 if done > before else broken + 1
                if broken > TRIES:
                    raise
                self._stop.wait(PAUSE)
                self._go_on()
        if digest.hexdigest() != entry.etag or os.fstat(file).st_size != entry.size:
            self._throw_away(file, entry, done)

    def _throw_away(self, file: int, entry: Entry, done: int) -> None:
        os.ftruncate(file, 0)
        self._meter.add(lost=min(done, entry.size))
        raise WrongContent(entry.path)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped


def _digest(entry: Entry) -> hashlib._Hash:
    """Begin the hash that the etag is: plain SHA-256, or SHA-1 as git takes it of a blob."""
    if entry.large:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % entry.size, usedforsecurity=False)


def _write(file: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
