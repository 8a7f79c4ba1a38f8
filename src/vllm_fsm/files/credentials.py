"""`credentials.json`: the API key, on a volume that other services may read."""

from __future__ import annotations

import os
import re
import secrets
import string
from datetime import datetime
from typing import Final

from vllm_fsm.core.snapshot import Message, Secret
from vllm_fsm.files.reading import Broken, Empty, Good, Missing, Object, Reading, parse_object, read_bytes
from vllm_fsm.files.store import FileModel, shaped
from vllm_fsm.files.writing import create, replace

MODE: Final = 0o644
"""Dependent services read it under another user id; the volume is what guards it."""

FIELD: Final = "apiKey"
LENGTH: Final = 22
"""Characters of a generated key: 22 of 62 are 131 bits."""
LONGEST: Final = 512
ALPHABET: Final = string.ascii_letters + string.digits

_USABLE = re.compile(rf"[!-~]{{1,{LONGEST}}}")


class Credentials(FileModel):
    """The contents of `credentials.json`."""

    api_key: str | None = None

    def key(self) -> Secret | None:
        """Return the key, None where a new one is to be made."""
        return Secret(self.api_key) if self.api_key else None


def new_key() -> Secret:
    """Return a fresh key from the operating system's random source."""
    return Secret("".join(secrets.choice(ALPHABET) for _ in range(LENGTH)))


def is_usable(key: str) -> bool:
    """Whether `key` can stand in an HTTP header: 1 to 512 printable ASCII characters without blanks."""
    return _USABLE.fullmatch(key) is not None


def parse_credentials(path: str | os.PathLike[str], raw: bytes) -> Reading[tuple[Credentials, Object]]:
    """Return the credentials in `raw`, which was read from `path`, and the whole object they stand in."""
    content = parse_object(path, raw)
    if not isinstance(content, Good):
        return content
    credentials = shaped(path, content.value, Credentials)
    if not isinstance(credentials, Good):
        return credentials
    if (key := credentials.value.api_key) and not is_usable(key):
        return Broken(Message.of("FileBadKey", file=os.fspath(path), limit=LONGEST))
    return Good((credentials.value, content.value))


def read_credentials(path: str | os.PathLike[str]) -> Reading[tuple[Credentials, Object]]:
    """Return the credentials at `path` and the whole object they stand in."""
    raw = read_bytes(path)
    return parse_credentials(path, raw.value) if isinstance(raw, Good) else raw


def store_new_key(path: str | os.PathLike[str], reading: Good[Object] | Missing | Empty) -> Secret | None:
    """Make a key, store it at `path`, where `reading` was found, and return it; other fields are kept.

    None when a file appeared where none was: somebody else was faster, read again. Raises Refused.
    """
    key = new_key()
    if isinstance(reading, Missing):
        return key if create(path, {FIELD: key.reveal()}, MODE) else None
    kept = reading.value if isinstance(reading, Good) else {}
    replace(path, {**kept, FIELD: key.reveal()}, MODE)
    return key


def begin_anew(path: str | os.PathLike[str], now: datetime) -> tuple[Secret, str]:
    """Store a new key in the place of a broken file; return it and where that file is kept. Raises Refused."""
    key = new_key()
    aside = replace(path, {FIELD: key.reveal()}, MODE, keep=now)
    assert aside is not None
    return key, aside
