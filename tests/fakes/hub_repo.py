"""What the fake hub holds: repositories as plain folders, with the ids that git and git-lfs would give their files."""

import fnmatch
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

META = ".hub.json"
LFS_BYTES = 10 << 20
"""The hub wants files of this size in LFS, whatever their names are."""
LFS_NAMES = ("*.safetensors", "*.bin", "*.pt", "*.gguf", "*.msgpack")
ZEROS = "/dev/zero"
"""Where the bytes of a sparse file come from."""
DATE = "2025-01-01T00:00:00.000Z"

FRESH = 0.1
"""Seconds for which a look at a folder counts: a client fetches thousands of files, and each look walks through all."""
_looks: dict[Path, tuple[float, bytes, tuple[tuple[str, str, int, int, int], ...]]] = {}
_opening = threading.Lock()  # two connections that ask for a big file do not both hash it
_zeros = {0: hashlib.sha256()}  # size -> the hash of so many zeros, to go on from


@dataclass(frozen=True)
class Meta:
    """What a repository's `.hub.json` says; `tests/fakes/hub.py` describes it."""

    private: bool = False
    gated: bool = False
    disabled: bool = False
    moved_to: str = ""
    commit: str = ""
    revisions: Mapping[str, str] = field(default_factory=dict)
    sparse: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One file of a repository: what it is called, where its bytes are, and its hash."""

    path: str
    place: str
    size: int
    sha256: str
    """Of an LFS file; empty for a file that git holds itself."""
    oid: str
    """The git blob id of the file, or of the pointer that stands for it."""
    pointer_bytes: int

    @property
    def etag(self) -> str:
        return f'"{self.sha256 or self.oid}"'

    def listed(self) -> dict[str, Any]:
        """The entry in an answer of `tree` and `paths-info`."""
        plain = {"type": "file", "oid": self.oid, "size": self.size, "path": self.path}
        return plain | ({"lfs": self._lfs("oid")} if self.sha256 else {})

    def sibling(self, blobs: bool) -> dict[str, Any]:
        """The entry in an answer of the model's info."""
        if not blobs:
            return {"rfilename": self.path}
        plain = {"rfilename": self.path, "size": self.size, "blobId": self.oid}
        return plain | ({"lfs": self._lfs("sha256")} if self.sha256 else {})

    def _lfs(self, key: str) -> dict[str, Any]:
        return {key: self.sha256, "size": self.size, "pointerSize": self.pointer_bytes}


@cache
def _entry(path: str, place: str, size: int, *_version: int) -> Entry:
    """Hash the file at `place` once for each of its versions."""
    if size < LFS_BYTES and not any(fnmatch.fnmatch(path, pattern) for pattern in LFS_NAMES):
        return Entry(path, place, size, "", _blob(_read(place, size)), 0)
    sha256 = _sha256_of_zeros(size) if place == ZEROS else _sha256(place)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Entry(path, place, size, sha256, _blob(pointer), len(pointer))


def _read(place: str, size: int) -> bytes:
    with open(place, "rb") as file:
        return file.read(size)


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(place: str) -> str:
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_zeros(size: int) -> str:
    """Go on from the nearest smaller size that was asked for, so that many sizes cost what the largest one does."""
    if size not in _zeros:
        before = max(known for known in _zeros if known < size)
        digest, block = _zeros[before].copy(), bytes(1 << 20)
        for _ in range((size - before) >> 20):
            digest.update(block)
        digest.update(block[: (size - before) & ((1 << 20) - 1)])
        _zeros[size] = digest
    return _zeros[size].hexdigest()


def _versions(folder: Path) -> Iterator[tuple[str, str, int, int, int]]:
    """Tell of every real file below `folder` what changes with its content: arguments of `_entry`."""
    for base, _, names in os.walk(folder):
        for name in names:
            place = os.path.join(base, name)
            path = os.path.relpath(place, folder)
            if path != META:
                facts = os.stat(place)
                yield path, place, facts.st_size, facts.st_ino, facts.st_mtime_ns


@lru_cache(maxsize=64)
def _repo(folder: Path, repo_id: str, options: bytes, versions: tuple[tuple[str, str, int, int, int], ...]) -> "Repo":
    """Put a repository together once for every state of its folder: a client asks often, for hundreds of files."""
    try:
        meta = Meta(**json.loads(options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / META} is not understood: {error}") from error
    entries = [_entry(*version) for version in versions]
    entries += [_entry(path, ZEROS, size) for path, size in meta.sparse.items()]
    return Repo(repo_id, meta, {entry.path: entry for entry in sorted(entries, key=lambda entry: entry.path)})


class Repo:
    """A repository as its folder was when it was found."""

    def __init__(self, repo_id: str, meta: Meta, files: Mapping[str, Entry]) -> None:
        self.id, self.meta, self.files = repo_id, meta, files

    @classmethod
    def find(cls, root: Path, repo_id: str, *, lately: bool = False) -> "Repo | None":
        """Look for the repository; raise ValueError if its options are not understood.

        `lately`: an earlier look counts for a moment.
        """
        folder = root / repo_id
        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo_id) or not folder.is_dir():
            return None
        try:
            options = (folder / META).read_bytes()
        except FileNotFoundError:
            options = b"{}"
        with _opening:
            seen = _looks.get(folder)
            if seen is None or not lately or seen[1] != options or time.monotonic() > seen[0] + FRESH:
                _looks[folder] = seen = (time.monotonic(), options, tuple(_versions(folder)))
            return _repo(folder, repo_id, options, seen[2])

    @cached_property
    def commit(self) -> str:
        listing = "".join(f"{entry.path} {entry.oid}\n" for entry in self.files.values())
        return self.meta.commit or hashlib.sha1(listing.encode()).hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in ("main", self.commit) or revision in self.meta.revisions

    # --- answers -------------------------------------------------------------------------------------------------

    def info(self, blobs: bool) -> dict[str, Any]:
        """Answer for the model as a whole; with `blobs`, sizes and hashes of its files too."""
        return {
            "_id": self.commit[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.partition("/")[0],
            "sha": self.commit,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": self.meta.private,
            "gated": "auto" if self.meta.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["transformers", "safetensors"],
            "usedStorage": sum(entry.size for entry in self.files.values()),
            "siblings": [entry.sibling(blobs) for entry in self.files.values()],
            "spaces": [],
        }

    def refs(self) -> dict[str, Any]:
        """Answer with every name of the one commit that there is."""
        names = ("main", *self.meta.revisions)
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.commit} for name in names]
        return {"branches": branches, "converts": [], "tags": []}

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Answer with the files and folders in `folder`; with nothing if it does not exist."""
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        files: list[dict[str, Any]] = []
        folders: set[str] = set()
        for path, entry in self.files.items():
            if path.startswith(prefix):
                above = path[len(prefix) :].split("/")[:-1]
                folders |= {prefix + "/".join(above[: depth + 1]) for depth in range(len(above) if recursive else 1)}
                if recursive or not above:
                    files.append(entry.listed())
        return files + [
            {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
            for path in sorted(folders - {prefix})
        ]
