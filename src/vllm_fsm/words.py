r"""Split an argument string into words as a POSIX shell does, and remember where each character came from.

Quotes and backslashes count, nothing is expanded. Inside double quotes a backslash guards `"` and `\` only, as in
Python's `shlex`, whose words these are; beyond it a backslash at the end of a line joins the next one, as in a shell.
What nobody types on purpose (control characters, marks of the writing direction, blanks that are no blanks to a shell)
is refused with its place: it would be seen in no form and in no error message.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.core.snapshot import Message

LIMIT: Final = 65536
"""Characters of an argument string; real ones have a few hundred, and a chat template a few thousand."""

BLANKS: Final = " \t\r\n"
"""What separates words."""

_INVISIBLE: Final = frozenset(
    map(chr, (0x061C, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF))
)
"""Marks and overrides of the writing direction, other line ends, and blanks without width. Joiners are left alone:
scripts and emoji need them."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of an argument string."""

    text: str
    start: int
    """Where it begins in the string, its quotes included; characters, counted from 0."""
    end: int
    """Where it has ended: the place behind its last character or quote."""
    places: tuple[int, ...] = field(repr=False)
    """Where each character of `text` stands in the string."""

    def place(self, offset: int) -> int:
        """Return where the character `offset` of the text stands; behind the last one: the end."""
        return self.places[offset] if offset < len(self.places) else self.end


class Unsplittable(ValueError):
    """The string has no words to be taken: `message` says why, `position` is the character, counted from 0."""

    def __init__(self, message: Message, position: int) -> None:
        super().__init__(message.id)
        self.message = message
        self.position = position


def split(text: str) -> list[Word]:
    """Return the words of `text`.

    Raises:
        Unsplittable: a quote is not closed, a backslash has nothing behind it, a character cannot be meant, or the text
            is longer than `LIMIT`.
    """
    if len(text) > LIMIT:
        raise Unsplittable(Message.of("ArgumentsTooLong", length=len(text), limit=LIMIT), LIMIT)
    words: list[Word] = []
    at = 0
    while at < len(text):
        if text[at] in BLANKS:
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        else:
            word = _word(text, at)
            words.append(word)
            at = word.end
    return words


def look_through(text: str) -> None:
    """See that every character of `text`, which is no string of arguments but one value, can be meant.

    Raises:
        Unsplittable: one cannot, or the text is longer than `LIMIT`.
    """
    if len(text) > LIMIT:
        raise Unsplittable(Message.of("ValueTooLong", length=len(text), limit=LIMIT), LIMIT)
    for at in range(len(text)):
        _look(text, at, quoted=True)


def _word(text: str, start: int) -> Word:
    """Return the word that begins at `start`."""
    letters: list[str] = []
    places: list[int] = []

    def take(at: int) -> None:
        _look(text, at, quoted is not None)
        letters.append(text[at])
        places.append(at)

    quoted: int | None = None
    """Where the open quote stands."""
    at = start
    while at < len(text):
        letter = text[at]
        quote = "" if quoted is None else text[quoted]
        if not quote and letter in BLANKS:
            break
        if letter == quote:
            quoted = None
        elif not quote and letter in "'\"":
            quoted = at
        elif letter == "\\" and quote != "'":
            if at + 1 == len(text):
                break
            following = text[at + 1]
            if following == "\n":
                pass
            elif not quote or following in '"\\':
                take(at + 1)
            else:
                take(at)
                take(at + 1)
            at += 1
        else:
            take(at)
        at += 1
    if quoted is not None:
        raise Unsplittable(Message.of("QuoteNotClosed", quote=text[quoted], character=quoted + 1), quoted)
    if at < len(text) and text[at] == "\\":
        raise Unsplittable(Message.of("NothingEscaped", character=at + 1), at)
    return Word("".join(letters), start, at, tuple(places))


def _look(text: str, at: int, quoted: bool) -> None:
    """Raise if the character at `at` cannot be meant."""
    letter = text[at]
    if letter.isprintable() or letter in BLANKS:
        return
    category = unicodedata.category(letter)
    if category in ("Cc", "Cs") or letter in _INVISIBLE or (category == "Zs" and not quoted):
        code = f"U+{ord(letter):04X}"
        raise Unsplittable(Message.of("CharacterRefused", code=code, character=at + 1), at)
