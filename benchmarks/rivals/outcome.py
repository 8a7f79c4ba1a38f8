"""What was found out about one supervisor: values to be compared, and words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """All that the page says of one supervisor."""

    name: str
    version: str = ""
    how: str = ""
    helper: str = ""
    missing: str = ""
    """Why it was not measured; empty if it was."""
    restarts: bool = True
    readiness: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)
    """By the key of a metric; latencies in milliseconds, the stop in seconds, MB of 10⁶ bytes, percents of a core."""
    facts: dict[str, str] = field(default_factory=dict)
    """By the key of a metric: what is not a number. A metric with neither a value nor a fact was not measured."""
    notes: dict[str, str] = field(default_factory=dict)
    """By the key of a metric: what stands behind its value."""
