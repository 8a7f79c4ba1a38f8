"""Nothing secret leaves the controller in words, and nothing that a terminal would obey.

`Redactor` is told the secrets of this run and replaces them, and all that looks like one, by `***`. `plain` takes the
orders to a terminal out of a text. Relayed lines take both (`Redactor.line`); scrub a line before cutting it: half a
key is not recognised.

How far a secret is looked for depends on its length, because a text in which every `a` is replaced is unreadable, and
tells the key as well:

- 8 characters or more: everywhere;
- 4 to 7: as a whole word, that is with no letter, digit or underscore beside it;
- up to 3: only where the place shows that it is one (`Bearer …`, `api_key=…`, a password in a URL).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Final
from urllib.parse import quote, quote_plus, unquote

from vllm_fsm.core.snapshot import Secret
from vllm_fsm.core.states import Download, Engine, Service
from vllm_fsm.health import RESULTS
from vllm_fsm.messages import ENGLISH

MASK: Final = "***"

ANYWHERE: Final = 8
"""Secrets of so many characters and more are replaced inside of words too."""

AS_A_WORD: Final = 4
"""Secrets of so many characters and more are replaced as whole words; shorter ones only where a pattern fits."""

MOST: Final = 100
"""Secrets kept; the oldest is forgotten first. A key that was replaced so often ago opens nothing any more."""

DEEPEST: Final = 16
"""Levels of a structure that are looked into."""

OWN_WORDS: Final = frozenset(
    (*(member.value for states in (Service, Engine, Download) for member in states), *ENGLISH, *RESULTS.values())
)
"""Texts that the controller says by itself, whatever the key is. They count only as whole values, not in sentences."""

_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(?:PATH|FILE|DIR)$", re.IGNORECASE)
_SETTING = re.compile(r"true|false|none|null|auto|yes|no|on|off|-?[0-9.]{1,10}", re.IGNORECASE)
"""Values of variables like `TOKENIZERS_PARALLELISM` or `VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE`, which are no secrets."""

# Each pattern takes time proportional to the text: neighbouring parts share no characters, or are bounded.

_HUB_TOKEN = re.compile(
    r"(?:hf|api_org)_[A-Za-z0-9]{20,}"
    r"|(?<![A-Za-z0-9])(?:hf|api_org)_(?:oauth_[\w.\-]{8,}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,})"
)
"""Hub tokens are `hf_` and 34 letters and digits, whatever stands before them (`%3D` in an address). Shorter ones count
when they don't look like a name: `hf_overrides` and `hf_transfer` are names."""

_URL_PASSWORD = re.compile(r"(://[^\s/:@\"'<>]*:)[^\s/\"'<>]+@")

_AUTHORIZATION = re.compile(
    r"(authorization[\"']?\s{0,2}[:=,]\s{0,2}(?:b(?=[\"']))?[\"']?(?:(?:basic|bearer|digest|token)\s{1,2})?|\bbearer\s{1,2}(?!tokens?\b|auth))"
    r"[^\s\"',;)}\]]+",
    re.IGNORECASE,
)

_KEY_VALUE = re.compile(r"(api[-_]?key(?:[\"']?\s{0,2}[:=]|[\"'],)\s{0,2}[\[\"'(]{0,3})[^\s\"',;)}\]&]+", re.IGNORECASE)


_Spelling = tuple[str, re.Pattern[str] | None]
"""What to look for, and its pattern where only a whole word counts."""


class Redactor:
    """Replaces secrets in texts and structures. Cheap where there is nothing to replace; never raises."""

    def __init__(self, secrets: Iterable[str | Secret] = ()) -> None:
        self._secrets: dict[str, tuple[_Spelling, ...]] = {}
        self._spellings: list[_Spelling] = []
        self.know(*secrets)

    def know(self, *secrets: str | Secret) -> None:
        """Replace these from now on. What was known before stays known: an older key may still come up in a log."""
        for secret in secrets:
            text = secret.reveal() if isinstance(secret, Secret) else secret
            # Lines are what is scrubbed, so a secret of several lines (a PEM key) is known by each of them.
            for line in map(str.strip, text.splitlines()):
                if len(line) >= AS_A_WORD and not line.startswith("-----"):
                    known = self._secrets.pop(line, ())
                    self._secrets[line] = known or _spellings(line)
        while len(self._secrets) > MOST:
            del self._secrets[next(iter(self._secrets))]
        every = {spelling for spellings in self._secrets.values() for spelling in spellings}
        self._spellings = sorted(every, key=lambda spelling: len(spelling[0]), reverse=True)

    def know_environment(self, variables: Iterable[tuple[str, str]]) -> None:
        """Know the values of variables whose names sound secret, and passwords in URLs of any variable."""
        secrets: list[str] = []
        for name, value in variables:
            if sounds_secret(name, value):
                secrets.append(value)
            for found in _URL_PASSWORD.finditer(value):
                password = found.group()[len(found.group(1)) : -1]
                secrets += (password, unquote(password))
        self.know(*secrets)

    def scrub(self, text: str) -> str:
        """Return `text` with every known secret, and what looks like one, replaced by `***`."""
        for spelling, word in self._spellings:
            if spelling in text:
                text = text.replace(spelling, MASK) if word is None else word.sub(MASK, text)
        if "hf_" in text or "api_org_" in text:
            text = _HUB_TOKEN.sub(MASK, text)
        if "://" in text and "@" in text:
            text = _URL_PASSWORD.sub(rf"\g<1>{MASK}@", text)
        folded = text.lower()
        if "bearer" in folded or "authorization" in folded:
            text = _AUTHORIZATION.sub(rf"\g<1>{MASK}", text)
        if "api" in folded and "key" in folded:
            text = _KEY_VALUE.sub(rf"\g<1>{MASK}", text)
        return text

    def line(self, text: str) -> str:
        """Return a line of somebody else's output fit to be shown: plain first, so that no code splits a secret."""
        return self.scrub(plain(text))

    def scrub_value(self, value: object) -> object:
        """Return `value` fit for the log: at every level texts as `line` has them, a `Secret` as `***`, others as text.

        Mappings come back as dicts, sets and lists as lists, tuples as tuples, exceptions as `Type: message`,
        enumeration members as their values; numbers, booleans and None as they are. Field names and `OWN_WORDS` stay:
        with the key `Ready` the state is still told, and the file can still be read.
        """
        return self._value(value, DEEPEST)

    def _value(self, value: object, levels: int) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return str(value) if value in OWN_WORDS else self.line(value)
        if isinstance(value, Secret):
            return MASK
        if isinstance(value, Enum):
            return self._value(value.value, levels - 1)
        if isinstance(value, PurePath):
            return self.line(str(value))
        if isinstance(value, BaseException):
            return self.line(f"{type(value).__name__}: {_text(value)}")
        if not levels:
            return "…"
        if isinstance(value, Mapping):
            return {
                self.line(key) if isinstance(key, str) and not key.isidentifier() else key: self._value(
                    item, levels - 1
                )
                for key, item in value.items()
            }
        if isinstance(value, tuple):
            return tuple(self._value(item, levels - 1) for item in value)
        if isinstance(value, (list, Set)):
            return [self._value(item, levels - 1) for item in value]
        return self.line(_text(value, repr_=True))


def sounds_secret(name: str, value: str) -> bool:
    """Whether a variable of this name holds a secret, as far as names tell."""
    named = _SECRET_NAME.search(name) is not None and _PLACE_NAME.search(name) is None
    return named and bool(value) and _SETTING.fullmatch(value) is None


def _text(value: object, *, repr_: bool = False) -> str:
    """Return `value` in words, also where its own methods raise: the log must not fail over what it shows."""
    try:
        return repr(value) if repr_ else str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _spellings(secret: str) -> tuple[_Spelling, ...]:
    """Return each way in which a secret may be written: as it is, in JSON, in Python, in a URL."""
    percent = quote(secret, safe="", errors="replace")
    texts = {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(f"{secret}'")[1:-2],
        repr(f"{secret}'\"")[1:-4],
        percent,
        re.sub("%[0-9A-F]{2}", lambda code: code.group().lower(), percent),
        quote(secret, errors="replace"),
        quote_plus(secret, errors="replace"),
    }
    if len(secret) >= ANYWHERE:
        return tuple((text, None) for text in texts)
    return tuple((text, re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.ASCII)) for text in texts)


# --- terminals ---------------------------------------------------------------------------------------------------

_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI: colours, cursor movements
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    "|\x1b[ -/]{1,8}[0-~]"  # character sets
    "|\x1b[0-OQ-WYZ\\\\`-~]"  # single orders: reset, keypad, save cursor
)
"""Whole control sequences of ECMA-48, in their 7-bit and 8-bit forms. One without an end is not taken for one:
it would hide the rest of the line."""

_CONTROL: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (
        *(code for code in range(0x20) if code not in b"\t\n"),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200E, 0x200F),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
}
"""How the others are written: C0 (tab and line feed excepted), DEL, C1, further line ends, and the marks and overrides
of the writing direction."""

_TO_WRITE = re.compile("[" + re.escape("".join(map(chr, _CONTROL))) + "\ud800-\udfff]")


def plain(text: str) -> str:
    r"""Return `text` without control sequences; other control characters are written out, as `\x1b` or `\u202e`."""
    if text.isprintable():
        return text
    text = _SEQUENCE.sub("", text)
    if _TO_WRITE.search(text) is None:
        return text
    # Surrogates stand for bytes that were no UTF-8; they could not be written anywhere.
    return text.translate(_CONTROL).encode("utf-8", "backslashreplace").decode()
