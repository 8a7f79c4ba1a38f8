"""Whether vLLM's parser takes a value for a flag, and if not, why: the conversions of `vllm/engine/arg_utils.py`."""

from __future__ import annotations

import json
import re
from typing import Final

from vllm_fsm.complaints import nearest, shown
from vllm_fsm.core.snapshot import Message
from vllm_fsm.flags import NONE, Flag

Judgement = tuple[Message, int]
"""Why a value is not taken, and the character in it, counted from 0."""

FEW: Final = 12
"""So many choices are listed in any case; of more the nearest is named, if there is one."""

_DECIMAL: Final = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BARE_SIZE = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_BRACES = re.compile(r"\s*{.*}\s*", re.DOTALL)


def size(text: str) -> int:
    """Read a whole number that may be written `1k` (1000), `1K` (1024) or `25.6k` (25600).

    Raises:
        ValueError: it is none, or has a fraction before a binary letter.
    """
    text = text.strip()
    if match := _SIZE.fullmatch(text):
        number, letter = match.groups()
        return int(float(number) * _DECIMAL[letter]) if letter in _DECIMAL else int(number) * _BINARY[letter]
    return int(text)


def judge(flag: Flag, text: str) -> Judgement | None:
    """Say why vLLM does not take `text` as a value of `flag`; None if it does, or if the table does not know."""
    if flag.optional and text in NONE:
        return None
    match flag.kind:
        case "integer" | "number" | "size" | "size or auto":
            return _number(flag, text)
        case "json":
            return _json(flag, text)
        case "json or text":
            return _json(flag, text) if _BRACES.fullmatch(text) and text not in NONE else None
        case "object":
            return _object(flag, text)
        case "lora":
            return None if "=" in text and "," not in text else _object(flag, text)
        case "folded":
            return _choice(flag, text, text.lower().replace("-", "_"))
        case _:
            return _choice(flag, text, text)


NO_CHOICE: Final = ("ValueNoChoice", "ValueNoChoiceMeant")
NO_KEY: Final = ("KeyUnknown", "KeyUnknownMeant")


def unknown(flag: str, text: str, names: tuple[str, ...], ids: tuple[str, str]) -> Message:
    """Say that `text` is none of `names`: by the first id with all of them, by the second with the nearest one."""
    meant = nearest(text, names) if len(names) > FEW else None
    if meant is not None:
        return Message.of(ids[1], flag=flag, value=shown(text), meant=meant)
    return Message.of(ids[0], flag=flag, value=shown(text), choices=", ".join(names))


def _number(flag: Flag, text: str) -> Judgement | None:
    try:
        match flag.kind:
            case "integer":
                number = int(text)
                if flag.choices and number not in flag.choices:
                    listed = ", ".join(map(str, flag.choices))
                    return Message.of("ValueNoChoice", flag=flag.name, value=shown(text), choices=listed), 0
            case "number":
                float(text)
            case "size or auto" if text.strip().lower() == "auto":
                pass
            case _:
                size(text)
    except (ValueError, OverflowError):
        return Message.of(_NO_NUMBER[flag.kind], flag=flag.name, value=shown(text)), 0
    return None


_NO_NUMBER: Final = {
    "integer": "ValueNoInteger",
    "number": "ValueNoNumber",
    "size": "ValueNoSize",
    "size or auto": "ValueNoSizeOrAuto",
}


def _choice(flag: Flag, text: str, value: str) -> Judgement | None:
    if not flag.choices or value in flag.choices:
        return None
    return unknown(flag.name, text, tuple(map(str, flag.choices)), NO_CHOICE), 0


def _object(flag: Flag, text: str) -> Judgement | None:
    """Judge a JSON object with known keys; bare sizes in it are written out before it is read."""
    spelled, shifts = (text, []) if flag.kind == "lora" else _spelled_out(text)
    try:
        found = json.loads(spelled)
    except json.JSONDecodeError as error:
        return _no_json(flag, error, _back(error.pos, shifts))
    except (RecursionError, ValueError):
        return Message.of("ValueJsonTooLarge", flag=flag.name), 0
    if not isinstance(found, dict):
        return Message.of("ValueNoObject", flag=flag.name), 0
    for key in found:
        if key not in flag.keys:
            at = max(text.find(json.dumps(key)), text.find(json.dumps(key, ensure_ascii=False)), 0)
            return unknown(flag.name, key, flag.keys, NO_KEY), at
    for key in flag.required:
        if key not in found:
            return Message.of("KeyMissing", flag=flag.name, key=key), 0
    return None


def _json(flag: Flag, text: str) -> Judgement | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return _no_json(flag, error, error.pos)
    except (RecursionError, ValueError):
        return Message.of("ValueJsonTooLarge", flag=flag.name), 0
    return None


def _no_json(flag: Flag, error: json.JSONDecodeError, at: int) -> Judgement:
    # Its text is fixed apart from what may follow a colon: one character of the value.
    detail = error.msg.partition(":")[0].lower()
    return Message.of("ValueNoJson", flag=flag.name, detail=detail, character=at + 1), at


def _spelled_out(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return JSON with bare sizes (`80m`) as numbers, and for each: where it has ended, and how much longer it got."""
    parts: list[str] = []
    shifts: list[tuple[int, int]] = []
    at = length = 0

    def put(part: str) -> None:
        nonlocal length
        parts.append(part)
        length += len(part)

    for string in (*_STRING.finditer(text), None):
        end = len(text) if string is None else string.start()
        outside = text[at:end]
        begin = 0
        for match in _BARE_SIZE.finditer(outside):
            put(outside[begin : match.start()])
            try:
                number = str(size(match.group()))
            except ValueError:  # a fraction before a binary letter
                number = match.group()
            put(number)
            shifts.append((length, len(number) - len(match.group())))
            begin = match.end()
        put(outside[begin:])
        if string is not None:
            put(string.group())
            at = string.end()
    return "".join(parts), shifts


def _back(position: int, shifts: list[tuple[int, int]]) -> int:
    """Return where a character of the written-out text stood before."""
    return position - sum(longer for end, longer in shifts if end <= position)
