"""A line of the engine's output, taken apart: who wrote it, how serious, and what it says."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_DECORATION: Final = re.compile(
    r"(?:\((?P<process>[A-Za-z][\w .=:-]{0,60}?),? ?pid=(?P<pid>\d+)[^()]{0,60}\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[[^\]]{1,120}\] ?)?"
)
"""What vLLM puts before a message: `(EngineCore pid=7) ERROR 11-23 09:05:03 [core.py:133] `. Names and their order of
words differ between releases (`EngineCore_DP0`, `Worker_TP1`, `VllmWorker rank=0`); older ones have no process."""


class Line(NamedTuple):
    """One line."""

    process: str
    """Name and pid of the writer, empty where the line does not say."""
    level: str
    """Empty for what no logger wrote."""
    text: str
    """Without colours and without what the logger put before it; blanks before it are kept, those behind it not."""


def parse(line: str) -> Line:
    """Take `line` apart."""
    if "\x1b" in line:
        line = _COLOUR.sub("", line)
    found = _DECORATION.match(line)
    assert found is not None  # every part of it may be missing
    process, pid, level = found.groups()
    return Line(f"{process} {pid}" if pid else "", level or "", line[found.end() :].rstrip())
