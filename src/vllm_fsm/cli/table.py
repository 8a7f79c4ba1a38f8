"""Text for terminals of any width: named rows, tables, and colours only where somebody sees them."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Final, TextIO

from vllm_fsm.redaction import plain

NARROWEST: Final = 40
"""Columns that are always used, however narrow the terminal says it is."""
GAP: Final = "  "
LAST_COLUMN: Final = 24
"""Columns that the last column of a table must be left with to be folded; otherwise the table becomes a list."""

GREEN: Final = 32
RED: Final = 31
"""Parameters of the terminal sequence for a colour (ECMA-48, SGR)."""


def columns() -> int:
    """Return the width to write for: the terminal's, or 80 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size().columns)


def colourful(stream: TextIO) -> bool:
    """Tell whether to colour: on a terminal that can, unless NO_COLOR says no (no-color.org: set and not empty)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def colour(text: str, code: int, on: bool) -> str:
    """Return `text` in a colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if on and text else text


def fold(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    """Fold one paragraph at blanks; a word that is too long stays whole, so that it can be copied.

    What a terminal would obey is taken out of the text, but not of what stands before it.
    """
    return textwrap.wrap(
        plain(text),
        width=width,
        initial_indent=first,
        subsequent_indent=" " * len(first) if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def complaint(sentence: str) -> str:
    """Return what goes to standard error: the sentence behind our name, folded, without what a terminal would obey."""
    return "\n".join(fold(sentence, columns(), "vllm-fsm: "))


def rows(named: Sequence[tuple[str, str]], width: int, indent: int = 0) -> list[str]:
    """Return lines `name  text`, the texts folded below each other from column `indent` on, or as the names need it.

    A row without a name continues the last one.
    """
    indent = max([indent, *(len(name) + len(GAP) for name, _ in named)])
    return [line for name, text in named for line in fold(text, width, f"{name:<{indent}}")]


def entries(named: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Return names with their texts beside them, or below them where the width is not enough for that."""
    indent = max((len(name) for name, _ in named), default=0) + len(GAP)
    longest = max((len(word) for _, text in named for word in text.split()), default=0)
    if indent + max(longest, LAST_COLUMN) <= width:
        return rows(named, width)
    return [line for name, text in named for line in (name, *fold(text, width, GAP))]


def table(header: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a table of at most `width` columns where words allow it.

    The last column is folded if enough is left for it; if not, each line becomes a block of named rows.
    """
    sizes = [max(len(line[at]) for line in (header, *lines)) for at in range(len(header))]
    before = sum(sizes[:-1]) + len(GAP) * (len(sizes) - 1)
    if before + sizes[-1] > width and width - before < LAST_COLUMN:
        blocks = [rows([pair for pair in zip(header, line, strict=True) if pair[1]], width) for line in lines]
        return [line for at, block in enumerate(blocks) for line in ([""] if at else []) + block]
    shown = []
    for line in (header, *lines):
        start = GAP.join(f"{cell:<{size}}" for cell, size in zip(line[:-1], sizes[:-1], strict=True)) + GAP
        shown += fold(line[-1], width, start) if line[-1] else [start.rstrip()]
    return shown
