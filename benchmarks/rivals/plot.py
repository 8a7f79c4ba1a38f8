"""The latencies as a dot plot on a logarithmic scale, written as SVG by hand: text stays text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import log10
from xml.sax.saxutils import escape

from rivals.metric import CRASH, DEAF, EXEC, READY, TERM, Metric, absent
from rivals.outcome import Outcome
from rivals.verdict import NOTICED

SHOWN = (TERM, EXEC, CRASH, READY, DEAF)
WIDTH, LEFT, RIGHT, TOP, LINE, GAP = 920, 190, 210, 84, 19, 34
LEAST, MOST = 1.0, 100_000.0
"""Milliseconds at the ends of the axis at most; it begins and ends at powers of ten."""
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"
 aria-label="Latencies of the supervisors, median and worst, logarithmic">"""
STYLE = """\
svg { font: 13px system-ui, sans-serif } .back { fill: #ffffff } text { fill: #24292f } .soft { fill: #57606a }
.grid { stroke: #d0d7de } .limit { stroke: #9a6700; stroke-dasharray: 4 3 } .limit-text { fill: #9a6700 }
.other { fill: #57606a; stroke: #57606a } .ours { fill: #0969da; stroke: #0969da } text.ours { stroke: none }
.head { font-weight: 600 } .title { font-size: 16px; font-weight: 600 } .range { stroke-width: 2; stroke-opacity: .55 }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117 } text { fill: #e6edf3 } .soft { fill: #9da7b3 } .grid { stroke: #30363d }
.limit { stroke: #d29922 } .limit-text { fill: #d29922 } .other { fill: #9da7b3; stroke: #9da7b3 }
.ours { fill: #58a6ff; stroke: #58a6ff }
}"""


class Axis:
    """Milliseconds to a place from left to right, logarithmic, between powers of ten."""

    def __init__(self, values: Sequence[float]) -> None:
        inside = [min(max(value, LEAST), MOST) for value in values] or [LEAST, MOST]
        first, last = 0, 5
        while 10 ** (first + 1) <= min(inside):
            first += 1
        while 10 ** (last - 1) >= max(inside):
            last -= 1
        self.powers = [10**power for power in range(first, max(last, first + 1) + 1)]

    def place(self, value: float) -> float:
        """Return the place of a value; what is outside stands at the end."""
        low, high = log10(self.powers[0]), log10(self.powers[-1])
        share = (log10(min(max(value, self.powers[0]), self.powers[-1])) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def plot(outcomes: Sequence[Outcome]) -> str:
    """Return the SVG; the first outcome is ours."""
    there = [outcome for outcome in outcomes if not outcome.missing]
    axis = Axis([value for outcome in there for metric in SHOWN for value in _milliseconds(metric, outcome)])
    height = TOP + len(SHOWN) * (GAP + LINE * len(there)) + 20
    parts = [
        SVG.format(width=WIDTH, height=height),
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>',
        _text(20, 26, "Latencies, median ● and worst ─, logarithmic", "title"),
        *_grid(axis, height),
    ]
    at = TOP
    for metric in SHOWN:
        at += GAP
        parts.append(_text(20, at - 10, _heading(metric), "head"))
        for outcome in there:
            parts += _line(axis, metric, outcome, at + LINE // 2, ours=outcome is outcomes[0])
            at += LINE
    return "\n".join([*parts, "</svg>", ""])


def _heading(metric: Metric) -> str:
    return metric.title.rpartition(",")[0] or metric.title


def _milliseconds(metric: Metric, outcome: Outcome) -> list[float]:
    return [value * metric.milliseconds for value in outcome.values.get(metric.key, ())]


def _grid(axis: Axis, height: int) -> list[str]:
    parts = []
    for power in axis.powers:
        x = axis.place(power)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 14}"/>')
        parts.append(_text(x, TOP - 8, say(power), "soft", "middle"))
    if axis.powers[0] < NOTICED < axis.powers[-1]:
        x = axis.place(NOTICED)
        parts.append(f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 14}"/>')
        parts.append(_text(x, TOP - 26, "a person may notice", "limit-text", "middle"))
    return parts


def _line(axis: Axis, metric: Metric, outcome: Outcome, y: float, *, ours: bool) -> list[str]:
    kind = "ours" if ours else "other"
    name = _text(LEFT - 14, y + 4, outcome.name, "ours head" if ours else "soft", "end")
    values = _milliseconds(metric, outcome)
    if not values:
        return [name, _text(WIDTH - RIGHT + 14, y + 4, absent(metric, outcome), "soft")]
    middle, worst = statistics.median(values), max(values)
    shown = say(middle) if len(values) == 1 else f"{say(middle)} / {say(worst)}"
    if metric.followed and outcome.helper:
        shown += " (helper)"
    x, end = axis.place(middle), axis.place(worst)
    return [
        name,
        f'<line class="{kind} range" x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{5 if ours else 4}"/>',
        _text(WIDTH - RIGHT + 14, y + 4, shown, "ours" if ours else "soft"),
    ]


def say(milliseconds: float) -> str:
    """Return a duration with the unit that suits it."""
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.3g} s"
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1}f} ms".replace(".0 ms", " ms")


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
