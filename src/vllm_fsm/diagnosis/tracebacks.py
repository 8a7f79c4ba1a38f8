"""What one process reports of its failures: exceptions with their chains, found by how Python prints them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from vllm_fsm.diagnosis.causes import FACTS, ONLY_THERE, READ
from vllm_fsm.diagnosis.lines import Line

HEADER: Final = "Traceback (most recent call last):"
LINKS: Final = ("The above exception was the direct cause", "During handling of the above exception")
MOST_CONTINUED: Final = 40
"""Lines behind an exception that may still belong to its text."""
MOST_CHAINED: Final = 16
"""Exceptions without a traceback of their own that may be linked to the next one."""

_NAMED: Final = re.compile(r"((?:[A-Za-z_]\w*\.)*)([A-Za-z_]\w*)(?:: (.*)|:?)")
"""`module.Class: text`, or the class alone."""
_CLASS: Final = re.compile(r"\w*(?:Error|Exception|Interrupt|Exit|Timeout|Warning|Unavailable|error|exception)\d*")
"""What is a class of exceptions by its name, where no traceback stands before it."""
_LEVELS: Final = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "Process"})
_VALUE: Final = re.compile(r"\s*(?:Value|Assertion) error, (.*)")
"""How pydantic wraps what a validator raised; `ValidationError: 1 validation error for VllmConfig` stands before it."""
_TYPED: Final = re.compile(r" \[type=\w+,.*")
_FUNCTION: Final = re.compile(r' *File ".{1,400}", line \d+, in (\w+)')
VALIDATION: Final = "ValidationError"


@dataclass(slots=True)
class Said:
    """One exception as it was printed."""

    line: str
    """The line, without what the logger put before it."""
    kind: str
    """Its class, without the module."""
    text: str
    """Without its class; of several lines the first, for pydantic what the validator said."""
    loose: bool
    """No traceback stands before it, and no logger called it an error: it may be part of somebody's text.

    An exception that was never raised has no traceback of its own; it is one when the next line links another to it.
    """
    refused: bool
    """It was raised while arguments and configuration were looked at, before there was an engine."""
    traceback: int
    """The number of its traceback in what this process says."""
    facts: dict[str, str]
    """What the lines of this traceback tell besides: repository, host, status. It grows with them."""


@dataclass(slots=True)
class Reporter:
    """Reads the lines of one process, and says which of them are exceptions.

    A traceback is open from its header until its process logs something else. Chained exceptions are one traceback.
    """

    _number: int = 0
    _facts: dict[str, str] = field(default_factory=dict)
    _loose: list[Said] = field(default_factory=list)
    """Of the open traceback."""
    _open: bool = False
    _frames: bool = False
    """Between a header and its exception."""
    _continued: int = 0
    _refused: bool = False
    _bare: bool = False
    """No header was seen in the open traceback."""

    def read(self, line: Line) -> Said | None:
        """Take the next line; return the exception that it is."""
        text = line.text
        if line.level not in ("", "ERROR", "CRITICAL"):
            self._open = self._frames = False
            return None
        if not text:
            return None
        if text.startswith(HEADER):
            if not self._open:
                self._begin()
            self._frames, self._refused, self._bare = True, False, False
            return None
        if self._frames:
            return self._in_frames(text)
        if self._open:
            return self._behind(text, line.level)
        return self._alone(text, line.level)

    def _begin(self) -> None:
        self._open, self._frames, self._continued = True, False, 0
        self._refused, self._bare = False, True
        self._number += 1
        self._facts = {}
        self._loose.clear()

    def _in_frames(self, text: str) -> Said | None:
        wrapped = self._wrapped(text)
        if wrapped is not None:
            return wrapped
        if text[0] in " \t":
            function = _FUNCTION.match(text)
            self._refused = self._refused or (function is not None and function[1] in ONLY_THERE)
            return None
        found = _NAMED.fullmatch(text)
        # Other processes may write between two lines: what has no name of a class is theirs.
        if found is None or found[2] in _LEVELS or not (found[2][0].isupper() or _CLASS.fullmatch(found[2])):
            return None
        return self._said(text, found[2], found[3] or "", loose=False)

    def _behind(self, text: str, level: str) -> Said | None:
        """Lines after an exception: more of its text, what links it to the next, or another without its header."""
        if text.startswith(LINKS):
            for said in self._loose:
                said.loose = False
            self._loose.clear()
            return None
        self._note(text)
        wrapped = self._wrapped(text)
        if wrapped is not None:
            return wrapped
        if text[0] in " \t":
            return None  # a frame whose header is lost
        found = _NAMED.fullmatch(text)
        if found is not None and _CLASS.fullmatch(found[2]):
            return self._said(text, found[2], found[3] or "", loose=self._bare and not level)
        self._continued += 1
        if self._continued > MOST_CONTINUED:
            self._open = False
        return None

    def _alone(self, text: str, level: str) -> Said | None:
        if _VALUE.match(text):
            self._begin()
            return self._wrapped(text, loose=not level)
        found = _NAMED.fullmatch(text)
        if found is None or not _CLASS.fullmatch(found[2]):
            return None
        self._begin()
        return self._said(text, found[2], found[3] or "", loose=not level)

    def _wrapped(self, text: str, *, loose: bool = False) -> Said | None:
        found = _VALUE.match(text)
        return None if found is None else self._said(text.strip(), VALIDATION, _TYPED.sub("", found[1]), loose=loose)

    def _said(self, line: str, kind: str, text: str, *, loose: bool) -> Said:
        self._frames, self._continued = False, 0
        self._note(line)
        said = Said(line, kind, text, loose, self._refused, self._number, self._facts)
        if loose and len(self._loose) < MOST_CHAINED:
            self._loose.append(said)
        return said

    def _note(self, text: str) -> None:
        for pattern in FACTS:
            found = pattern.search(text)
            if found is not None:
                for name, value in found.groupdict().items():
                    if value is not None:
                        self._facts.setdefault(READ[name][0] if name in READ else name, value)
