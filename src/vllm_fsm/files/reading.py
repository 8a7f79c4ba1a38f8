"""Read one JSON object from a path that may hold anything: content, or what is wrong with it in words.

Nothing here waits: a fifo or a device in the file's place is not opened, and no more than `LIMIT` bytes are read.
Symbolic links are followed. A byte order mark is accepted, as editors on Windows write one. A key that stands twice in
one object makes the file broken: which of the two was meant is not ours to guess.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NoReturn, TypeVar

from vllm_fsm.core.snapshot import Message

LIMIT: Final = 1024 * 1024
"""Bytes. The largest real store is a few kilobytes."""

DEEPEST: Final = 64
"""Levels of nesting; far below what Python's encoder can write back."""

OBJECT: Final = "an object"
WHOLE: Final = "the top level"
"""What is no field of an object, in words."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Good(Generic[T]):
    """The file holds `value`."""

    value: T = field(repr=False)


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing has this name; the directory may be missing too."""


@dataclass(frozen=True, slots=True)
class Empty:
    """A file without anything but blanks: what an in-place write shows for a moment."""

    message: Message


@dataclass(frozen=True, slots=True)
class Broken:
    """Something else than usable content stands there."""

    message: Message
    contents: bool = True
    """It is a regular file and its contents or permissions are at fault, so that keeping it aside is a way out.
    False for what is no file, and for failures that may be ours (no descriptors, no memory, a failing disk)."""


Raw = Good[bytes] | Missing | Broken
Reading = Good[T] | Missing | Empty | Broken
Object = dict[str, Any]

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a symbolic link"),
)
_HARMLESS = re.compile(r"[A-Za-z][A-Za-z]{0,31}")
"""Keys that may be repeated in a message; a pasted token has digits or underscores or is longer."""


class _Rejected(ValueError):
    """Valid JSON that is not accepted; carries the message's id and parameters."""

    def __init__(self, id_: str, **params: str | int) -> None:
        super().__init__(id_)
        self.id = id_
        self.params = params


def kind(mode: int) -> str:
    """Return what a file of this `st_mode` is, in words."""
    return next((words for test, words in _KINDS if test(mode)), "not a regular file")


def read_bytes(path: str | os.PathLike[str], limit: int = LIMIT) -> Raw:
    """Return the bytes of the regular file that `path` leads to, at most `limit`."""
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(mode := os.stat(name).st_mode):
            # Not opened: a fifo's writer would notice, and some devices do things when opened.
            return Broken(Message.of("FileIsNoFile", file=name, what=kind(mode)), contents=False)
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        return _unreadable(name, error)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return Broken(Message.of("FileIsNoFile", file=name, what=kind(status.st_mode)), contents=False)
        if status.st_size > limit:
            return Broken(Message.of("FileTooLarge", file=name, limit=limit))
        content = bytearray()
        while block := os.read(descriptor, limit + 1 - len(content)):
            content += block
            if len(content) > limit:
                return Broken(Message.of("FileTooLarge", file=name, limit=limit))
    except OSError as error:
        return _unreadable(name, error)
    finally:
        os.close(descriptor)
    return Good(bytes(content))


def parse_object(path: str | os.PathLike[str], raw: bytes) -> Reading[Object]:
    """Return the JSON object in `raw`, which was read from `path`."""
    name = os.fspath(path)

    def broken(id_: str, **params: str | int) -> Broken:
        return Broken(Message.of(id_, file=name, **params))

    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return broken("FileNotUtf8", offset=error.start + 1)
    if not text.strip():
        return Empty(Message.of("FileEmpty", file=name))
    if (nul := raw.find(b"\0")) >= 0:
        return broken("FileHasNul", offset=nul + 1)
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        # Its text is fixed apart from what may follow a colon: one character of the file.
        detail = error.msg.partition(":")[0].lower()
        return broken("FileNotJson", line=error.lineno, column=error.colno, detail=detail)
    except _Rejected as rejected:
        return broken(rejected.id, **rejected.params)
    except RecursionError:
        return broken("FileTooDeep", limit=DEEPEST)
    if not isinstance(value, dict):
        return broken("FileWrongShape", field=WHOLE, expected=OBJECT, found=json_type(value))
    if _depth_exceeds(value, DEEPEST):
        return broken("FileTooDeep", limit=DEEPEST)
    return Good(value)


def read_object(path: str | os.PathLike[str], limit: int = LIMIT) -> Reading[Object]:
    """Return the JSON object in the file that `path` leads to."""
    raw = read_bytes(path, limit)
    return parse_object(path, raw.value) if isinstance(raw, Good) else raw


def json_type(value: object) -> str:
    """Return the JSON type of `value` in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case Mapping():
            return OBJECT
        case _:
            return "a list"


def _unreadable(name: str, error: OSError) -> Missing | Broken:
    if error.errno == errno.ENOENT:
        if os.path.islink(name):
            return Broken(Message.of("FileLinkDangling", file=name), contents=False)
        return Missing()
    detail = os.strerror(error.errno) if error.errno else type(error).__name__
    return Broken(
        Message.of("FileUnreadable", file=name, detail=detail),
        contents=error.errno in (errno.EACCES, errno.EPERM) and _is_regular(name),
    )


def _is_regular(name: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(name).st_mode)
    except OSError:
        return False


def _object(pairs: list[tuple[str, Any]]) -> Object:
    found: Object = {}
    for key, value in pairs:
        if key in found:
            raise _Rejected("FileDuplicateKey", key=f'"{key}"' if _HARMLESS.fullmatch(key) else "a key")
        found[key] = value
    return found


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits()
        raise _Rejected("FileNumberTooLarge") from None


def _number(text: str) -> float:
    if math.isinf(value := float(text)):
        raise _Rejected("FileNumberTooLarge")
    return value


def _constant(_text: str) -> NoReturn:
    """Refuse NaN and Infinity: Python writes them, JSON does not have them."""
    raise _Rejected("FileNotANumber")


def _depth_exceeds(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
