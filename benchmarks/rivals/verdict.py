"""Where ours wins and loses, from the numbers: nothing here is written by hand for a certain result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rivals.metric import FALSE_READY, METRICS, ORPHANS, Metric
from rivals.outcome import Outcome

FACTOR = 2.0
NOTICED = 100.0
"""Milliseconds from which a person may notice a delay."""


def losses(ours: Outcome, others: Sequence[Outcome]) -> list[str]:
    """Return a sentence for each metric in which another one's median is better than ours."""
    return [sentence for metric in METRICS if (sentence := _loss(metric, ours, others))]


def _loss(metric: Metric, ours: Outcome, others: Sequence[Outcome]) -> str:
    mine = _median(metric, ours)
    if mine is None:
        return ""
    better = []
    for other in others:
        theirs = _median(metric, other)
        if theirs is not None and round(theirs, metric.digits) < round(mine, metric.digits):
            times = f", {mine / theirs:.1f} times" if theirs > 0 else ""
            helped = " with its helper" if metric.followed and other.helper else ""
            better.append((theirs, f"{other.name}{helped} {theirs:,.{metric.digits}f} {metric.unit}".rstrip() + times))
    if not better:
        return ""
    title = metric.title.rpartition(",")[0] or metric.title
    said = f"{title}: ours {mine:,.{metric.digits}f} {metric.unit}".rstrip()
    return f"{said}; better are {'; '.join(text for _, text in sorted(better))}."


def noticeable(ours: Outcome, others: Sequence[Outcome]) -> list[str]:
    """Name each latency of ours that a person may notice and that is more than twice another one's."""
    found = []
    for metric in METRICS:
        mine = _median(metric, ours)
        if mine is None or mine * metric.milliseconds <= NOTICED:
            continue
        for other in others:
            theirs = _median(metric, other)
            if theirs is not None and mine > FACTOR * theirs:
                title = metric.title.rpartition(",")[0] or metric.title
                found.append(f"{title} against {other.name} ({mine / theirs:.1f} times)")
    return found


def clean(outcome: Outcome) -> bool:
    """Whether it left no orphan and called nothing ready that was not."""
    return outcome.facts.get(ORPHANS.key) == "none" and FALSE_READY.key not in outcome.values


def verdict(ours: Outcome, others: Sequence[Outcome]) -> list[str]:
    """Say whether what is to be reached is reached."""
    also = [other.name for other in others if clean(other)]
    if not clean(ours):
        first = "Ours left an orphan or said a false ready."
    elif also:
        first = f"Without orphans and without false ready: ours, and {', '.join(also)}."
    else:
        first = "Of all compared, ours is the only one without orphans and without false ready."
    slow = noticeable(ours, others)
    second = (
        f"It is slower by more than a factor of {FACTOR:g} in a latency above {NOTICED:g} ms: {'; '.join(slow)}."
        if slow
        else f"In no latency above {NOTICED:g} ms is it slower than another by more than a factor of {FACTOR:g}."
    )
    return [first, second]


def _median(metric: Metric, outcome: Outcome) -> float | None:
    values = outcome.values.get(metric.key)
    return statistics.median(values) if values and not metric.word else None
