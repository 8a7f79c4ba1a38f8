"""The page: one line for each metric, a column for each supervisor, and what follows from the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rivals.metric import METRICS, Metric, absent
from rivals.outcome import Outcome
from rivals.verdict import losses, verdict

ABSENT = "not installed here"
PAGE = """\
# Side by side

Written by `make compare`. The same job for all: keep one server running, and start it anew with what one file says.
The server is one fake engine for all of them, the one of our tests, so that only the supervisors differ.

{machine}.
{date}, {commit}. {minutes:.1f} minutes, {rounds} changes and {rounds} crashes each.

{table}

Median / worst. **Bold** is the best of its line. "cannot" is what a supervisor has no means for; behind it stands the
figure with a customary helper.

![Latencies of all supervisors, median and worst, on a logarithmic scale](comparison.svg)

## What follows

{verdict}

Where ours loses, median against median:

{losses}

## What each line is

{meanings}

All moments are of the one monotonic clock of the machine. Exec is the first millisecond of the command that the
supervisor executes, a shell that becomes the server. Before each change and crash the server has been there for more
than 1.2 s, since several supervisors start none twice a second. Latencies and PSS are measured with one supervisor at a
time; the other lines with all of them at the same time, each in a folder of its own, but for the lost changes of the
SDK loop, whose start of a container gives up on a busy machine.

## How each one is set up

{setups}

The helper is a loop of ten lines over `watchfiles.watch`, with its settings as they are. It is counted in PSS and idle
CPU. The readiness checks of the others ask whether the port answers, as is customary; ours asks whose the listener is.

## What it is not

- A verdict on these supervisors: most are made for many services of any kind, ours for one engine that it knows.
- Whole installations: an init, `s6-svscan` or `runsvdir` would start a killed supervisor again, beside what it left.
- Times of a real vLLM, which loads for minutes and takes seconds to end: here is what a supervisor adds to them.
- A quiet machine, unless the load average says so. PSS counts shared pages in parts, so that it depends on what else
  runs of the same interpreter.
{missing}"""


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table in Markdown."""
    rows = [["", *(outcome.name for outcome in outcomes)]]
    rows.append(["version", *(outcome.version or "–" for outcome in outcomes)])
    rows.append(["follows the file", *map(_follows, outcomes)])
    rows.append(["says ready by", *(ABSENT if o.missing else o.readiness or "cannot" for o in outcomes)])
    for metric in METRICS:
        best = _best(metric, outcomes)
        rows.append([metric.title, *(cell(metric, outcome, best) for outcome in outcomes)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _follows(outcome: Outcome) -> str:
    if outcome.missing:
        return ABSENT
    return f"cannot; helper: `{outcome.helper}`" if outcome.helper else "itself"


def cell(metric: Metric, outcome: Outcome, best: str | None) -> str:
    """Return what stands in one cell; `best` is the best median or word, as it is shown."""
    if outcome.missing:
        return ABSENT
    values, fact = outcome.values.get(metric.key), outcome.facts.get(metric.key)
    if values:
        number = metric.number(values)
        if metric.word:
            return f"{_word(outcome)}{metric.word.format(number)}"
        shown = f"**{number}**" if number.partition(" / ")[0] == best else number
        if note := outcome.notes.get(metric.key):
            shown += f" ({note})"
        return f"cannot; with helper {shown}" if metric.followed and outcome.helper else shown
    if fact is not None:
        return f"**{fact}**" if fact == best else fact
    return absent(metric, outcome)


def _word(outcome: Outcome) -> str:
    """What a supervisor said that has no word for ready."""
    return "" if outcome.readiness else "cannot; says RUNNING: "


def _best(metric: Metric, outcomes: Sequence[Outcome]) -> str | None:
    if any(outcome.facts.get(metric.key) == "none" for outcome in outcomes):
        return "none"
    medians = [statistics.median(o.values[metric.key]) for o in outcomes if o.values.get(metric.key)]
    return f"{min(medians):,.{metric.digits}f}" if medians and not metric.word else None


def page(outcomes: Sequence[Outcome], *, machine: str, date: str, commit: str, minutes: float, rounds: int) -> str:
    """Return the whole page; the first outcome is ours."""
    ours, *others = outcomes
    there = [other for other in others if not other.missing]
    problems = [f"- {o.name}: {o.missing}" for o in outcomes if o.missing]
    problems += [f"- {o.name}: a phase broke off: {o.facts['error']}" for o in outcomes if "error" in o.facts]
    return PAGE.format(
        machine=machine,
        date=date,
        commit=commit,
        minutes=minutes,
        rounds=rounds,
        table=table(outcomes),
        verdict="\n".join(f"- {sentence}" for sentence in verdict(ours, there)),
        losses="\n".join(f"- {sentence}" for sentence in losses(ours, there)) or "- nowhere in this run",
        meanings="\n".join(f"- **{metric.title}**: {metric.meaning}." for metric in METRICS),
        setups="\n".join(f"- **{o.name}** {o.version}: {o.how}." for o in outcomes),
        missing="\n## What was not measured\n\n" + "\n".join(problems) + "\n" if problems else "",
    )
