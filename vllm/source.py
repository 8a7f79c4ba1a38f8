"""vLLM's source as version.toml pins it, unpacked beside this file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import recipe
import registry

HERE = Path(__file__).resolve().parent
PINS = HERE / "version.toml"
MARK = ".vllm-fsm-sha256"
"""In the unpacked source: of which file it is."""
ROOM = 250_000_000
"""Bytes of the archive and of what is in it, and some for growth."""


class Unusable(Exception):
    """Why the source is not there, and what to do: one sentence or two."""


@dataclass(frozen=True)
class Wanted:
    """What version.toml asks for."""

    version: str
    """Of vLLM."""
    file: str
    """The name of its source distribution."""
    sha256: str


def wanted() -> Wanted:
    """Read version.toml."""
    read = tomllib.loads(PINS.read_text(encoding="utf-8"))
    return Wanted(read["vllm"]["version"], read["source"]["file"], read["source"]["sha256"])


class Source:
    """The source and the recipe that is made from it, in `home`."""

    def __init__(self, want: Wanted, home: Path = HERE) -> None:
        self.want = want
        self.home = home
        self.tree = home / "source"
        self.recipe = home / "docker" / "Dockerfile.cpu"
        self.old = home / ".source-before"
        """The source that was there, until the new one is in its place."""
        self.fresh = home / ".fetching"
        """Whatever is not complete yet; of the same file system, so that it can be renamed."""

    def make(self) -> Path:
        """Bring the source unless it is there, derive the recipe, and return its path.

        Raises:
            Unusable: it could not be done.
        """
        if not hasattr(tarfile, "data_filter"):
            raise Unusable("Python 3.11.4 or newer is needed, whose tarfile unpacks nothing outside its place.")
        try:
            with self._alone():
                if not self.complete:
                    self._bring()
                self._derive()
        except recipe.Unfit as error:
            raise Unusable(str(error)) from error
        except OSError as error:
            raise Unusable(self._explained(error)) from error
        return self.recipe

    @property
    def complete(self) -> bool:
        """Whether the source that is wanted is there."""
        try:
            return (self.tree / MARK).read_text(encoding="ascii").strip() == self.want.sha256
        except OSError:
            return False

    def _bring(self) -> None:
        archive = self.fresh / self.want.file
        self._download(archive)
        say(f"unpacking to {self.tree}")
        unpacked = self.fresh / "unpacked"
        try:
            with tarfile.open(archive) as file:
                file.extractall(unpacked, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise Unusable(f"{self.want.file} cannot be unpacked: {error}") from error
        top, *more = unpacked.iterdir()
        if more or not (top / "docker" / "Dockerfile.cpu").is_file():
            raise Unusable(f"{self.want.file} is no source distribution of vLLM with a recipe for the CPU.")
        (top / MARK).write_text(self.want.sha256 + "\n", encoding="ascii")
        if self.tree.exists():
            self.tree.rename(self.old)
        top.rename(self.tree)
        shutil.rmtree(self.old, ignore_errors=True)

    def _download(self, archive: Path) -> None:
        """Write the file that is wanted to `archive`, from the first index that has it."""
        said = []
        try:
            settings = registry.settings()
        except registry.Unreachable as error:
            raise Unusable(f"{error}: install pip, or run this with another Python.") from error
        for address in settings.indexes:
            try:
                index = registry.Index(address, settings.certificates)
            except (OSError, ValueError) as error:
                # The text of the second kind may hold the address with its password.
                why = error if isinstance(error, OSError) else "its address is none"
                said.append(f"a package index cannot be asked as it is set up ({why})")
                continue
            try:
                link = index.find("vllm", self.want.file)
                if link is None:
                    said.append(f"{index.address} has no {self.want.file}")
                    continue
                say(f"fetching {self.want.file} from {index.address}")
                self._write(index.fetch(link), archive, index.address)
                return
            except (OSError, http.client.HTTPException, ValueError) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                said.append(f"{index.address} cannot be asked ({error})")
        raise Unusable(
            f"{'; '.join(said) or 'pip is set up to ask no package index'}. Look at the network, the proxy and the "
            "certificates; PIP_INDEX_URL can name another index."
        )

    def _write(self, chunks: Iterator[bytes], archive: Path, address: str) -> None:
        digest = hashlib.sha256()
        with archive.open("wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != self.want.sha256:
            raise Unusable(
                f"{self.want.file} of {address} is not the file that was pinned: its SHA-256 is {digest.hexdigest()}, "
                f"{PINS.name} says {self.want.sha256}. It was removed; look at the index in use."
            )

    def _derive(self) -> None:
        upstream = (self.tree / "docker" / "Dockerfile.cpu").read_text(encoding="utf-8")
        text = recipe.derive(upstream, self.want.version)
        if self.recipe.exists() and self.recipe.read_text(encoding="utf-8") == text:
            return  # `make` would pack anew
        self.recipe.parent.mkdir(exist_ok=True)
        made = self.fresh / self.recipe.name
        made.write_text(text, encoding="utf-8")
        made.rename(self.recipe)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for another run; clear up after one that was cut off."""
        held = os.open(self.home, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if self.old.exists() and not self.tree.exists():
                self.old.rename(self.tree)
            for left in (self.old, self.fresh):
                shutil.rmtree(left, ignore_errors=True)
            self.fresh.mkdir()
            try:
                yield
            finally:
                shutil.rmtree(self.fresh, ignore_errors=True)
        finally:
            os.close(held)

    def _explained(self, error: OSError) -> str:
        if error.errno in FULL:
            return f"The disk is full: about {ROOM // 1_000_000} MB are needed in {self.home}."
        return f"{error.filename or self.home}: {error.strerror or error}"


FULL = (errno.ENOSPC, errno.EDQUOT)


def say(line: str) -> None:
    """Tell what goes on; the standard output has the path only."""
    print(f"vllm/fetch: {line}", file=sys.stderr)
