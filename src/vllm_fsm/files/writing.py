"""Put a JSON object in a file's place: all of it or nothing, whatever happens meanwhile.

A temporary file in the same directory is written, synced and renamed over the old one (or linked, where nothing may
stand there yet), then the directory is synced. Whatever is no regular file is never replaced: a symbolic link belongs
to somebody who manages the file in another way (Kubernetes' `..data`), and replacing it would cut that off.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from vllm_fsm.core.snapshot import Message
from vllm_fsm.files.reading import LIMIT, Broken, Empty, Good, kind, read_object
from vllm_fsm.messages import text as sentence

ABANDONED: Final = 3600.0
"""Seconds after which a temporary file of ours was left by a writer that died."""

_IDS: Final = {
    errno.EROFS: "WriteReadOnly",
    errno.EACCES: "WriteDenied",
    errno.EPERM: "WriteDenied",
    errno.ENOSPC: "WriteNoSpace",
    errno.EDQUOT: "WriteNoSpace",
    errno.ENOENT: "WriteNoDirectory",
    errno.ENOTDIR: "WriteNoDirectory",
    errno.EBUSY: "WriteIsMount",
    errno.EXDEV: "WriteIsMount",
}
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Refused(Exception):
    """A file was not written, and nothing was changed; `message` and the exception's text say why."""

    def __init__(self, message: Message) -> None:
        super().__init__(sentence(message))
        self.message = message


@dataclass(frozen=True, slots=True)
class Written:
    """What `update` did."""

    changed: bool
    """False when the file held all of it already and was left alone."""
    aside: str | None = None
    """Where the broken file that stood there is kept."""


def create(path: str | os.PathLike[str], content: Mapping[str, Any], mode: int) -> bool:
    """Write `content` where nothing stands; False, and nothing done, if something does (a dangling link counts).

    Of several writers that try this at once exactly one gets True. Raises Refused when it cannot be written.
    """
    name = os.fspath(path)
    with _refusing(name), _directory(name) as (directory, base):
        with _temporary(directory, base, encode(name, content), mode) as temporary:
            try:
                os.link(temporary, base, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # A file system without hard links. The claim keeps other writers of ours out; a reader may see it
                # empty until the rename.
                try:
                    os.close(os.open(base, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=directory))
                except FileExistsError:
                    return False
                os.rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
        _sync_directory(directory)
    return True


def replace(
    path: str | os.PathLike[str], content: Mapping[str, Any], mode: int, keep: datetime | None = None
) -> str | None:
    """Write `content` in the place of the regular file at `path`, or of nothing.

    With `keep` the old file stays beside it as `NAME.broken-20260131T235959Z` (that time), whose path is returned.
    Raises Refused when something else than a file stands there or it cannot be written.
    """
    name = os.fspath(path)
    with _refusing(name), _directory(name) as (directory, base):
        _refuse_other_than_file(name, directory, base)
        aside = None
        with _temporary(directory, base, encode(name, content), mode) as temporary:
            if keep is not None:
                aside = _keep_aside(name, directory, base, keep)
            try:
                os.rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                if aside is not None:
                    _restore(directory, aside, base)
                raise
        _sync_directory(directory)
    return None if aside is None else os.path.join(os.path.dirname(name), aside)


def update(
    path: str | os.PathLike[str],
    changes: Mapping[str, Any],
    mode: int,
    now: datetime | None = None,
    *,
    keep: bool = False,
) -> Written:
    """Set the fields in `changes` (None removes one) and keep all others as they are.

    A broken file is kept aside and begun anew; what is no file is refused. With `keep` a readable one is kept aside
    too, whose fields do not have the shape that they must have. Raises Refused.
    """
    name = os.fspath(path)
    reading = read_object(name)
    before: Mapping[str, Any] = reading.value if isinstance(reading, Good) else {}
    after = {key: value for key, value in {**before, **changes}.items() if key not in changes or value is not None}
    if isinstance(reading, Good) and after == before:
        return Written(changed=False)
    aside = None
    if isinstance(reading, Broken):
        if not reading.contents:
            with _refusing(name), _directory(name) as (directory, base):
                _refuse_other_than_file(name, directory, base)
            # A regular file that cannot be read for a reason which is not its own: nothing may be lost.
            raise Refused(Message.of("WriteFailed", file=name, detail="what stands there now cannot be read"))
        aside = replace(name, after, mode, keep=now or datetime.now(UTC))
    elif isinstance(reading, Good) and keep:
        aside = replace(name, after, mode, keep=now or datetime.now(UTC))
    elif isinstance(reading, (Good, Empty)) or not create(name, after, mode):
        replace(name, after, mode)
    return Written(changed=True, aside=aside)


def encode(path: str | os.PathLike[str], content: Mapping[str, Any]) -> bytes:
    """Return the JSON text to write. Raises Refused when it would be too large to be read again."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        data = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    if len(data) > LIMIT:
        raise Refused(Message.of("WriteTooLarge", file=os.fspath(path), limit=LIMIT))
    return data


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn an error of the operating system into a refusal."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        message = (
            Message.of(_IDS[number], file=name)
            if number in _IDS
            else Message.of("WriteFailed", file=name, detail=os.strerror(number))
        )
        raise Refused(message) from None


@contextlib.contextmanager
def _directory(name: str) -> Iterator[tuple[int, str]]:
    """Open the directory of `name`: all steps happen in it, even if it is moved meanwhile."""
    parent, base = os.path.split(name)
    descriptor = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor, base
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(directory: int, base: str, data: bytes, mode: int) -> Iterator[str]:
    """Write `data` to a new synced file beside `base`; it is removed unless it was renamed."""
    _sweep(directory, base)
    name = f".{base}.{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            _own(descriptor, directory, base)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield name
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)


def _own(descriptor: int, directory: int, base: str) -> None:
    """As root, give the file the owner of the one it replaces, else of the directory.

    A command run as root in a container must not take a file away from a controller that is not root.
    """
    if os.geteuid() != 0:
        return
    try:
        status = os.stat(base, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        status = os.fstat(directory)
    if (status.st_uid, status.st_gid) != (0, 0):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)


def _refuse_other_than_file(name: str, directory: int, base: str) -> None:
    try:
        mode = os.stat(base, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise Refused(Message.of("WriteIsNoFile", file=name, what=kind(mode)))


def _keep_aside(name: str, directory: int, base: str, when: datetime) -> str:
    """Give the file a second name and return that; where hard links are refused it is moved instead."""
    stamp = when.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in range(100):
        aside = f"{base}.broken-{stamp}" + (f"-{number}" if number else "")
        if _exists(directory, aside):
            continue
        try:
            os.link(base, aside, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError as error:
            # EPERM also comes from `fs.protected_hardlinks`, for a file that is not ours.
            if error.errno not in _NO_LINKS:
                raise
            os.rename(base, aside, src_dir_fd=directory, dst_dir_fd=directory)
        return aside
    raise Refused(Message.of("WriteFailed", file=name, detail="too many broken files are kept beside it already"))


def _restore(directory: int, aside: str, base: str) -> None:
    """Undo `_keep_aside`."""
    with contextlib.suppress(OSError):
        if _exists(directory, base):
            os.unlink(aside, dir_fd=directory)
        else:
            os.rename(aside, base, src_dir_fd=directory, dst_dir_fd=directory)


def _exists(directory: int, base: str) -> bool:
    try:
        os.stat(base, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _sync_directory(directory: int) -> None:
    # Some network and FUSE file systems cannot, and the content is in place all the same.
    with contextlib.suppress(OSError):
        os.fsync(directory)


def _sweep(directory: int, base: str) -> None:
    """Remove temporary files of writers that died; they may hold secrets."""
    oldest = time.time() - ABANDONED
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(f".{base}.") and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    if os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime < oldest:
                        os.unlink(name, dir_fd=directory)
