"""What is to be said about arguments before an engine is started with them: sentences with their places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from vllm_fsm.core.snapshot import Message

if TYPE_CHECKING:
    from vllm_fsm.words import Word

SHOWN: Final = 40
"""Characters of a value that a message repeats at most."""

ALIKE: Final = 0.65
"""How much two names have in common at least (`difflib`) when one is taken for a slip of the other."""

LONGEST_NAME: Final = 100
"""Characters of what may be a slip of a name; bounds the time spent on guessing."""

_NAME = re.compile(r"[\w.:/@,+= \-‐-―−]*")
_TOKEN = re.compile(r"(?:hf_|sk-|ghp_|glpat-)\w{16}|(?=[A-Za-z]{0,15}\d)[A-Za-z0-9]{16}")
"""Beginnings of well-known tokens, and rows of letters and digits as no name has them."""


class Severity(StrEnum):
    """Whether an engine may be started."""

    ERROR = "error"
    """Not with this: it would end at once, or not do as it is told."""
    NOTE = "note"
    """It may: this could not be decided, or does no harm."""


class Part(StrEnum):
    """What a complaint is about."""

    ARGUMENTS = "arguments"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing to be said, and where."""

    severity: Severity
    message: Message
    part: Part = Part.ARGUMENTS
    index: int | None = None
    """Which argument or variable, counted from 0; None: all of them."""
    offset: int = 0
    """The character in that argument, counted from 0."""
    position: int | None = None
    """The character in the argument string that the arguments were split from, counted from 0; see `placed`."""

    @property
    def code(self) -> str:
        """The stable word: the message's id."""
        return self.message.id


def error(id_: str, index: int | None, offset: int = 0, **params: str | int) -> Complaint:
    """Make an error about an argument."""
    return Complaint(Severity.ERROR, Message.of(id_, **params), Part.ARGUMENTS, index, offset)


def note(id_: str, index: int | None, offset: int = 0, **params: str | int) -> Complaint:
    """Make a note about an argument."""
    return Complaint(Severity.NOTE, Message.of(id_, **params), Part.ARGUMENTS, index, offset)


def placed(complaints: Iterable[Complaint], words: Sequence[Word]) -> tuple[Complaint, ...]:
    """Return the complaints about arguments, which are these words of a string, with their positions in the string."""
    return tuple(
        replace(complaint, position=words[complaint.index].place(complaint.offset))
        if complaint.part is Part.ARGUMENTS and complaint.index is not None
        else complaint
        for complaint in complaints
    )


def shown(text: str) -> str:
    """Return `text` in quotes fit for a message: cut when it is long, only its length when it may be a secret.

    Somebody's key in the place of a value is a mistake that must not end up in a log.
    """
    if _TOKEN.search(text) or not _NAME.fullmatch(text[: SHOWN + 1]):
        return f'"…" ({len(text)} characters)'
    return f'"{text}"' if len(text) <= SHOWN else f'"{text[: SHOWN - 1]}…"'


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` is probably a slip of."""
    found = get_close_matches(name, names, n=1, cutoff=ALIKE) if len(name) <= LONGEST_NAME else []
    return found[0] if found else None
