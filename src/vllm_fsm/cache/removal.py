"""Deletes one model of the listing: out of the way first, then gone, and never anything behind a link.

Every step is taken in a directory that is open, by a name without a slash, so that whatever is moved, linked or
replaced meanwhile leads nowhere else. The folder is looked through before anything happens, and renamed before anything
is removed: a model is there or not, and an interrupted deletion leaves a folder that nobody takes for a model. The
next deletion ends it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.adapters.download.room import free_bytes
from vllm_fsm.cache.contents import ASIDE, model_of, shared
from vllm_fsm.cache.refused import Refused, reason
from vllm_fsm.core.snapshot import Message
from vllm_fsm.redaction import Redactor
from vllm_fsm.weights.hub_cache import RepoFolder

LOCKS: Final = ".locks"
DEEPEST: Final = 64
"""Folders within one another, far more than a repository has."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FOLDER: Final = (errno.ENOTDIR, errno.ELOOP)
"""What opening a link in a folder's place answers."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion did. Sizes in bytes."""

    freed: int
    """Of the files that are gone, left-overs of earlier deletions included. What a running program has open takes its
    room until it ends."""
    free_before: int
    """What could be written on the volume before, and can be afterwards."""
    free_after: int


def delete(models_dir: str | os.PathLike[str], name: str, *, in_use: Container[str], force: bool = False) -> Deleted:
    """Delete the model `name`, exactly as the listing has it; what vanishes meanwhile is no error.

    `force` deletes a model that is in use or being downloaded, too.

    Raises:
        Refused: nothing was deleted, or, as its message says then, not all of it.
    """
    models = os.fspath(models_dir)
    with _cache(models) as top:
        repo = RepoFolder(models, _entry(models, top, name))
        if not force:
            if name in in_use:
                raise Refused(Message.of("ModelInUse", model=name))
            if repo.busy():
                raise Refused(Message.of("ModelBusy", model=name))
        removal = _Removal(name, models, top)
        before = free_bytes(models)
        try:
            removal.model(repo)
        except FileNotFoundError:
            pass  # somebody else has deleted it
        removal.rest(repo)
        if removal.left is not None:
            path, error = removal.left
            raise Refused(Message.of("DeletionIncomplete", model=name, path=path, error=error))
        return Deleted(removal.freed, before, free_bytes(models))


@contextmanager
def _cache(models: str) -> Iterator[int]:
    """Open the cache, which may be behind a link: that is how it is set up."""
    try:
        top = os.open(models, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(Message.of("CacheUnreadable", path=models, error=reason(error))) from None
    try:
        yield top
    finally:
        os.close(top)


def _entry(models: str, top: int, name: str) -> str:
    """Return the name of a model that is in the cache, which `name` must be."""
    try:
        with os.scandir(top) as entries:
            known = {repo for entry in entries if (repo := model_of(entry)) is not None}
    except OSError as error:
        raise Refused(Message.of("CacheUnreadable", path=models, error=reason(error))) from None
    if name in known:
        return name
    alike = sorted(repo for repo in known if repo.casefold() == name.casefold())
    if alike:
        raise Refused(Message.of("ModelNotCachedMeant", model=_shown(name), meant=alike[0]))
    raise Refused(Message.of("ModelNotCached", model=_shown(name)))


def _shown(name: str) -> str:
    """Make of anything that was given a text of one short line, of which nothing is a token."""
    return ascii(Redactor().scrub(name))[1:-1][:120] or '""'


@dataclass(slots=True)
class _Removal:
    """One deletion in the cache that is open as `top`."""

    name: str
    models: str
    top: int
    freed: int = 0
    left: tuple[str, str] | None = None
    """The path of the first thing that could not be removed, and why."""
    sharing: set[str] = field(default_factory=set)
    """Where links of the model led in the store that huggingface_hub shares between models."""

    def model(self, repo: RepoFolder) -> None:
        """Remove the model's folder.

        Raises:
            Refused: nothing was done.
            FileNotFoundError: it is not there any more.
        """
        tree = self._open(repo)
        try:
            self._survey(tree, repo.path, os.fstat(tree).st_dev)
            self._may_change(self.top, self.models)
            aside = f"{ASIDE}{secrets.token_hex(4)}-{repo.name}"
            self._move(repo, tree, aside)
            path = os.path.join(self.models, aside)
            self._empty(tree, path)
        finally:
            os.close(tree)
        self._rmdir(aside, self.top, path)

    def rest(self, repo: RepoFolder) -> None:
        """Remove what else belonged to the model, and what earlier deletions have left; what resists is not told.

        It takes next to no room, or stands in the listing already.
        """
        left = self.left
        with suppress(OSError):
            locks = os.open(LOCKS, _FOLDER, dir_fd=self.top)
            try:
                self._remove(repo.name, locks, os.path.join(self.models, LOCKS, repo.name))
            finally:
                os.close(locks)
        self.freed += _sweep_shared(self.models, self.sharing)
        for name in os.listdir(self.top):
            if name.startswith(ASIDE):
                self._remove(name, self.top, os.path.join(self.models, name))
        self.left = left

    def _open(self, repo: RepoFolder) -> int:
        try:
            return os.open(repo.name, _FOLDER, dir_fd=self.top)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _NO_FOLDER:
                raise Refused(Message.of("ModelIsNoFolder", model=self.name, path=repo.path)) from None
            raise self._denied(repo.path, reason(error)) from None

    def _survey(self, directory: int, path: str, device: int, depth: int = 0) -> None:
        """See that everything can be removed, before anything is."""
        if os.fstat(directory).st_dev != device:
            raise self._denied(path, "a volume of its own is mounted there")
        if depth > DEEPEST:
            raise self._denied(path, "folders too deep within one another")
        entries = _entries(directory)
        if entries:
            self._may_change(directory, path)
        for name, folder in entries:
            below = os.path.join(path, name)
            if folder:
                try:
                    child = os.open(name, _FOLDER, dir_fd=directory)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno in _NO_FOLDER:
                        continue
                    raise self._denied(below, reason(error)) from None
                try:
                    self._survey(child, below, device, depth + 1)
                finally:
                    os.close(child)
            elif depth == 1 and shared(name, directory):
                self.sharing.add(os.path.normpath(os.path.join(path, os.readlink(name, dir_fd=directory))))

    def _may_change(self, directory: int, path: str) -> None:
        if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
            raise self._denied(path, os.strerror(errno.EROFS))
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True):
            raise self._denied(path, os.strerror(errno.EACCES))

    def _denied(self, path: str, error: str) -> Refused:
        return Refused(Message.of("DeletionDenied", model=self.name, path=path, error=error))

    def _move(self, repo: RepoFolder, tree: int, aside: str) -> None:
        """Take the folder that is open as `tree` out of the way."""
        try:
            os.rename(repo.name, aside, src_dir_fd=self.top, dst_dir_fd=self.top)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._denied(repo.path, reason(error)) from None
        moved = os.stat(aside, dir_fd=self.top, follow_symlinks=False)
        if not os.path.samestat(moved, os.fstat(tree)):
            with suppress(OSError):
                os.rename(aside, repo.name, src_dir_fd=self.top, dst_dir_fd=self.top)
            raise Refused(Message.of("ModelChanged", model=self.name))
        # Some network and FUSE file systems cannot; a power cut may then bring the model back, in part.
        with suppress(OSError):
            os.fsync(self.top)

    def _remove(self, name: str, parent: int, path: str) -> None:
        """Remove the folder `name` in `parent`; what is no folder stays."""
        try:
            directory = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOENT, *_NO_FOLDER):
                self._leave(path, error)
            return
        try:
            self._empty(directory, path)
        finally:
            os.close(directory)
        self._rmdir(name, parent, path)

    def _empty(self, directory: int, path: str) -> None:
        """Remove everything in `directory`."""
        device = os.fstat(directory).st_dev
        try:
            entries = _entries(directory)
        except OSError as error:
            self._leave(path, error)
            return
        for name, folder in entries:
            below = os.path.join(path, name)
            try:
                if folder and self._descend(name, directory, below, device):
                    os.rmdir(name, dir_fd=directory)
                else:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    os.unlink(name, dir_fd=directory)
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                        self.freed += status.st_size
            except FileNotFoundError:
                continue
            except OSError as error:
                self._leave(below, error)

    def _descend(self, name: str, directory: int, path: str, device: int) -> bool:
        """Empty a folder; False if another thing has taken its place."""
        try:
            child = os.open(name, _FOLDER, dir_fd=directory)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                return False
            raise
        try:
            if os.fstat(child).st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            self._empty(child, path)
        finally:
            os.close(child)
        return True

    def _rmdir(self, name: str, parent: int, path: str) -> None:
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._leave(path, error)

    def _leave(self, path: str, error: OSError) -> None:
        if self.left is None:
            self.left = (path, reason(error))


def _entries(directory: int) -> list[tuple[str, bool]]:
    """Return the names in an open directory, and which of them are folders."""
    with os.scandir(directory) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _sweep_shared(models: str, paths: Iterable[str]) -> int:
    """Have huggingface_hub remove of its shared contents what no other model needs; return the bytes.

    It does so under its own locks (`utils/_shared_blobs.py`, 2.4), which no public function offers; a version without
    it has no such store. What cannot be told to be unneeded stays: `hf cache prune` looks at it again.
    """
    if not paths:
        return 0
    try:
        from huggingface_hub.utils._shared_blobs import sweep_shared_blob
    except ImportError:
        return 0
    from pathlib import Path

    return sum(sweep_shared_blob(Path(path), cache_dir=models) for path in paths)
