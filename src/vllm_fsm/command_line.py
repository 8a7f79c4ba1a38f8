"""Read serve arguments as vLLM's parser does, against a table of its flags, and say what it would refuse.

The order of its steps is in `vllm_fsm.arguments`; the last step is `argparse` of Python 3.11 to 3.13. Unlike argparse
this goes on behind a mistake, so that all of them can be told at once, each with its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from vllm_fsm.complaints import Complaint, Part, Severity, error, nearest, note, shown
from vllm_fsm.flag_values import judge, size
from vllm_fsm.flags import Flag, Table

MANY: Final = 4
"""So many flags are listed for a beginning that fits several."""

GUESSES: Final = 20
"""Unknown flags for which the nearest known one is looked for; bounds the time that nonsense takes."""

LEVEL: Final = "--optimization-level"

_MODEL = re.compile(r"--model(?:=.+|$)")
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
_DASHES: Final = "-‐‑‒–—―−"
"""What word processors make of `-` and `--`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One word of the command line as argparse gets it."""

    text: str
    index: int
    """The argument that it comes from."""
    offset: int = 0
    """Where its text begins in that argument."""
    keys: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """For JSON that was put together from `--flag.key value`: the argument of each key."""


@dataclass(frozen=True, slots=True)
class Given:
    """One flag on the command line."""

    flag: Flag
    name: str
    """Which of its names was written, or was begun."""
    place: Piece
    values: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A command line that was read."""

    given: tuple[Given, ...]
    complaints: tuple[Complaint, ...]

    def last(self, name: str) -> Given | None:
        """Return the last of the flag that has this name: the one that counts."""
        return next((given for given in reversed(self.given) if name in given.flag.names), None)


def read(arguments: Sequence[str], table: Table) -> Line:
    """Read the arguments that follow `vllm serve`. A `--config` file is not looked into."""
    reader = _Reader(table)
    reader.arrange([Piece(argument, index) for index, argument in enumerate(arguments)])
    return Line(tuple(reader.given), tuple(reader.complaints))


class _Reader:
    """Holds what was found so far."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.given: list[Given] = []
        self.complaints: list[Complaint] = []

    # --- what FlexibleArgumentParser.parse_args does before argparse ---

    def arrange(self, pieces: list[Piece]) -> None:
        self._consume(self._merged(self._renamed(self._model_first(pieces))))

    def _model_first(self, pieces: list[Piece]) -> list[Piece]:
        at = next((at for at, piece in enumerate(pieces) if _MODEL.match(piece.text)), None)
        if at is None:
            return pieces
        named, behind = pieces[at], at + 1
        if named.text == "--model":
            if behind == len(pieces):
                self.complaints.append(error("FlagNeedsValue", named.index, flag="--model"))
                return pieces[:at]
            named, behind = pieces[behind], behind + 1
        else:
            named = Piece(named.text.removeprefix("--model="), named.index, len("--model="))
        return [named, *pieces[:at], *pieces[behind:]]

    def _renamed(self, pieces: list[Piece]) -> list[Piece]:
        """Write names with dashes, `--help=…` as `--help`, and `-OX` as `--optimization-level X`."""
        renamed: list[Piece] = []
        for at, piece in enumerate(pieces):
            text = piece.text
            if text.startswith("--help="):
                renamed.append(Piece("--help", piece.index))
            elif text.startswith("--"):
                head, equals, value = text.partition("=")
                name, dot, path = head[2:].partition(".")
                plain = "--" + name.replace("_", "-") + dot + path + equals + value
                renamed.append(Piece(plain, piece.index, piece.offset))
            elif text.startswith("-O") and text != "-O":
                start = 3 if text[2] == "=" else 2
                renamed += (Piece(LEVEL, piece.index), Piece(text[start:], piece.index, start))
            elif text == "-O" and at + 1 < len(pieces) and pieces[at + 1].text in ("0", "1", "2", "3"):
                renamed.append(Piece(LEVEL, piece.index))
            else:
                renamed.append(piece)
        return renamed

    def _merged(self, pieces: list[Piece]) -> list[Piece]:
        """Put `-flag.path=value` and `-flag.path value` together, as one JSON text for each flag behind all others."""
        plain: list[Piece] = []
        objects: dict[str, dict[str, Any]] = {}
        sources: dict[str, dict[str, int]] = {}
        places: dict[str, Piece] = {}
        rest = iter(pieces)
        for piece in rest:
            head, equals, value = piece.text.partition("=")
            if not head.startswith("-") or "." not in head:
                plain.append(piece)
                continue
            if not equals:
                following = next(rest, None)
                if following is None:
                    if _NEGATIVE.fullmatch(head):
                        self._complain("NumberLooksLikeFlag", piece, value=head)
                    else:
                        self._complain("PathNeedsValue", piece, flag=shown(head.partition(".")[0]))
                    break
                value = following.text
            found: Any = _meant(value)
            if head.endswith("+"):
                head, found = head[:-1], value.split(",")
            name, *path = head.split(".")
            for key in reversed(path):
                found = {key: found}
            _merge(objects.setdefault(name, {}), found)
            sources.setdefault(name, {}).setdefault(path[0] if path else "", piece.index)
            places.setdefault(name, piece)
        for name, content in objects.items():
            index = places[name].index
            plain += (Piece(name, index), Piece(json.dumps(content), index, keys=sources[name]))
            flag = self._flag(name)
            if flag is not None and flag.kind not in ("object", "json", "json or text", "integer", "number"):
                self.complaints.append(note("FlagTakesNoPath", index, flag=flag.name))
        return plain

    def _flag(self, name: str) -> Flag | None:
        meant = self._meant_by(name)
        return self._table.flags[meant[0]] if len(meant) == 1 else None

    # --- what argparse does ---

    def _meant_by(self, name: str) -> list[str]:
        """Return the names that a name may stand for: itself, or those that it begins."""
        if name in self._table.flags:
            return [name]
        return [flag for flag in self._table.flags if flag.startswith(name)]

    def _option(self, piece: Piece) -> tuple[str, str | None] | list[str] | None:
        """Return what a word is to argparse (`ArgumentParser._parse_optional`).

        A flag's name and what follows it in the same word; or the names that it may stand for, if these are none or
        several; or None for a value.
        """
        text = piece.text
        if not text.startswith("-") or text == "-":
            return None
        if text in self._table.flags:
            return text, None
        head, equals, value = text.partition("=")
        explicit = value if equals else None
        if equals and head in self._table.flags:
            return head, explicit
        found: list[tuple[str, str | None]]
        if text.startswith("--"):
            found = [(name, explicit) for name in self._table.flags if name.startswith(head)]
        else:
            found = [
                (name, text[2:] if name == text[:2] else None)
                for name in self._table.flags
                if name == text[:2] or name.startswith(text)
            ]
        if len(found) == 1:
            return found[0]
        if not found and (_NEGATIVE.fullmatch(text) or " " in text):
            return None
        return [name for name, _ in found]

    def _consume(self, pieces: list[Piece]) -> None:
        """Share the words out among the flags, with one left over for the model."""
        end = next((at for at, piece in enumerate(pieces) if piece.text == "--"), len(pieces))
        options = [self._option(piece) for piece in pieces[:end]] + [None] * (len(pieces) - end)
        model = False
        before: Given | str | None = None
        """The switch or the unknown flag directly before, which a stray word probably belongs to."""
        at = 0
        while at < len(pieces):
            piece, option = pieces[at], options[at]
            at += 1
            if piece.text == "--":
                before = None
            elif option is None:
                if not model:
                    model = True
                elif before is None:
                    self._extra(piece)
                elif isinstance(before, Given):
                    self._complain("FlagTakesNoValue", piece, flag=before.name, value=shown(piece.text))
                before = None
            elif isinstance(option, list):
                self._no_flag(piece, option)
                before = piece.text
            else:
                free = at
                while free < len(pieces) and options[free] is None and pieces[free].text != "--":
                    free += 1
                at += self._take(piece, *option, pieces[at:free])
                before = self.given[-1] if self.given and not self.given[-1].values else None

    def _take(self, piece: Piece, name: str, explicit: str | None, following: list[Piece]) -> int:
        """Note one flag, and return how many of the words that follow it are its values."""
        flag = self._table.flags[name]
        offset = len(piece.text) - len(explicit or "")
        while flag.values == "0" and explicit and not name.startswith("--"):
            # `-xY` is `-x` and then `-Y` to argparse.
            self.given.append(Given(flag, name, piece, ()))
            name, explicit = f"-{explicit[0]}", explicit[1:] or None
            offset += 1
            if name not in self._table.flags:
                self._complain("FlagTakesNoValue", piece, flag=flag.name, value=shown(piece.text.partition("=")[2]))
                return 0
            flag = self._table.flags[name]
        values: list[Piece] = []
        taken = 0
        if explicit is not None:
            values = [Piece(explicit, piece.index, piece.offset + offset)]
            if flag.values == "0":
                self._complain("FlagTakesNoValue", piece, flag=flag.name, value=shown(explicit))
                values = []
        elif flag.values != "0":
            taken = len(following) if flag.values == "+" else min(1, len(following))
            values = following[:taken]
            if not values and flag.values != "?":
                self._complain("FlagNeedsValue", piece, flag=flag.name)
        given = Given(flag, name, piece, tuple(values))
        self.given.append(given)
        for value in values:
            self._judge(given, value)
        return taken

    def _judge(self, given: Given, value: Piece) -> None:
        if (given.flag.kind == "lora" and not value.text) or value.text == "--":
            # Behind an equals sign `--` is nothing to argparse of Python 3.11, and a text to later ones.
            return
        judgement = judge(given.flag, value.text)
        if judgement is None:
            return
        message, at = judgement
        index = value.index
        if value.keys:
            # JSON of our own making: the characters in it are nowhere to be seen.
            key = next((key for key in value.keys if value.text.find(json.dumps(key)) == at and at), None)
            index, at = value.keys.get(key or "", index), 0
        self.complaints.append(Complaint(Severity.ERROR, message, Part.ARGUMENTS, index, value.offset + at))

    # --- what is said ---

    def _complain(self, id_: str, piece: Piece, **params: str | int) -> None:
        self.complaints.append(error(id_, piece.index, piece.offset, **params))

    def _no_flag(self, piece: Piece, meant: list[str]) -> None:
        name = piece.text.partition("=")[0]
        if meant:
            listed = ", ".join(meant) if len(meant) <= MANY else f"{', '.join(meant[:MANY])}, …"
            self._complain("FlagAmbiguous", piece, flag=shown(name), meant=listed)
        else:
            self._unknown(("FlagUnknown", "FlagUnknownMeant"), piece, flag=shown(name))

    def _extra(self, piece: Piece) -> None:
        self._unknown(("ArgumentExtra", "ArgumentExtraMeant"), piece, argument=shown(piece.text))

    def _unknown(self, ids: tuple[str, str], piece: Piece, **params: str) -> None:
        """Complain by the second id where a flag is probably meant, else by the first."""
        name = piece.text.partition("=")[0].lstrip(_DASHES).replace("_", "-")
        long = [flag.removeprefix("--") for flag in self._table.flags if flag.startswith("--")]
        guess = len(name) > 1 and len(self.complaints) < GUESSES
        meant = nearest(name, long) if guess else None
        # A word without dashes is no slip of a flag unless it is the very name.
        if meant is not None and (piece.text[:1] in _DASHES or meant == name):
            self._complain(ids[1], piece, **params, meant=f"--{meant}")
        else:
            self._complain(ids[0], piece, **params)


def _meant(value: str) -> Any:
    """Return what a value behind a JSON path is: JSON, a size, or text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return size(value)
    except (ValueError, OverflowError):
        return value


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        there = into.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            _merge(there, value)
        elif isinstance(value, list) and isinstance(there, list):
            there += value
        else:
            into[key] = value
