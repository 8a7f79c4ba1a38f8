"""What stands in the way of a choice, and what is to be seen of the service meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

Choice = tuple[tuple[str, ...], dict[str, object]]
"""Arguments and variables."""


@dataclass(frozen=True)
class Obstacle:
    """The choice cannot be served for one of `reasons`, and `instead` is what serves; None: nothing does."""

    reasons: frozenset[str]
    instead: Choice | None = None
    passing: bool = False
    """It is tried again and again by itself."""
    fallback: bool = False
    """What serves had ended and was started again as the fallback; else it never ended."""
    sure: bool = True
    """False: what serves may be gone by now, with a controller that was replaced or an engine that could not start."""
