"""What the cache holds, from one walk through its folders.

huggingface_hub's `scan_cache_dir` is not used: 1,000 models with 100,000 files took it 5.5 to 8.0 s (2.4 on two busy
cores, everything in memory), this 1.1 to 1.6 s (`benchmarks/cache.py`). It also leaves out what needs
deleting most, a model with a link or a reference that leads nowhere, and it follows a model's folder that is a link.
What is complete, stale and locked is asked of `vllm_fsm.weights`, as a start does.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from vllm_fsm.adapters.download.room import free_bytes
from vllm_fsm.cache.refused import Refused, reason
from vllm_fsm.core.snapshot import Message
from vllm_fsm.weights.completeness import complete_commit
from vllm_fsm.weights.hub_cache import PARTIAL, RepoFolder
from vllm_fsm.weights.names import repo_of
from vllm_fsm.weights.needs import DEFAULT_REVISION, Repo

ASIDE: Final = ".vllm-fsm-deleted-"
"""How the name of a folder begins that is being deleted, or whose deletion was interrupted."""
SHARED: Final = re.compile(r"\.\./\.\./blobs/[0-9a-f]{2}/[0-9a-f]{64}")
"""Where a blob leads that huggingface_hub 2.4 keeps once for several models (`utils/_shared_blobs.py`)."""

_CONTENTS: Final = ("blobs", "snapshots")


class State(Enum):
    """What needs a model."""

    SERVED = "served"
    SELECTED = "selected"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One model in the cache. Sizes in bytes."""

    name: str
    """As on the hub: `org/name`."""
    folder: str
    """The name of its folder in the cache."""
    size: int
    """Of everything in the folder, each content once; partial files are counted."""
    files: int
    """Complete ones, each content once."""
    partial: int
    """What partial files take of the size."""
    complete: bool
    """An engine can start from it without a download."""
    last_used: datetime | None
    """When its largest file was last read or written; UTC, None for a model without files. To a day on most volumes,
    which are mounted with `relatime`; with `noatime`, the time of the download."""
    state: State | None = None
    linked: bool = False
    """Its folder is a symbolic link: nothing behind it is looked at, and it is not deleted from here."""
    problem: Message | None = None
    """What of it could not be read, so that the size is too small."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that belongs to nothing any more."""

    path: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What the cache holds. Sizes in bytes."""

    models: tuple[CachedModel, ...]
    """The largest first."""
    free: int
    """What may still be written on the volume."""
    total: int
    """What the models take up together: a content that several share counts once."""
    stale: tuple[Leftover, ...] = ()
    """Interrupted deletions, which the next deletion ends, and partial files that no download will resume."""


@dataclass(slots=True)
class _Tally:
    """What one walk has counted. `seen`: the contents with several names that were met before, in any walk."""

    seen: set[tuple[int, int]] = field(default_factory=set)
    own: set[tuple[int, int]] = field(default_factory=set)
    size: int = 0
    new: int = 0
    """What of the size no earlier walk has counted."""
    files: int = 0
    partial: int = 0
    largest: int = -1
    used: float | None = None
    problem: Message | None = None

    def add(self, status: os.stat_result, *, several: bool, content: bool, partial: bool) -> None:
        """Count one file."""
        size = status.st_size
        if several:
            key = (status.st_dev, status.st_ino)
            if key in self.own:
                return
            self.own.add(key)
            if key not in self.seen:
                self.seen.add(key)
                self.new += size
        else:
            self.new += size
        self.size += size
        if partial:
            self.partial += size
        elif content:
            self.files += 1
        if content and size > self.largest:
            self.largest, self.used = size, max(status.st_atime, status.st_mtime)


def listing(
    models_dir: str | os.PathLike[str], *, served: Container[str] = (), selected: Container[str] = ()
) -> Listing:
    """Return what the cache `models_dir` holds; `served` and `selected` name what is needed.

    Entries may vanish meanwhile. A folder that does not exist is an empty cache.

    Raises:
        Refused: the folder cannot be read.
    """
    models = os.fspath(models_dir)
    seen: set[tuple[int, int]] = set()
    found, total = [], 0
    stale: list[Leftover] = []
    try:
        entries = list(_entries(models))
        free = free_bytes(_existing(models))
    except OSError as error:
        raise Refused(Message.of("CacheUnreadable", path=models, error=reason(error))) from None
    for entry in entries:
        if entry.name.startswith(ASIDE):
            stale += _aside(entry)
            continue
        name = model_of(entry)
        if name is None:
            continue
        state = State.SERVED if name in served else State.SELECTED if name in selected else None
        model, new = _look(models, name, entry, state, seen)
        if model is not None:
            found.append(model)
            total += new
            if model.partial:
                stale += _left(RepoFolder(models, name).stale())
    found.sort(key=lambda model: (-model.size, model.name))
    return Listing(tuple(found), free, total, tuple(sorted(stale, key=lambda left: left.path)))


def _entries(models: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(models) as entries:
            yield from entries
    except FileNotFoundError:
        return


def _existing(path: str) -> str:
    """Return the nearest directory above that exists: the volume on which `path` will be made."""
    path = os.path.abspath(path)
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def model_of(entry: os.DirEntry[str]) -> str | None:
    """Return the name of the model that an entry of the cache is, None if it is none."""
    return repo_of(entry.name) if entry.is_symlink() or entry.is_dir(follow_symlinks=False) else None


def _look(
    models: str, name: str, entry: os.DirEntry[str], state: State | None, seen: set[tuple[int, int]]
) -> tuple[CachedModel | None, int]:
    """Return the model, None if it has vanished, and the bytes of it that were not counted before."""
    repo, folder = Repo(name), RepoFolder(models, name)
    complete = complete_commit(folder, repo) is not None
    if not complete and folder.commit(DEFAULT_REVISION) is None:
        # Nothing says which commit is meant: an engine may be told to take any.
        complete = any(complete_commit(folder, Repo(name, commit)) for commit in folder.commits())
    if entry.is_symlink():
        return CachedModel(name, entry.name, 0, 0, 0, complete, None, state, linked=True), 0
    tally = _Tally(seen)
    if not _walk(folder.path, tally):
        return None, 0
    sizes = (tally.size, tally.files, tally.partial)
    model = CachedModel(name, entry.name, *sizes, complete, _moment(tally.used), state, problem=tally.problem)
    return model, tally.new


def _moment(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # nobody keeps a file system from saying the year 200000
        return None


def _walk(top: str, tally: _Tally) -> bool:
    """Count what lies below `top`; False if it is not there.

    Links are not followed, but for a blob in the store that huggingface_hub shares between models.
    """
    blobs = os.path.join(top, "blobs")
    pending = [(top, False)]
    while pending:
        folder, content = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append((entry.path, content or (folder == top and entry.name in _CONTENTS)))
                    elif not entry.is_symlink():
                        status = _status(entry.path, entry)
                        if status is not None:
                            partial = content and entry.name.endswith(PARTIAL)
                            tally.add(status, several=status.st_nlink > 1, content=content, partial=partial)
                    elif folder == blobs and shared(entry.path):
                        status = _status(entry.path)
                        if status is not None:
                            tally.add(status, several=True, content=True, partial=False)
        except FileNotFoundError:
            if folder == top:
                return False
        except OSError as error:
            tally.problem = Message.of("ModelUnreadable", path=folder, error=reason(error))
    return True


def shared(path: str, directory: int | None = None) -> bool:
    """Whether the link `path` leads into the store that huggingface_hub shares between models."""
    try:
        return SHARED.fullmatch(os.readlink(path, dir_fd=directory)) is not None
    except OSError:
        return False


def _status(path: str, entry: os.DirEntry[str] | None = None) -> os.stat_result | None:
    """Return the status of a regular file, None if it is none or has vanished."""
    try:
        status = os.stat(path) if entry is None else entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _aside(entry: os.DirEntry[str]) -> Iterator[Leftover]:
    if entry.is_dir(follow_symlinks=False):
        tally = _Tally()
        if _walk(entry.path, tally):
            yield Leftover(entry.path, tally.size)


def _left(paths: list[str]) -> Iterator[Leftover]:
    for path in paths:
        try:
            yield Leftover(path, os.lstat(path).st_size)
        except OSError:
            continue
