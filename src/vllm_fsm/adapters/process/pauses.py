"""How long to wait between two looks at something that should end soon."""

from collections.abc import Iterator

FIRST, LONGEST = 0.002, 0.25
"""Seconds: short while the end is likely, longer when it is not."""


def pauses(first: float = FIRST, longest: float = LONGEST) -> Iterator[float]:
    """Yield seconds for ever, each twice the one before."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, longest)
