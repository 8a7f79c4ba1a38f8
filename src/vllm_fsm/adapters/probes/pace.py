"""How often and how long the probes ask."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    look: float = 0.03
    """Between two looks whether the port listens, before the start-up deadline."""
    late_look: float = 1.0
    """The same afterwards and while somebody else has the port, and the longest pause between two rounds of checks."""
    retry: float = 0.1
    """First pause after a check that failed; doubles while the same one fails the same way."""
    answer_limit: float = 10.0
    """For an answer without a token in it."""
    health_every: float = 5.0
    step_every: float = 60.0
    """Between two looks whether the engine steps."""
    canary_limit: float = 120.0
    """For a canary request; also the least for the token that proves the engine."""
    canary_idle: float = 300.0
    """Least time from an answered canary to the next one while nothing else moves."""
    canary_retry: float = 5.0
    """Pause within the canary's time after an attempt that was refused, cut off or answered 5xx."""
