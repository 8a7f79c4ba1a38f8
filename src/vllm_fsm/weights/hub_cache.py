"""One repository's folder in the hub's cache: where things lie, and what we keep beside them.

The layout is huggingface_hub's (its guide "Understand caching"): `blobs/<etag>` hold the bytes, `snapshots/<commit>/…`
are links to them, `refs/<revision>` names a commit. A partial file of ours is `blobs/<etag>.incomplete`, which
huggingface_hub before 1.0 used as well; later ones add a random part that nobody can ever resume.

Ours is the folder `vllm-fsm/`: the list of a commit's files, so that a complete snapshot can be told without the hub.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from vllm_fsm.files import own
from vllm_fsm.weights.names import folder_of

OWN: Final = "vllm-fsm"
SCHEMA: Final = 1
PARTIAL: Final = ".incomplete"
PIECE: Final = 16 * 1024 * 1024
"""Bytes after which a partial file is synced: what a power cut may cost of each file that is being written."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OWN_PARTIAL = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\.incomplete")
_FOREIGN_PARTIAL = re.compile(r"(?P<etag>[0-9a-f]{40}|[0-9a-f]{64})\.[0-9a-f]{8}\.incomplete")

_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file that somebody else may have written can raise."""


class Unsafe(ValueError):
    """A hub's answer holds a name that would lead out of the cache, or is no name at all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a commit."""

    path: str
    """Within the repository, with `/`."""
    size: int
    """Bytes."""
    etag: str
    """The blob's name and the content's hash: SHA-256 of large files, git's blob hash (SHA-1) of the others."""

    @property
    def large(self) -> bool:
        """Whether the etag is a SHA-256."""
        return len(self.etag) == 64


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of one commit."""

    commit: str
    revision: str
    """The name under which the commit was asked for."""
    entries: Mapping[str, Entry] = field(repr=False)

    @classmethod
    def of(cls, commit: str, revision: str, entries: Iterable[Entry]) -> Listing:
        """Make a listing of what a hub or a file says.

        Raises:
            Unsafe: a name in it must not be used as a path.
        """
        if not is_commit(commit):
            raise Unsafe(f"commit {commit[:60]!r}")
        known = {}
        for entry in entries:
            if not _is_path(entry.path):
                raise Unsafe(f"file name {str(entry.path)[:120]!r}")
            if not isinstance(entry.etag, str) or not _ETAG.fullmatch(entry.etag):
                raise Unsafe(f"hash of {entry.path[:120]!r}")
            if type(entry.size) is not int or entry.size < 0:
                raise Unsafe(f"size of {entry.path[:120]!r}")
            known[entry.path] = entry
        return cls(commit, revision, known)


def is_commit(revision: str) -> bool:
    """Whether `revision` is a commit's full hash, which needs no reference."""
    return _COMMIT.fullmatch(revision) is not None


def _is_path(path: object) -> bool:
    """Whether `path` names a file below a folder, here as on the hub."""
    if not isinstance(path, str) or "\0" in path or "\\" in path:
        return False
    try:
        path.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may hold and no file system does
        return False
    return not {"", ".", ".."} & set(path.split("/"))


def boot_id() -> str:
    """Names this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class RepoFolder:
    """The folder of `repo_id` in the cache `models`."""

    def __init__(self, models: str | os.PathLike[str], repo_id: str) -> None:
        self.models = os.fspath(models)
        self.name = folder_of(repo_id)
        self.path = os.path.join(self.models, self.name)
        self.blobs = os.path.join(self.path, "blobs")
        self._own = os.path.join(self.path, OWN)

    def blob(self, entry: Entry) -> str:
        """Where the bytes of `entry` lie when they are complete."""
        return os.path.join(self.blobs, entry.etag)

    def partial(self, entry: Entry) -> str:
        """Where they are written until then."""
        return self.blob(entry) + PARTIAL

    def lock(self, etag: str) -> str:
        """The file that huggingface_hub locks while it writes a blob."""
        return os.path.join(self.models, ".locks", self.name, f"{etag}.lock")

    def snapshot(self, commit: str, path: str = "") -> str:
        """Where the file `path` of `commit` is read."""
        return f"{self.path}/snapshots/{commit}/{path}"

    def ref(self, revision: str) -> str:
        """The file that says which commit `revision` is."""
        return os.path.join(self.path, "refs", *revision.split("/"))

    # --- reading -----------------------------------------------------------------------------------------------------

    def commit(self, revision: str) -> str | None:
        """Return the commit that the cache has for `revision`, None if it has none."""
        if is_commit(revision):
            return revision if os.path.isdir(self.snapshot(revision)) else None
        try:
            commit = own.read(self.ref(revision), 1000, follow=True).decode("ascii").strip()
        except (OSError, ValueError):
            return None
        return commit if is_commit(commit) else None

    def commits(self) -> list[str]:
        """Return all commits of which something is here."""
        try:
            return sorted(name for name in os.listdir(os.path.join(self.path, "snapshots")) if is_commit(name))
        except OSError:
            return []

    def listing(self, commit: str) -> Listing | None:
        """Return the list of the commit's files, ours or huggingface_hub's (`trees/`), None if there is neither."""
        try:
            return _own_listing(_load(os.path.join(self._own, f"{commit}.json")), commit)
        except _UNREADABLE:
            pass
        try:
            return _tree_listing(_load(os.path.join(self.path, "trees", f"{commit}.json")), commit)
        except _UNREADABLE:
            return None

    def holds(self, commit: str, entry: Entry) -> bool:
        """Whether the file is there in its full size."""
        return _size(self.snapshot(commit, entry.path)) == entry.size

    def present(self, entry: Entry) -> int:
        """Return how many bytes of `entry` lie here, partial ones counted."""
        if _size(self.blob(entry)) == entry.size:
            return entry.size
        return min(entry.size, _size(self.partial(entry)) or 0)

    def written(self, wanted: Mapping[str, int]) -> int:
        """Return how many bytes lie here of the blobs `wanted` (etag → size), in the partial files of others too."""
        total = 0
        with suppress(OSError), os.scandir(self.blobs) as blobs:
            for blob in blobs:
                size = wanted.get(blob.name.partition(".")[0])
                with suppress(OSError):  # it became complete this moment
                    status = blob.stat(follow_symlinks=False)
                    # What is made long at once and filled later counts by what was filled.
                    there = status.st_size if blob.name in wanted else min(status.st_size, status.st_blocks * 512)
                    total += 0 if size is None else min(size, there)
        return total

    def read(self, commit: str, path: str, limit: int = 64 * 1024 * 1024) -> bytes | None:
        """Return the file's content, None if it cannot be read or is larger than `limit` bytes."""
        try:
            return own.read(self.snapshot(commit, path), limit, follow=True)
        except OSError:
            return None

    def files(self, commit: str) -> list[str]:
        """Return the paths of what the snapshot holds and can be read; links that lead nowhere are left out."""
        top = self.snapshot(commit)
        found = []
        pending = [""]
        while pending:
            below = pending.pop()
            try:
                with os.scandir(os.path.join(top, below)) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{below}{entry.name}/")
                        elif _is_file(entry):
                            found.append(below + entry.name)
            except OSError:
                continue
        return sorted(found)

    def busy(self) -> bool:
        """Whether somebody is writing one of its blobs, as far as that can be seen."""
        try:
            etags = [name.removesuffix(".lock") for name in os.listdir(os.path.dirname(self.lock("")))]
        except OSError:
            return False
        return any(_locked(self.lock(etag)) for etag in etags)

    def stale(self) -> list[str]:
        """Return the paths of partial files that belong to nothing any more.

        Ours belong to a listing that names them; those of others to whoever holds the lock.
        """
        partials = list(self._partials())
        wanted = self._listed() if partials else set()
        found = []
        for path, name in partials:
            foreign = _FOREIGN_PARTIAL.fullmatch(name)
            etag = foreign["etag"] if foreign else name.removesuffix(PARTIAL)
            if (foreign or etag not in wanted) and not _locked(self.lock(etag)):
                found.append(path)
        return found

    # --- writing -----------------------------------------------------------------------------------------------------

    def prepare(self, listing: Listing) -> None:
        """Make the folders, keep `listing`, drop what it supersedes, and cut partial files that a power cut broke.

        Raises:
            OSError: the cache cannot be written.
        """
        for folder in (self.blobs, self._own, self.snapshot(listing.commit)):
            os.makedirs(folder, exist_ok=True)
        self._after_power_cut()
        for name in os.listdir(self._own):
            commit, _, ending = name.partition(".")
            if ending == "json" and commit != listing.commit and self._revision(commit) == listing.revision:
                os.unlink(os.path.join(self._own, name))
        files = {entry.path: {"size": entry.size, "etag": entry.etag} for entry in listing.entries.values()}
        content = {"schema": SCHEMA, "revision": listing.revision, "files": files}
        _write(os.path.join(self._own, f"{listing.commit}.json"), json.dumps(content))

    def link(self, commit: str, entry: Entry) -> None:
        """Make the complete blob readable under its path.

        Raises:
            OSError: it could not be.
        """
        place = self.snapshot(commit, entry.path)
        target = os.path.relpath(self.blob(entry), os.path.dirname(place))
        try:
            if os.readlink(place) == target:
                return
        except OSError:
            pass
        os.makedirs(os.path.dirname(place), exist_ok=True)
        temporary = f"{place}.{os.getpid()}.tmp"
        # Process numbers come again soon in a container: a killed one may have left the same name.
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        os.replace(temporary, place)

    def refer(self, listing: Listing) -> None:
        """Say that the revision is this commit. Last of all: until then the earlier commit is what a start finds.

        Raises:
            OSError: it could not be said.
        """
        if not is_commit(listing.revision):
            path = self.ref(listing.revision)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, listing.commit)

    def discard(self, entry: Entry) -> int:
        """Remove what is there of a partial blob of ours; return how many bytes that were."""
        size = _size(self.partial(entry), follow=False)
        if size is None:
            return 0
        os.unlink(self.partial(entry))
        return min(entry.size, size)

    def sweep(self) -> int:
        """Remove partial files that belong to nothing any more; return how many."""
        removed = 0
        for path in self.stale():
            try:
                os.unlink(path)
                removed += 1
            except OSError:
                continue
        return removed

    def _partials(self) -> Iterator[tuple[str, str]]:
        try:
            names = os.listdir(self.blobs)
        except OSError:
            return
        for name in names:
            if name.endswith(PARTIAL):
                yield os.path.join(self.blobs, name), name

    def _listed(self) -> set[str]:
        try:
            names = os.listdir(self._own)
        except OSError:
            return set()
        commits = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        listings = (self.listing(commit) for commit in commits)
        return {entry.etag for listing in listings if listing for entry in listing.entries.values()}

    def _revision(self, commit: str) -> str | None:
        listing = self.listing(commit)
        return listing.revision if listing else None

    def _after_power_cut(self) -> None:
        """Keep of each partial file what was synced, if the kernel is another than the one that wrote it."""
        mark = os.path.join(self._own, "boot")
        now = boot_id()
        try:
            if own.read(mark).decode("ascii") == now:
                return
        except (OSError, ValueError):
            pass
        for path, name in self._partials():
            # Somebody else's may be written at this moment, and links are nobody's.
            ours = _OWN_PARTIAL.fullmatch(name) and not _locked(self.lock(name.removesuffix(PARTIAL)))
            if ours and (size := _size(path, follow=False)) is not None:
                os.truncate(path, size // PIECE * PIECE)
        _write(mark, now)


def _own_listing(content: dict[str, Any], commit: str) -> Listing:
    if content["schema"] != SCHEMA:
        raise ValueError(content["schema"])
    files = content["files"].items()
    return Listing.of(commit, content["revision"], (Entry(path, file["size"], file["etag"]) for path, file in files))


def _tree_listing(content: dict[str, Any], commit: str) -> Listing:
    """Read what huggingface_hub 2.4 keeps (`_tree_cache.py`, format 1)."""
    if content["format_version"] != 1:
        raise ValueError(content["format_version"])
    files = content["files"].items()
    entries = (Entry(path, file["size"], file.get("lfs_sha256") or file["blob_id"]) for path, file in files)
    return Listing.of(commit, "", entries)


def _load(path: str) -> dict[str, Any]:
    content = json.loads(own.read(path, follow=True))
    if not isinstance(content, dict):
        raise TypeError(path)
    return content


def _size(path: str, *, follow: bool = True) -> int | None:
    """Return the size of a regular file in bytes, None if there is none."""
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _write(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(own.open_anew(temporary, 0o644), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _locked(path: str) -> bool:
    """Whether somebody holds the lock file as `filelock` does (flock), or may do so where it cannot be opened."""
    try:
        descriptor = own.open_to_read(path, follow=True)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
